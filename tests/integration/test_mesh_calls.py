"""Calls through whole nodes whose servers fail: what fails over, what never does, and what stays where it was."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from agent.client.protocol import Request
from agent.dispatch import balance
from agent.dispatch.outlier import FAILURES_IN_ROW_MAX
from agent.errors import NOT_EXECUTED, OUTCOME_UNKNOWN, RpcError
from agent.model import (
    AFFINITY_META_KEY,
    DEADLINE_META_KEY,
    OWN_ERROR_KEY,
    Era,
    HttpTarget,
    Json,
    ServerScope,
    ServerSpec,
)
from agent.routing.table import RouteTable
from tests.integration.servers.hops import front_before, replicas
from tests.integration.servers.hosting import Script, Seen, discovered, http, rpc_error, rpc_result, scripted
from tests.integration.servers.nodes import RunningNode, catalog, client, instance, running_node

TOOLS = [
    {"name": "look", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}},
    {"name": "write", "inputSchema": {"type": "object"}},
]
Answer = Callable[[Seen], Awaitable[tuple[bytes | None, bool]]]


async def reset(_: Seen) -> tuple[None, bool]:
    return None, False


async def nonsense(_: Seen) -> tuple[bytes, bool]:
    return http(200, b"<html>", kind="text/html"), True


@dataclass
class Kit:
    """One node's replica: its script, what it was asked, and how it answers instead of its name."""

    script: Script | None = None
    instead: Answer | None = None
    asked: list[Json] = field(default_factory=list)


@dataclass
class Scene:
    """`front` has no server of its own; `two` and `three` have one replica each."""

    front: RunningNode
    nodes: dict[str, RunningNode]
    kits: dict[str, Kit]

    async def call(self, name: str, meta: Json | None = None) -> str:
        async with client(self.front.url, Era.MODERN) as mcp:
            params: Json = {"name": f"kit__{name}", "arguments": {}, "_meta": meta or {}}
            result = await mcp.request(Request.within("tools/call", params, timeout_s=15))
        text = result["content"][0]["text"]
        assert isinstance(text, str)
        return text

    async def failure(self, name: str) -> RpcError:
        with pytest.raises(RpcError) as caught:
            await self.call(name)
        return caught.value

    def asked(self) -> int:
        return sum(len(kit.asked) for kit in self.kits.values())

    def sum_of(self, metric: str) -> float:
        lines = self.front.metrics.render()[0].decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(metric))


@asynccontextmanager
async def scene(folder: Path, *, sticky: bool = False) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        kits, nodes = {name: Kit() for name in ("two", "three")}, dict[str, RunningNode]()
        for name, kit in kits.items():
            kit.script = await stack.enter_async_context(scripted(_answers(name, kit)))
            spec = ServerSpec("kit", HttpTarget(kit.script.url), ServerScope.SERVICE, sticky=sticky)
            nodes[name] = await stack.enter_async_context(running_node(name, folder / name, servers=[spec]))
            await nodes[name].connected("kit")
        front = await stack.enter_async_context(front_before(folder, *nodes.values()))
        yield Scene(front, nodes, kits)


def _answers(name: str, kit: Kit) -> Answer:
    async def answer(request: Seen) -> tuple[bytes | None, bool]:
        match request.body.get("method"):
            case "server/discover":
                return discovered(request), True
            case "tools/list":
                return rpc_result(request, {"tools": TOOLS}), True
            case "tools/call":
                kit.asked.append(request.body["params"])
                if kit.instead is not None:
                    return await kit.instead(request)
                return rpc_result(request, {"content": [{"type": "text", "text": name}]}), True
            case _:
                return rpc_error(request, 404, -32601, "Method not found"), True

    return answer


@pytest.mark.parametrize("breaks", [reset, nonsense])
async def test_a_reading_call_that_breaks_is_answered_by_the_other_replica(breaks: Answer, tmp_path: Path) -> None:
    async with scene(tmp_path) as now:
        now.kits["two"].instead = breaks
        assert {await now.call("look") for _ in range(8)} == {"three"}
        assert now.kits["two"].asked, "the broken one was never asked"
        assert now.sum_of("mesh_retries_total") == len(now.kits["two"].asked)


