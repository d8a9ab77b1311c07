"""The rest of a large answer over HTTP, as `agent.client.streaming` passes it on while it comes.

Used by `agent.client.http.response`, for a body and for an event. The one rule: an answer that breaks off is
`CallOutcomeUnknown`.
"""

from agent.client.http.pool import HttpPool, Response
from agent.errors import CallOutcomeUnknown


class RestOfBody:
    """As `Rest`, of a body that is nothing but the answer."""

    def __init__(self, response: Response, pool: HttpPool) -> None:
        self._response = response
        self._pool = pool

    async def more(self) -> bytes:
        """As `Rest.more`."""
        try:
            return await self._response.more()
        except OSError as exc:
            raise self._pool.failure(CallOutcomeUnknown, exc) from exc


class RestOfLine:
    """As `Rest`, of an event whose line has begun: the answer ends where the line does."""

    def __init__(self, response: Response, pool: HttpPool) -> None:
        self._body = RestOfBody(response, pool)
        self._pool = pool
        self._ended = False

    async def more(self) -> bytes:
        """As `Rest.more`."""
        if self._ended:
            return b""
        part = await self._body.more()
        if not part:
            raise CallOutcomeUnknown.about(self._pool.where, "broke off in the middle of its answer")
        ends = [at for at in (part.find(b"\n"), part.find(b"\r")) if at >= 0]
        if not ends:
            return part
        self._ended = True
        return part[: min(ends)]
