"""The ways in which a server is away: what its address says meanwhile, if anything, before it serves there again.

Each port is served in the test's own loop. The one rule: a connection of the time of its absence is never served, also
when the server is back, as one that a firewall has forgotten or a worker has taken that hangs.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import Enum, auto

from tests.integration.servers.hosting import Script, Seen, http

Answer = Callable[[Seen], Awaitable[tuple[bytes | None, bool]]]

# So many connections wait to be accepted, and one more.
_BACKLOG = 1
_FILLERS = _BACKLOG + 1


class Absence(Enum):
    """What the address does while its server is away."""

    REFUSES = auto()
    FULL = auto()  # New connections are not accepted: their packets are dropped.
    SILENT = auto()  # They are, and nothing is ever said on them.
    PAGE_404 = auto()
    PAGE_502 = auto()
    PAGE_503 = auto()
    JSON_404 = auto()
    JSON_503 = auto()
    PAGE_200 = auto()
    PAUSE_503 = auto()  # As long as it may, which a crashed server is not away.
    ERROR_502 = auto()  # As gateways say it: an error of JSON-RPC.
    ERROR_200 = auto()


_HTML = b"<html><body>no server available</body></html>"
_JSON = b'{"message": "no server available"}'
_ERROR = b'{"jsonrpc": "2.0", "id": null, "error": {"code": -32000, "message": "no server available"}}'
# What reverse proxies say for a server that they do not reach, or do not know of any more.
_PAGES = {
    Absence.PAGE_404: http(404, _HTML, "text/html"),
    Absence.PAGE_502: http(502, _HTML, "text/html"),
    Absence.PAGE_503: http(503, _HTML, "text/html"),
    Absence.JSON_404: http(404, _JSON),
    Absence.JSON_503: http(503, _JSON),
    Absence.PAGE_200: http(200, _HTML, "text/html"),
    Absence.PAUSE_503: http(503, _HTML, "text/html", **{"Retry-After": "3600"}),
    Absence.ERROR_502: http(502, _ERROR),
    Absence.ERROR_200: http(200, _ERROR),
}


class ServedPort:
    """See the module. `context`: where it speaks TLS."""

    def __init__(self, answer: Answer, port: int, group: asyncio.TaskGroup, context: ssl.SSLContext | None) -> None:
        self.port = port
        self._answer, self._script = answer, Script(answer)
        self._group = group
        self._context = context
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._is_away = False
        self._silenced: list[socket.socket] = []  # Connections that nothing is said on, and those that fill the queue.

    def __repr__(self) -> str:
        return f"<ServedPort {self.port}{' away' if self._is_away else ''}>"

    def open(self) -> None:
        """Serve, for the first time or again."""
        self._is_away, self._script.answer = False, self._answer
        self._listen()

    def leave(self, absence: Absence) -> None:
        """The server goes away: its connections end, and the address does this until `open` or `leave` is called."""
        self._script.close_connections()
        page = _PAGES.get(absence)
        self._is_away = page is None
        if absence is Absence.REFUSES:
            self._stop_listening()
            return
        self._listen()
        if absence is Absence.FULL:
            self._stop_accepting()
            for _ in range(_FILLERS):
                self._fill()

        async def say(_: Seen) -> tuple[bytes | None, bool]:
            return page, False

        self._script.answer = say

    def close(self) -> None:
        """End, with all connections."""
        self._stop_listening()
        self._script.close_connections()
        for one in self._silenced:
            one.close()

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.socket()
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.setblocking(False)
            self._listener.bind(("127.0.0.1", self.port))
            self._listener.listen(_BACKLOG)
        if self._accepting is None:
            with contextlib.suppress(BlockingIOError):
                while True:  # What came while none was accepted.
                    self._silenced.append(self._listener.accept()[0])
            self._accepting = self._group.create_task(self._accept(self._listener), name=f"port {self.port}")

    def _fill(self) -> None:
        """Take a place in the queue, unless a client was sooner: then this one waits for a place as others do."""
        filler = socket.socket()
        filler.setblocking(False)
        self._silenced.append(filler)
        filler.connect_ex(("127.0.0.1", self.port))

    def _stop_accepting(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            self._accepting = None

    def _stop_listening(self) -> None:
        self._stop_accepting()
        if self._listener is not None:
            # Its task, which ends later, would do so for whatever has its number by then.
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, address = await loop.sock_accept(listener)
            fills = any(one.fileno() >= 0 and one.getsockname() == address for one in self._silenced)
            if self._is_away or fills:
                self._silenced.append(connection)
            else:
                self._group.create_task(self._serve(connection), name=f"connection of port {self.port}")

    async def _serve(self, connection: socket.socket) -> None:
        reader = asyncio.StreamReader()

        def protocol() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(reader, self._script.serve)

        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().connect_accepted_socket(protocol, connection, ssl=self._context)


@asynccontextmanager
async def served_ports(
    answer: Answer, ports: dict[str, int], contexts: dict[str, ssl.SSLContext]
) -> AsyncIterator[dict[str, ServedPort]]:
    """Serve these ports, by name."""
    async with asyncio.TaskGroup() as group:
        found = {name: ServedPort(answer, port, group, contexts.get(name)) for name, port in ports.items()}
        try:
            for one in found.values():
                one.open()
            yield found
        finally:
            for one in found.values():
                one.close()
