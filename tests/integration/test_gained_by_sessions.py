"""What a session with a server gained belongs to its client: over one node and over two, and to no other client."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from fastmcp import Context, FastMCP

from agent.links import lifecycle, offer_keeper
from agent.model import Era, HttpTarget, Json, ServerScope, ServerSpec, Sessions
from agent.server.sessions import upstream
from tests.integration.servers.clock_server import clock_server
from tests.integration.servers.gaining_server import URL_REQUIRED, Gaining
from tests.integration.servers.hops import front_before, front_of
from tests.integration.servers.hosting import Front, http_app, serving
from tests.integration.servers.nodes import RunningNode, client, running_node, served
from tests.integration.servers.raw_session import RawSession, call, messages, raw_session
from tests.waiting import UNREPAIRED_S

VERSION = "2025-11-25"


@pytest.fixture(autouse=True)
def no_slow_moment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nodes wait for what they read as long as that takes: of 2 s, a busy machine took 1.4."""
    for module in (offer_keeper, lifecycle):  # `tests/unit/links/test_link_lists.py` keeps the time itself.
        monkeypatch.setattr(module, "CHANGE_WAIT_S", UNREPAIRED_S)
    monkeypatch.setattr(upstream, "RECALL_TIMEOUT_S", UNREPAIRED_S)


@asynccontextmanager
async def serving_gaining(
    gaining: Gaining | None = None, sessions: Sessions = Sessions.AUTO
) -> AsyncIterator[ServerSpec]:
    """The server, as a node is to have it."""
    app = (gaining or Gaining()).server().streamable_http_app(host="127.0.0.1")
    async with app.router.lifespan_context(app), serving(Front(app, refuse_modern=400)) as base:
        yield ServerSpec("vault", HttpTarget(f"{base}/mcp"), ServerScope.SERVICE, sessions=sessions)


@asynccontextmanager
async def scene(
    folder: Path, hops: int, gaining: Gaining | None = None, sessions: Sessions = Sessions.AUTO
) -> AsyncIterator[RunningNode]:
    """The node that clients talk to."""
    async with serving_gaining(gaining, sessions) as spec, front_of(folder, spec, hops=hops) as node:
        yield node


async def called(session: RawSession, tool: str) -> tuple[Json, list[str]]:
    """The answer to a call, and the methods of what came before it."""
    async with session.post(call(f"vault__{tool}")) as response:
        *before, answer = [message async for message in messages(response)]
    return answer, [message["method"] for message in before]


async def text(session: RawSession, tool: str) -> str:
    answer, _ = await called(session, tool)
    assert "result" in answer, answer
    return str(answer["result"]["content"][0]["text"])


async def tools(session: RawSession) -> set[str]:
    listed = (await session.request("tools/list", {}))["result"]["tools"]
    return {tool["name"].removeprefix("vault__") for tool in listed if tool["name"].startswith("vault__")}


ALL = {"unlock", "whoami", "touch", "pay"}


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_tool_that_a_session_gained_is_listed_and_called_there_and_nowhere_else(
    hops: int, tmp_path: Path
) -> None:
    async with (
        asyncio.timeout(30),
        scene(tmp_path, hops) as node,
        raw_session(node.url, VERSION) as one,
        raw_session(node.url, VERSION) as other,
    ):
        assert await tools(one) == ALL
        place = (await text(one, "unlock")).removeprefix("unlock in ")
        assert await tools(one) == ALL | {"secret0"}
        assert await text(one, "secret0") == f"secret0 in {place}"
        assert await text(one, "unlock") == f"unlock in {place}"
        assert await text(one, "secret1") == f"secret1 in {place}", "it is found before the client lists"
        assert await tools(other) == ALL
        answer, _ = await called(other, "secret0")
        assert answer["error"]["code"] == -32602
        assert await text(other, "whoami") != f"whoami in {place}"
        assert await tools(other) == ALL


@asynccontextmanager
async def notes(session: RawSession) -> AsyncIterator[AsyncIterator[Json]]:
    """What comes on the standing stream."""
    async with session.listen() as response:
        yield messages(response)


async def until(stream: AsyncIterator[Json], method: str) -> Json:
    async for message in stream:
        if message["method"] == method:
            return message
    raise AssertionError(f"the stream ended without {method}")


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_resource_that_a_session_gained_is_read_there_and_its_updates_reach_its_subscriber(
    hops: int, tmp_path: Path
) -> None:
    uri = "vault://vault/note"
    async with asyncio.timeout(30), scene(tmp_path, hops) as node, raw_session(node.url, VERSION) as one:
        place = (await text(one, "unlock")).removeprefix("unlock in ")
        listed = (await one.request("resources/list", {}))["result"]["resources"]
        assert uri in [resource["uri"] for resource in listed]
        read = await one.request("resources/read", {"uri": uri})
        assert read["result"]["contents"][0]["text"] == f"note of {place}"
        async with notes(one) as stream:
            assert (await one.request("resources/subscribe", {"uri": uri}))["result"] == {}
            updated = asyncio.ensure_future(until(stream, "notifications/resources/updated"))
            while not updated.done():
                await text(one, "touch")
                await asyncio.wait({updated}, timeout=0.2)
            assert (await updated)["params"] == {"uri": uri}


