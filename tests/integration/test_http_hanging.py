"""The HTTP client and a server that leaves its first requests unanswered, and then goes on, by script.

Knocks are GETs. The one rule: a request of the time when it hung is answered late or never, as the test says.
"""

import asyncio

from agent.client.connect import open_client
from agent.model import Era, HttpTarget
from tests.integration.servers.hosting import Seen, discovered, http, initialized, rpc_error, scripted
from tests.waiting import eventually

# The newer era is asked for so long.
CONNECT_TIMEOUT_S = 0.5


class Hanging:
    """It hangs until it has been knocked at and asked for a session. `is_modern`: it speaks both eras."""

    def __init__(self, *, is_modern: bool = False) -> None:
        self.is_modern = is_modern
        self.goes_on = asyncio.Event()
        self.late = asyncio.Event()  # Requests of before are answered.
        self.over = asyncio.Event()  # The test is: nothing hangs any more.
        self.sessions: list[str] = []
        self.deleted: list[str] = []
        self.knocks = 0

    async def answer(self, request: Seen) -> tuple[bytes | None, bool]:
        hangs, method = not self.goes_on.is_set(), request.body.get("method")
        match request.method, method:
            case "GET", _:
                self.knocks += 1
                if hangs and self.knocks > 1 and self.sessions:
                    self.goes_on.set()
                elif hangs:
                    await self.over.wait()
                return http(405), True
            case "DELETE", _:
                self.deleted.append(request.headers["mcp-session-id"])
                return http(200), True
            case _, "initialize":
                self.sessions.append(session := f"session-{len(self.sessions)}")
                if hangs:
                    await self.late.wait()
                return initialized(request, mcp_session_id=session), True
            case _, "server/discover":
                if hangs:
                    await self.over.wait()
                return discovered(request) if self.is_modern else rpc_error(request, 400, -32600, "No session"), True
        return http(202), True


async def test_a_session_that_a_hung_server_opens_too_late_is_ended() -> None:
    server = Hanging()
    async with scripted(server.answer) as script:
        async with open_client(HttpTarget(script.url), connect_timeout_s=CONNECT_TIMEOUT_S) as client:
            assert (client.server_info.era, server.sessions) == (Era.LEGACY, ["session-0", "session-1"])
            server.late.set()

            async def is_ended() -> bool:
                return server.deleted == ["session-0"]

            await eventually(is_ended, 5.0)
        assert server.deleted == ["session-0", "session-1"]
        server.over.set()


async def test_a_server_of_both_eras_that_hung_is_linked_by_the_newer_one_all_the_same() -> None:
    server = Hanging(is_modern=True)
    async with scripted(server.answer) as script:
        async with open_client(HttpTarget(script.url), connect_timeout_s=CONNECT_TIMEOUT_S) as client:
            assert client.server_info.era is Era.MODERN
        assert "session-1" in server.deleted
        server.late.set()
        server.over.set()
