"""The heads of requests that the fast path serves, read by aiohttp's parser once and remembered by their bytes.

A client's requests have one head, but for the length of their bodies, so most of them are read by a look into a table.
Called by `agent.server.fast_path.connection`. The one rule: a head is served only if aiohttp's parser takes it, and
finds in it nothing that is not looked for here; with every other one, its connection goes to aiohttp.
"""

import asyncio
import re
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser, RawRequestMessage
from aiohttp.http_writer import HttpVersion11
from aiohttp.typedefs import Handler

from agent.authority.caller import Caller
from agent.client.http import same_head
from agent.identity.association import PROOF_HEADER

# A few clients send a few heads; the bounds keep hostile ones from filling memory.
HEADS_MAX: Final = 512
HEAD_BYTES_MAX: Final = 4096
_READ_BYTES: Final = 1 << 16  # Of the parser, which gets no body here.
_LENGTH: Final = re.compile(rb"\r\nContent-Length: *([0-9]{1,9})\r\n", re.IGNORECASE)
# As most clients write it: looking for that from there on takes a tenth of the time. -1 is the beginning.
_LENGTH_LINE: Final = b"\r\nContent-Length: "
# As nodes write it; what is written otherwise stays in the head that is remembered.
_PROOF_LINE: Final = b"\r\nMesh-Proof: "
_PROOF: Final = re.compile(rb"\r\nMesh-Proof: ([0-9A-Za-z._-]{1,256})\r\n")
_KEEP_ALIVE: Final = "keep-alive"
# What changes how a body is read, or what the connection is for. A repeated length is refused by the parser.
_UNUSUAL: Final = ("Transfer-Encoding", "Content-Encoding", "Upgrade", "Expect", "Trailer")


@dataclass(slots=True, eq=False)
class Head:
    """A request's head but for its length. `by_name`: one value of each header, by names in lower case.

    `same`: by which a connection knows it again. The others are verdicts that depend on it alone, noted by those who
    found them; None before. `passed`: its caller while the tokens are these, None where each request is judged anew
    (`agent.rest.security`, whose verdict but for a proof is `unproven`); `serve`: what serves it at its endpoint, for
    that caller, and `start` without a task, where it may be a call; `route`: where it leads, which aiohttp has found.
    `speaks_json`: see `agent.server.request`; `param_headers`: see `agent.dispatch.param_headers.received_headers`.
    """

    message: RawRequestMessage
    by_name: dict[str, str]
    same: same_head.SameHead | None = None
    passed: tuple[object, Caller | None] | None = None
    unproven: tuple[Any, Caller] | None = None
    route: Any = None
    serve: Handler | None = None
    start: Any = None  # An `agent.server.fast_path.connection.Start`, which needs heads itself.
    speaks_json: bool | None = None
    param_headers: dict[str, str] | None = None


Beginning: TypeAlias = same_head.Beginning[Head]


class Judged(NamedTuple):
    """What was found of one request before it was served, as its proof counts once (`agent.rest.security`).

    `verdict`: whether it may pass; `proof`: what its answer shows.
    """

    verdict: Any
    caller: Caller
    proof: str | None


class Heads:
    """Those of one node. `path`: that of the requests that the fast path serves, and of all below it."""

    def __init__(self, path: str) -> None:
        self._starts = tuple(f"POST {path}{end}".encode() for end in (" ", "/", "?"))
        self._known: dict[bytes, Head | None] = {}

    def __repr__(self) -> str:
        return f"<Heads {len(self._known)}>"

    def read(self, data: bytes) -> Beginning | None:
        """What `data` begins with; None for anything but a whole head that is served here."""
        if not data.startswith(self._starts):
            return None
        head_bytes = data.find(b"\r\n\r\n", 0, HEAD_BYTES_MAX) + 4
        length = _LENGTH.search(data, data.find(_LENGTH_LINE, 0, head_bytes), head_bytes)
        if length is None:  # Also where the head has not ended.
            return None
        start, end = length.span(1)
        key = data[:start] + data[end:head_bytes]
        proof = _PROOF.search(key) if _PROOF_LINE in key else None
        if proof is not None:
            key = key[: proof.start(1)] + b"\0" + key[proof.end(1) :]  # No head that is served has a zero.
        try:
            head = self._known[key]
        except KeyError:
            if len(self._known) >= HEADS_MAX:
                self._known.clear()
            head = self._known[key] = self._parsed(data[:head_bytes], length[1].decode())
        # As `Beginning` makes it, without a call in between.
        shown = None if proof is None else proof[1].decode()
        return None if head is None else tuple.__new__(same_head.Beginning, (head, head_bytes, int(length[1]), shown))

    def _parsed(self, head: bytes, length: str) -> Head | None:
        loop = asyncio.get_running_loop()
        parser = HttpRequestParser(BaseProtocol(loop), loop, _READ_BYTES, auto_decompress=False)
        try:
            messages, upgraded, rest = parser.feed_data(head)
        except HttpProcessingError:
            return None
        if len(messages) != 1 or upgraded or rest:
            return None
        message = messages[0][0]
        # The beginning of the bytes has said the method and the path.
        served = (
            message.version == HttpVersion11
            and not (message.should_close or message.chunked or message.upgrade or message.compression)
            and message.headers.getall("Content-Length", ()) == [length]
            and message.headers.get("Connection", _KEEP_ALIVE).lower() == _KEEP_ALIVE
            and not any(name in message.headers for name in _UNUSUAL)
            and len(message.headers.getall(PROOF_HEADER, ())) < 2  # noqa: PLR2004 - more are ambiguous
        )
        by_name = {name.lower(): value for name, value in message.headers.items()}
        # Not near the bound: every process of a node has to read each that another one serves.
        same = same_head.same_head(head) if len(head) + same_head.OWN_BYTES_MAX <= HEAD_BYTES_MAX else None
        return Head(message, by_name, same) if served else None
