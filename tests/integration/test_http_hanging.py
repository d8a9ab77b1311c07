"""The HTTP client and a server that leaves its first requests unanswered, and then goes on, by script.

The one rule: a request of the time when it hung is answered late or never, as the test says.
"""

import asyncio
from contextlib import AsyncExitStack

import pytest

from agent.client.connect import enter_client, open_client
from agent.client.event import Event, within
from agent.client.opening import Opening
from agent.client.quick_servers import QUICK_S, QuickServers
from agent.model import Era, HttpTarget
from tests.integration.servers.hosting import Seen, discovered, http, initialized, rpc_error, scripted
from tests.waiting import eventually, one_pass

# The newer era is asked for so long. A busy machine takes some tenths of a second for an answer.
CONNECT_TIMEOUT_S = 1.0


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
        if request.is_knock:
            self.knocks += 1
            if hangs and self.knocks > 1 and self.sessions:
                self.goes_on.set()
            elif hangs:
                await self.over.wait()
            return http(400), True
        match request.method, method:
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


class BehindProxy:
    """A proxy refuses any GET itself. It hangs until it has been asked for a session, and so often in all.

    `refuses_knocks`: the proxy does so, as it reads JSON.
    """

    def __init__(self, *, is_modern: bool) -> None:
        self.is_modern = is_modern
        self.hangs = self.refuses_knocks = False
        self.in_vain_max = 3
        self.in_vain: list[str] = []
        self.over = asyncio.Event()
        self.takes_s = 0.0
        self.methods: list[str] = []
        self.sessions = 0
        self.deleted = 0

    async def answer(self, request: Seen) -> tuple[bytes | None, bool]:
        method = "knock" if request.is_knock else request.body.get("method", request.method)
        if method == "GET" or (self.refuses_knocks and request.is_knock):
            return http(405), True
        if method == "DELETE":
            self.deleted += 1
            return http(200), True
        assert method is not None
        self.methods.append(method)
        if self.hangs:
            self.in_vain.append(method)
            if "initialize" not in self.in_vain or len(self.in_vain) <= self.in_vain_max:
                await self.over.wait()
                return None, False
            self.hangs = False
        if method == "knock":
            return http(400), True
        if method == "initialize":
            self.sessions += 1
            return initialized(request, mcp_session_id=f"session-{self.sessions}"), True
        if method == "server/discover":
            await within(Event(), self.takes_s)
            return discovered(request) if self.is_modern else rpc_error(request, 400, -32600, "No session"), True
        return http(202), True


@pytest.mark.parametrize("is_modern", [True, False], ids=["modern", "sessions"])
async def test_a_server_that_was_never_linked_is_found_when_it_goes_on_though_a_proxy_answers_gets(
    *, is_modern: bool
) -> None:
    server = BehindProxy(is_modern=is_modern)
    server.hangs = True
    async with scripted(server.answer) as script:
        target, opening = HttpTarget(script.url), Opening(connect_timeout_s=CONNECT_TIMEOUT_S)
        async with AsyncExitStack() as stack, asyncio.timeout(20):
            client = await enter_client(stack, target, opening)
            assert client.server_info.era is (Era.MODERN if is_modern else Era.LEGACY)
        assert "initialize" in server.in_vain
        assert server.sessions == server.deleted == 1
        server.over.set()


@pytest.mark.parametrize("is_modern", [True, False], ids=["modern", "sessions"])
async def test_a_server_that_was_quick_is_found_when_it_goes_on_though_a_proxy_answers_knocks(
    *, is_modern: bool
) -> None:
    server = BehindProxy(is_modern=is_modern)
    server.refuses_knocks = True
    async with scripted(server.answer) as script:
        target, opening = HttpTarget(script.url), Opening(connect_timeout_s=CONNECT_TIMEOUT_S)
        async with AsyncExitStack() as stack:
            await enter_client(stack, target, opening)
        server.hangs, before = True, server.sessions
        async with AsyncExitStack() as stack, asyncio.timeout(20):
            client = await enter_client(stack, target, opening)
            assert client.server_info.era is (Era.MODERN if is_modern else Era.LEGACY)
        assert "initialize" in server.in_vain
        assert server.sessions == server.deleted == before + 1
        server.over.set()


async def test_one_that_answers_slowly_is_not_asked_again_and_again_as_it_may_start_a_program_each_time() -> None:
    server = BehindProxy(is_modern=False)
    server.takes_s, server.refuses_knocks = 1.1 * QUICK_S, True
    async with scripted(server.answer) as script:
        opening = Opening(connect_timeout_s=3 * QUICK_S)
        async with AsyncExitStack() as stack:
            await enter_client(stack, HttpTarget(script.url), opening)
        assert opening.quick.took_s(script.url) is None
        server.hangs, server.in_vain_max = True, 1_000
        server.methods.clear()
        with pytest.raises(TimeoutError):
            async with AsyncExitStack() as stack, asyncio.timeout(6):
                await enter_client(stack, HttpTarget(script.url), opening)
        # The first question, anew as the proxy answers, and as a knock that the proxy may pass on.
        assert server.methods.count("server/discover") <= 3
        assert server.methods.count("initialize") == 1
        server.over.set()


async def test_a_dial_that_is_given_up_at_any_moment_leaves_no_session_behind() -> None:
    server = Hanging()
    server.goes_on.set()
    async with scripted(server.answer) as script:
        target, quick = HttpTarget(script.url), QuickServers()

        async def dial() -> None:
            async with AsyncExitStack() as stack:
                await enter_client(stack, target, Opening(quick=quick))

        def is_told(before: int) -> bool:
            return any(seen.body.get("method") == "notifications/initialized" for seen in script.seen[before:])

        for passes in range(40):
            before = len(script.seen)
            dialling = asyncio.ensure_future(dial())
            while not is_told(before):  # So our side knows of the session.
                await one_pass()
            for _ in range(passes):
                await one_pass()
            dialling.cancel()
            await asyncio.wait([dialling])
            assert server.deleted == server.sessions, passes