@pytest.mark.parametrize(("breaks", "code"), [(reset, OUTCOME_UNKNOWN), (nonsense, -32603)])
async def test_a_writing_call_that_breaks_is_never_done_twice_and_says_where_it_may_have_been_done(
    breaks: Answer, code: int, tmp_path: Path
) -> None:
    async with scene(tmp_path) as now:
        for kit in now.kits.values():
            kit.instead = breaks
        failure = await now.failure("write")
        assert now.asked() == 1
        assert failure.code == code
        assert failure.message.startswith("kit__write may have been executed: server kit on ")
        assert failure.message.count("executed") == 1
        (name,) = (name for name, kit in now.kits.items() if kit.asked)
        replica = next(view.key for view in now.front.mesh.views() if name in view.spec.name)
        assert failure.data == {"outcome": "unknown", "timed_out": False, "replica": replica, "bytes_sent": True}


async def test_a_node_that_could_not_reach_its_server_is_believed_and_another_one_asked(tmp_path: Path) -> None:
    async with scene(tmp_path) as now:
        broken = now.kits["two"].script
        assert broken is not None
        broken.stop()
        assert {await now.call("write") for _ in range(8)} == {"three"}
        assert not now.kits["two"].asked


async def test_a_node_that_has_just_lost_its_server_does_not_make_the_tool_unknown(tmp_path: Path) -> None:
    async with scene(tmp_path) as now:
        # The others have not heard of it yet.
        now.nodes["two"].mesh._tables.local_routes = RouteTable()
        assert {await now.call("write") for _ in range(8)} == {"three"}
        assert now.sum_of("mesh_retries_total") > 0
        assert not now.front.dispatch.balance().ejected
        now.nodes["three"].mesh._tables.local_routes = RouteTable()
        failure = await now.failure("write")
        assert (failure.code, failure.data["outcome"]) == (NOT_EXECUTED, "not_executed")
        assert now.asked() == 8


@pytest.mark.parametrize("name", ["look", "write"])
async def test_a_server_that_speaks_as_a_node_does_is_not_believed_that_it_did_nothing(
    name: str, tmp_path: Path
) -> None:
    claims = [
        (NOT_EXECUTED, {"outcome": "not_executed", OWN_ERROR_KEY: True, "theirs": 1}),
        (OUTCOME_UNKNOWN, {"outcome": "unknown", OWN_ERROR_KEY: True, "theirs": 1}),
    ]
    async with scene(tmp_path) as now:
        for asked, (code, data) in enumerate(claims, start=1):

            async def claims_to_have_done_nothing(
                request: Seen, code: int = code, data: Json = data
            ) -> tuple[bytes, bool]:
                return rpc_error(request, 200, code, "I am a node", data), True

            for kit in now.kits.values():
                kit.instead = claims_to_have_done_nothing
            failure = await now.failure(name)
            assert now.asked() == asked
            assert (failure.code, failure.message) == (code, "I am a node")
            assert failure.data == {key: value for key, value in data.items() if key != OWN_ERROR_KEY}


async def test_when_no_server_executed_it_the_client_may_try_again(tmp_path: Path) -> None:
    async with scene(tmp_path) as now:
        for kit in now.kits.values():
            assert kit.script is not None
            kit.script.stop()
        failure = await now.failure("write")
        assert failure.code == NOT_EXECUTED
        assert failure.data["outcome"] == "not_executed"
        assert now.asked() == 0


async def test_a_replica_that_keeps_failing_is_left_alone_while_its_node_stays_linked(tmp_path: Path) -> None:
    # Sticky, so that the same replica is asked again though it costs more by now.
    async with scene(tmp_path, sticky=True) as now:
        now.kits["two"].instead = reset
        keys = [{AFFINITY_META_KEY: f"key-{n}"} for n in range(100)]
        failures = 0
        for key in keys:
            if now.front.dispatch.balance().ejected:
                break
            try:
                assert await now.call("look", key) == "three"
            except RpcError as exc:
                assert exc.code == OUTCOME_UNKNOWN  # noqa: PT017 - some have used up the budget, some have not
                failures += 1
        asked = len(now.kits["two"].asked)
        assert asked == FAILURES_IN_ROW_MAX
        assert failures == now.sum_of("mesh_retries_refused_total")
        assert {await now.call("write", key) for key in keys[:20]} == {"three"}
        assert len(now.kits["two"].asked) == asked
        assert now.sum_of("mesh_ejections_total") == 1
        assert all(view.connected for view in now.front.mesh.views())
        assert replicas(now.front, "kit__look") == 2


