"""Failed attempts that have burdened no one, and those that have: what a spent retry budget lets go to another replica.

The failures are those of real clients, and the decision is that of dispatch.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from agent.client.connect import McpClient, open_client
from agent.client.protocol import Request
from agent.dispatch.retry import BUDGET_RESERVE, Budget, Step, next_step
from agent.errors import CallNotSent, MeshError
from agent.model import HttpTarget, HttpTransport, Sessions
from tests.integration.servers.client_scripts import CALL, Answer, legacy, modern
from tests.integration.servers.hosting import Script, Seen, http, rpc_result, scripted
from tests.integration.servers.sse_hosting import OldServer, old_server
from tests.ports import free_port
from tests.waiting import UNREPAIRED_S


def step_after(failure: MeshError) -> Step:
    """Where the budget is spent, and nothing else is in the way."""
    budget = Budget()
    for _ in range(BUDGET_RESERVE):
        budget = budget.repeated(5.0)
    return next_step(failure, repeatable=True, attempts=1, remaining_s=1.0, budget=budget, now_s=5.0)


async def failure_of(client: McpClient) -> CallNotSent:
    with pytest.raises(CallNotSent) as failed:
        await client.request(Request.within("tools/call", CALL, timeout_s=5))
    return failed.value


def answered(request: Seen) -> bytes:
    return rpc_result(request, {"content": []})


@asynccontextmanager
async def opened(script: Script, sessions: Sessions = Sessions.AUTO) -> AsyncIterator[McpClient]:
    async with asyncio.timeout(UNREPAIRED_S), open_client(HttpTarget(script.url), sessions=sessions) as client:
        yield client


@asynccontextmanager
async def closing_at_once(port: int) -> AsyncIterator[None]:
    """A proxy in the server's place, whose own way to it is gone: it closes each connection as soon as it has it."""
    listener = socket.create_server(("127.0.0.1", port))
    listener.setblocking(False)
    loop = asyncio.get_running_loop()

    def close_one() -> None:
        listener.accept()[0].close()

    loop.add_reader(listener, close_one)
    try:
        yield
    finally:
        loop.remove_reader(listener)
        listener.close()


IN_EITHER_WAY = pytest.mark.parametrize(
    ("answer", "sessions"),
    [
        (modern(answered), Sessions.AUTO),
        (legacy(answered, Mcp_Session_Id="s"), Sessions.AUTO),
        (legacy(answered, Mcp_Session_Id="s"), Sessions.OWN),
    ],
    ids=["stateless", "in a session", "in a session of its own"],
)


@IN_EITHER_WAY
async def test_a_read_by_a_proxy_that_closes_every_connection_at_once_goes_elsewhere_without_a_budget(
    answer: Answer, sessions: Sessions
) -> None:
    port = free_port()
    async with scripted(answer, port=port) as script, opened(script, sessions) as client:
        script.stop()
        async with closing_at_once(port):
            failure = await failure_of(client)
    assert "closes every connection at once" in str(failure)
    assert step_after(failure) is Step.AGAIN


@IN_EITHER_WAY
async def test_a_call_to_a_port_that_refuses_connections_goes_elsewhere_without_a_budget(
    answer: Answer, sessions: Sessions
) -> None:
    async with scripted(answer) as script, opened(script, sessions) as client:
        script.stop()
        failure = await failure_of(client)
    assert "refuses the connection" in str(failure)
    assert step_after(failure) is Step.AGAIN


@pytest.mark.parametrize("status", [429, 503])
async def test_a_server_that_refuses_another_session_was_burdened(status: int) -> None:
    opens = legacy(answered, Mcp_Session_Id="s")
    is_open = False

    async def answer(request: Seen) -> tuple[bytes | None, bool]:
        is_another = is_open and request.body.get("method") == "initialize"
        return (http(status), True) if is_another else await opens(request)

    async with scripted(answer) as script, opened(script, Sessions.OWN) as client:
        is_open = True
        failure = await failure_of(client)
    assert str(status) in str(failure)
    assert step_after(failure) is Step.SPENT


async def test_a_server_that_goes_after_it_has_opened_a_session_was_burdened() -> None:
    """The word that the session is in use goes over a connection of its own, which is refused."""
    opens = legacy(answered, Mcp_Session_Id="s")
    is_open = False

    async def answer(request: Seen) -> tuple[bytes | None, bool]:
        data, keep = await opens(request)
        if is_open and request.body.get("method") == "initialize":
            assert script.server is not None
            script.server.close()
            return data.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1) if data else None, False
        return data, keep

    async with scripted(answer) as script, opened(script, Sessions.OWN) as client:
        is_open = True
        script.close_connections()
        failure = await failure_of(client)
    assert "refuses the connection" in str(failure)
    assert step_after(failure) is Step.SPENT


async def test_a_server_that_forgot_the_session_and_goes_was_burdened() -> None:
    is_open = False

    async def answer(request: Seen) -> tuple[bytes | None, bool]:
        if is_open and request.method == "POST":
            assert script.server is not None
            script.server.close()
            return http(404, Connection="close"), False
        return await legacy(answered, Mcp_Session_Id="s")(request)

    async with scripted(answer) as script, opened(script) as client:
        is_open = True
        failure = await failure_of(client)
    assert "forgot our session" in str(failure)
    assert step_after(failure) is Step.SPENT


async def test_a_server_of_http_sse_that_forgot_the_session_was_burdened() -> None:
    async with (
        old_server(OldServer(forgets_calls=True)) as server,
        open_client(HttpTarget(server.url, transport=HttpTransport.SSE)) as client,
    ):
        failure = await failure_of(client)
    assert step_after(failure) is Step.SPENT


async def test_one_whose_port_refuses_connections_is_waited_for_and_was_not_burdened() -> None:
    async with AsyncExitStack() as stack:
        async with old_server(OldServer()) as server:
            client = await stack.enter_async_context(open_client(HttpTarget(server.url, transport=HttpTransport.SSE)))
        failure = await failure_of(client)
    assert "refuses the connection" in str(failure)
    assert step_after(failure) is Step.AGAIN
