"""What goes out: a request's bytes, and what its session has of its own on the way to a server.

Used by `agent.client.http.pool` and the clients on it. The one rule: a body knows whether its request was handed to the
socket, so that none is sent twice that may have been executed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from agent.client.http.cookies import CookieJar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent.client.http.received import Response

# Means nothing, and tells whether a server answers. A proxy may answer a GET in its place; this gets through to it. It
# is no JSON, and names a session that there is not: servers that look at either first begin no session and no program.
KNOCK: Final = b"knock"
KNOCK_HEADERS: Final[Mapping[str, str]] = {
    "Accept": "application/json, text/event-stream",
    "Mcp-Session-Id": KNOCK.decode(),
}


class RequestBody:
    """A request's bytes, which know whether their request was handed to the socket. One per request.

    They are released then: a stream that is open for hours need not hold its request. A `harmless` one only probes the
    server or reads a list: it may take an idle connection that the server may be closing at this moment, and is sent
    again over a new one then. `begun`: waits for the answer, where the request has gone out already, once.
    """

    __slots__ = ("begun", "data", "harmless", "sent")

    def __init__(self, data: bytes, *, harmless: bool = False) -> None:
        self.data = data
        self.harmless = harmless
        self.sent = False
        self.begun: Callable[[], Awaitable[Response]] | None = None

    @property
    def went_out(self) -> bool:
        """Whether it was sent at all, also where it is certain by now that it was not executed."""
        return not self.data

    def __repr__(self) -> str:
        return f"<RequestBody {len(self.data)} bytes{' sent' if self.sent else ''}>"


@dataclass(slots=True)
class Route:
    """What a session has of its own on the way to its server: its cookies, and another path where it has one."""

    target: str | None = None
    cookies: CookieJar = field(default_factory=CookieJar)
