"""Whole answers as bytes: the head that aiohttp would write, composed from parts that most answers have in common.

Called by `agent.server.fast_path.connection` for each answer. The one rule: what has more than the
usual headers is left to aiohttp.
"""

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, TypeAlias

from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time

from agent.identity.association import PROOF_HEADER

# The header lines that the answer to a request gets from those who prepare answers, each with its line end; None where
# they have to be called. Of a request that passed by its head, and is all that is usual, None is given.
CommonLines: TypeAlias = Callable[[web.Request | None], str | None]
# Of status and media type: an endpoint has a dozen.
_REMEMBERED_MAX: Final = 64
_EMPTY_BY_DEFINITION: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


class Answers:
    """Composes the answers of one node."""

    def __init__(self, common: CommonLines) -> None:
        self._common = common
        self._beginnings: dict[tuple[int, str], bytes] = {}
        self._second, self._lines, self._end = 0, "", b""

    def __repr__(self) -> str:
        return f"<Answers {len(self._beginnings)} kinds>"

    def whole(self, request: web.Request, response: web.StreamResponse) -> bytes | None:
        """Head and body of an answer; None for one that aiohttp has to write, or has begun to."""
        if type(response) is not web.Response or response.prepared or response.keep_alive is False:
            return None
        body, headers, status = response.body, response.headers, response.status
        if not isinstance(body, bytes | None) or len(headers) != 1 or status in _EMPTY_BY_DEFINITION:
            return None
        return self.composed(request, status, headers.get("Content-Type", ""), body or b"", reason=response.reason)

    def composed(
        self,
        request: web.Request | None,
        status: int,
        media_type: str,
        body: bytes,
        *,
        reason: str = "OK",
        proof: str | None = None,
    ) -> bytes | None:
        """Head and body of an answer that is nothing but that; None where aiohttp has to write it.

        `proof`: of this node, where `request` is None.
        """
        common = self._common(request)
        if common is None:
            return None
        beginning = self._beginnings.get((status, media_type)) or self._beginning(status, media_type, reason)
        second = int(time.time())
        if second != self._second or common is not self._lines:  # Most have the same lines, for a second.
            self._second, self._lines = second, common
            self._end = f"\r\n{common}Date: {rfc822_formatted_time()}\r\n".encode()
        # A proof stands last, so that nodes know the rest again (`agent.client.http.same_head`).
        shown = b"" if proof is None else f"{PROOF_HEADER}: {proof}\r\n".encode()
        return b"%b%d%b%b\r\n" % (beginning, len(body), self._end, shown) + body

    def _beginning(self, status: int, media_type: str, reason: str) -> bytes:
        if len(self._beginnings) >= _REMEMBERED_MAX:
            self._beginnings.clear()
        text = f"HTTP/1.1 {status} {reason}\r\nContent-Type: {media_type}\r\nContent-Length: ".encode()
        self._beginnings[status, media_type] = text
        return text