@pytest.mark.parametrize("hops", [1, 2])
async def test_updates_reach_a_subscriber_whose_calls_run_in_a_session_because_it_can_be_asked(
    hops: int, tmp_path: Path
) -> None:
    uri = "vault://vault/note"
    async with (
        asyncio.timeout(30),
        scene(tmp_path, hops, Gaining(announces=False)) as node,
        raw_session(node.url, VERSION, elicitation={}) as one,
        notes(one) as stream,
    ):
        assert (await one.request("resources/subscribe", {"uri": uri}))["result"] == {}
        updated = asyncio.ensure_future(until(stream, "notifications/resources/updated"))
        while not updated.done():
            await text(one, "touch")
            await asyncio.wait({updated}, timeout=0.2)
        assert (await updated)["params"] == {"uri": uri}


@pytest.mark.parametrize("hops", [1, 2])
async def test_an_elicitation_that_an_error_asked_for_is_completed_at_the_client_that_was_asked(
    hops: int, tmp_path: Path
) -> None:
    elicitation = {"elicitation": {"form": {}, "url": {}}}
    async with (
        asyncio.timeout(30),
        scene(tmp_path, hops) as node,
        raw_session(node.url, VERSION, **elicitation) as one,
        raw_session(node.url, VERSION, **elicitation) as other,
        notes(one) as stream,
    ):
        answer, _ = await called(one, "pay")
        assert answer["error"]["code"] == URL_REQUIRED
        assert answer["error"]["data"]["elicitations"][0]["elicitationId"] == "pay-1"
        await text(other, "unlock")
        await text(one, "unlock")
        await text(one, "whoami")
        assert (await until(stream, "notifications/elicitation/complete"))["params"] == {"elicitationId": "pay-1"}
        assert await tools(other) == ALL | {"secret0"}


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_server_as_itself_shows_what_the_session_gained_under_the_servers_own_names(
    hops: int, tmp_path: Path
) -> None:
    async with (
        asyncio.timeout(30),
        scene(tmp_path, hops) as node,
        raw_session(f"{node.base}/mcp/s/vault", VERSION) as one,
    ):
        await one.request("tools/call", {"name": "unlock", "arguments": {}})
        listed = {tool["name"] for tool in (await one.request("tools/list", {}))["result"]["tools"]}
        assert listed == ALL | {"secret0"}
        async with client(f"{node.base}/mcp/s/vault", Era.LEGACY) as two:
            assert two.server_info.capabilities["resources"]["subscribe"] is True
        answer = await one.request("tools/call", {"name": "secret0", "arguments": {}})
        assert answer["result"]["content"][0]["text"].startswith("secret0 in ")


async def test_a_view_shows_what_the_session_gained_under_the_mesh_names(tmp_path: Path) -> None:
    async with (
        asyncio.timeout(30),
        scene(tmp_path, 2) as node,
        raw_session(f"{node.url}?servers=vault", VERSION) as one,
        raw_session(f"{node.url}?servers=other", VERSION) as other,
    ):
        await text(one, "unlock")
        assert await tools(one) == ALL | {"secret0"}
        assert (await text(one, "secret0")).startswith("secret0 in ")
        assert await tools(other) == set()


async def test_other_servers_look_to_a_client_that_gained_something_as_they_did(tmp_path: Path) -> None:
    async with (
        asyncio.timeout(30),
        serving_gaining() as vault,
        served(clock_server()) as wall,
        front_of(tmp_path, vault, ServerSpec("wall", HttpTarget(wall), ServerScope.FLEET), hops=2) as node,
        raw_session(node.url, VERSION) as one,
    ):
        before = (await one.request("tools/list", {}))["result"]["tools"]
        assert "wall__get-time" in [tool["name"] for tool in before], "a fleet shows each tool once"
        await text(one, "unlock")
        after = (await one.request("tools/list", {}))["result"]["tools"]
        assert [tool for tool in after if tool["name"] != "vault__secret0"] == before
        answer = await one.request("tools/call", {"name": "wall__get-time", "arguments": {"node": "any"}})
        assert answer["result"]["content"][0]["text"] == "twelve"