async def test_the_deadline_of_a_client_reaches_the_server_behind_two_nodes(tmp_path: Path) -> None:
    over = asyncio.Event()

    async def never(_: Seen) -> tuple[None, bool]:
        await over.wait()
        return None, False

    async with scene(tmp_path) as now:
        for kit in now.kits.values():
            kit.instead = never
        with pytest.raises(RpcError) as caught:
            await now.call("write", {DEADLINE_META_KEY: 400, "theirs": 1})
        assert caught.value.data["timed_out"] is True
        assert now.asked() == 1
        (params,) = (params for kit in now.kits.values() for params in kit.asked)
        assert params["_meta"]["theirs"] == 1
        assert DEADLINE_META_KEY not in params["_meta"], "ours is for mesh nodes"
        async with asyncio.timeout(10):
            for node in now.nodes.values():
                while repr(node.dispatch) != "<Dispatch in_flight=0>":
                    await asyncio.wait([node.mesh_task], timeout=0.01)
        over.set()


async def test_nodes_get_calls_by_their_weight_and_a_new_weight_counts_without_a_new_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A peak of latency fades in 10 s: one slow moment of the machine would decide the shares of this whole test.
    monkeypatch.setattr(balance, "LATENCY_FLOOR_S", 5.0)
    async with scene(tmp_path) as now:

        async def shares(weight: int) -> Counter[str]:
            two, three = (instance(node) for node in now.nodes.values())
            now.front.mesh.take_catalog(catalog(two, replace(three, weight=weight)))
            await now.front.mesh.settled()
            before = {name: len(kit.asked) for name, kit in now.kits.items()}
            async with client(now.front.url, Era.MODERN) as mcp:

                async def ask_on() -> None:
                    for _ in range(50):
                        await mcp.request(
                            Request.within("tools/call", {"name": "kit__look", "arguments": {}}, timeout_s=15)
                        )

                async with asyncio.TaskGroup() as group:
                    for number in range(8):
                        group.create_task(ask_on(), name=f"ask on {number}")
            return Counter({name: len(kit.asked) - before[name] for name, kit in now.kits.items()})

        links = [now.front.mesh.link(view.key) for view in now.front.mesh.views()]
        ready_at_s = [view.ready_at_s for view in now.front.mesh.views()]
        # Chance has a part: where answers come in any order, one of a hundred runs has less than 2.3 or more than 3.6,
        # and less than 5.5 or more than 10.8. A weight that does not count makes it 1, and that of before 3.
        assert 1.8 < (found := await shares(3))["three"] / found["two"] < 4.5, found
        assert 4.5 < (found := await shares(10))["three"] / found["two"] < 15, found
        assert [now.front.mesh.link(view.key) for view in now.front.mesh.views()] == links
        assert [view.ready_at_s for view in now.front.mesh.views()] == ready_at_s
        status, listed = await now.front.rest("GET", "/peers")
        assert (status, [peer["weight"] for peer in listed["data"]["peers"]]) == (200, [10, 1])


async def test_a_session_of_a_sticky_server_stays_on_one_replica_and_sessions_spread(tmp_path: Path) -> None:
    async with scene(tmp_path, sticky=True) as now:
        homes = Counter[str]()
        for _ in range(16):
            async with client(now.front.url, Era.LEGACY) as mcp:
                found = set()
                for _ in range(4):
                    result = await mcp.request(
                        Request.within("tools/call", {"name": "kit__look", "arguments": {}}, timeout_s=15)
                    )
                    found.add(result["content"][0]["text"])
                assert len(found) == 1
                homes.update(found)
        assert set(homes) == {"two", "three"}


async def test_an_explicit_key_finds_the_same_replica_through_every_node(tmp_path: Path) -> None:
    async with scene(tmp_path, sticky=True) as now:
        known = [instance(node) for node in now.nodes.values()]
        for node in now.nodes.values():
            node.mesh.take_catalog(catalog(*known))
            await node.when(lambda node=node: replicas(node, "kit__look") == 2)
        for n in range(6):
            found = set()
            for node in (now.front, *now.nodes.values()):
                async with client(node.url, Era.MODERN) as mcp:
                    params: Json = {"name": "kit__look", "arguments": {}, "_meta": {AFFINITY_META_KEY: f"key-{n}"}}
                    result = await mcp.request(Request.within("tools/call", params, timeout_s=15))
                    found.add(result["content"][0]["text"])
            assert len(found) == 1, f"key-{n}"
