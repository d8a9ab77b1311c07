"""How a client takes up the stream of a call again whose connection broke: by GET with `Last-Event-ID`.

Sessions of 2025-11-25 alone, whose specification has streams begin with an event that has an ID and no data (SEP-1699);
earlier clients cannot read one. The ID names the call, so a node that does not know of it, after a restart or beside
the one that died, still answers that request: its outcome is unknown. Without an answer most clients would wait until
their own time limit. Used by `agent.server.sessions.http`. The one rule: a request is never executed by being taken up.
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Final

import orjson

from agent.client.streaming import ResultStream
from agent.errors import OUTCOME_UNKNOWN, MCPError
from agent.lossless_json.raw import Bytes
from agent.server.response import Answer

# The first version whose clients read such a beginning.
VERSION: Final = "2025-11-25"
LAST_EVENT_HEADER: Final = "Last-Event-ID"
# Clients try twice, after this time each: long enough for a node that starts anew.
RETRY_AFTER_S: Final = 3.0
# In a header line of the client. What is longer belongs to a request ID that no client makes.
EVENT_ID_LEN_MAX: Final = 1_024
_PREFIX: Final = "call-"


@dataclass(frozen=True, slots=True)
class NamedCall:
    """A request of a session, as an event ID names it."""

    request_id: str | int
    method: str


def begins_with(version: str, request_id: str | int, method: str) -> bytes:
    """What the stream of a call begins with in a session of this version; empty where it cannot be taken up."""
    if version != VERSION:
        return b""
    event_id = _PREFIX + base64.urlsafe_b64encode(orjson.dumps([request_id, method])).decode().rstrip("=")
    if len(event_id) > EVENT_ID_LEN_MAX:
        return b""
    return f"id: {event_id}\r\nretry: {round(RETRY_AFTER_S * 1000)}\r\ndata: \r\n\r\n".encode()


def named_call(event_id: str | None) -> NamedCall | None:
    """The call that a `Last-Event-ID` names; None for any other, which is no event of a call."""
    if event_id is None or not event_id.startswith(_PREFIX) or len(event_id) > EVENT_ID_LEN_MAX:
        return None
    text = event_id.removeprefix(_PREFIX)
    try:
        named = orjson.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        return None
    match named:
        case [(str() | int()) as request_id, str() as method] if not isinstance(request_id, bool):
            return NamedCall(request_id, method)
        case _:
            return None


def lost(why: str) -> MCPError:
    """For a call whose answer cannot come any more: nothing tells whether it was executed."""
    data = {"outcome": "unknown", "timed_out": False, "replica": None, "bytes_sent": True}
    return MCPError(OUTCOME_UNKNOWN, f"{why}; the call may have been executed", data)


class CallStream:
    """The way back to the client of one call: the connection that it came with, or the one that took it up since.

    `is_lost`: the call ends before its outcome is known, though its client has not cancelled it.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.is_lost = False
        self._sink: ResultStream | None = None

    def moves_to(self, answer: Answer) -> bool:
        """Answer on this connection from now on. False: too late, as a part of the result has gone out."""
        if self._sink is not None:
            return False
        self.answer = answer
        return True

    async def tell(self, message: bytes) -> None:
        """As `Answer.tell`."""
        await self.answer.tell(message)

    def sink(self) -> ResultStream:
        """As `Answer.sink`, of the connection that there is when the result begins."""
        return ResultStream(self._begin, self._part, self._end, {})

    async def _begin(self) -> bool:
        self._sink = self.answer.sink({})
        return await self._sink.begin()

    async def _part(self, part: Bytes) -> None:
        assert self._sink is not None, "it has begun"
        await self._sink.part(part)

    async def _end(self) -> None:
        assert self._sink is not None, "it has begun"
        await self._sink.end()