async def test_a_node_that_adopts_a_session_finds_what_it_gained_at_another_nodes_server(tmp_path: Path) -> None:
    async with (
        asyncio.timeout(30),
        serving_gaining() as vault,
        running_node("n0", tmp_path / "n0", servers=[vault]) as owner,
    ):
        await owner.connected("vault")
        async with (
            front_before(tmp_path / "a", owner) as first,
            front_before(tmp_path / "b", owner) as second,
            raw_session(first.url, VERSION) as one,
            raw_session(first.url, VERSION) as other,
        ):
            await text(one, "unlock")
            assert await tools(one) == ALL | {"secret0"}
            for session in (one, other):
                session.url = second.url
            assert (await text(one, "secret0")).startswith("secret0 in "), "the name is found before the client lists"
            assert await asyncio.gather(tools(one), tools(one)) == [ALL | {"secret0"}] * 2
            assert await tools(other) == ALL


@pytest.mark.parametrize("announces", [True, False])
async def test_where_all_share_a_session_status_says_what_to_set_and_why(announces: bool, tmp_path: Path) -> None:
    async with (
        asyncio.timeout(30),
        scene(tmp_path, 1, Gaining(announces=announces), Sessions.SHARED) as node,
        raw_session(node.url, VERSION) as one,
        one.http.get(f"{node.base}/api/v1/mcp/servers") as response,
    ):
        (server,) = (await response.json())["data"]["servers"]
        assert [hint.partition(" (")[0] for hint in server["hints"]] == (
            ["its lists may differ between sessions"] if announces else []
        )
        await text(one, "unlock")
        assert await tools(one) == ALL


@pytest.mark.parametrize("hops", [1, 2])
async def test_what_a_session_gained_goes_when_its_client_leaves(hops: int, tmp_path: Path) -> None:
    async with asyncio.timeout(30), scene(tmp_path, hops) as node:
        async with raw_session(node.url, VERSION) as one:
            await text(one, "unlock")
            assert await tools(one) == ALL | {"secret0"}
            async with one.http.delete(node.url, headers=one.headers) as response:
                assert response.status == 200
        async with raw_session(node.url, VERSION) as later:
            assert await tools(later) == ALL


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_server_that_says_nothing_of_changes_needs_sessions_of_its_own_and_then_shows_them(
    hops: int, tmp_path: Path
) -> None:
    silent = Gaining(announces=False)
    async with (
        asyncio.timeout(30),
        scene(tmp_path, hops, silent, Sessions.OWN) as node,
        raw_session(node.url, VERSION) as one,
        raw_session(node.url, VERSION) as other,
    ):
        await text(one, "unlock")
        assert await tools(one) == ALL | {"secret0"}
        assert (await text(one, "secret0")).startswith("secret0 in ")
        assert await tools(other) == ALL


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_server_that_only_tells_of_a_change_has_sessions_for_clients_from_then_on(
    hops: int, tmp_path: Path
) -> None:
    async with (
        asyncio.timeout(30),
        scene(tmp_path, hops, Gaining(declares=False)) as node,
        raw_session(node.url, VERSION) as one,
        raw_session(node.url, VERSION) as other,
    ):
        await text(one, "unlock")
        assert await tools(one) == ALL, "what the session that all share has gained is for no client"
        while await tools(one) == ALL:  # The notification comes on another stream than the call's.
            await text(one, "unlock")
        assert await tools(one) == ALL | {"secret0"}
        assert (await text(one, "secret0")).startswith("secret0 in ")
        assert await tools(other) == ALL


def toolset_server() -> FastMCP:
    """FastMCP's own way to dynamic toolsets: components that are enabled for one session."""
    server: FastMCP = FastMCP("vault")

    @server.tool(output_schema=None)
    async def unlock(ctx: Context) -> str:
        await ctx.enable_components(tags={"hidden"})
        return "unlocked"

    @server.tool(output_schema=None, tags={"hidden"})
    async def secret() -> str:
        return "told"

    server.disable(tags={"hidden"})
    return server


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize(("refused", "sessions"), [(400, Sessions.AUTO), (None, Sessions.OWN), (None, Sessions.AUTO)])
async def test_components_that_fastmcp_enables_for_a_session_are_there(
    refused: int | None, sessions: Sessions, hops: int, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(40))
        app = await stack.enter_async_context(http_app(toolset_server()))
        base = await stack.enter_async_context(serving(Front(app, refuse_modern=refused)))
        spec = ServerSpec("vault", HttpTarget(f"{base}/mcp"), ServerScope.SERVICE, sessions=sessions)
        node = await stack.enter_async_context(front_of(tmp_path, spec, hops=hops))
        one, other = [await stack.enter_async_context(raw_session(node.url, VERSION)) for _ in range(2)]
        assert await tools(one) == {"unlock"}
        if refused is None and sessions is Sessions.AUTO:
            assert "have no session" in await text(one, "unlock"), "from now on the node knows that it needs one"
        assert await text(one, "unlock") == "unlocked"
        assert await tools(one) == {"unlock", "secret"}
        assert await text(one, "secret") == "told"
        assert await tools(other) == {"unlock"}
