"""Asking several nodes: so many at once, within one deadline, with progress; and the resource that lists the nodes."""

import asyncio
from types import MappingProxyType

import orjson
import pytest

from agent.dispatch.call import Forwarded
from agent.errors import NOT_EXECUTED, MCPError
from agent.lossless_json.unread import LOOKED_AT_BYTES_MAX, Unread
from agent.mcp_terms import CLIENT_CAPABILITIES_META_KEY
from agent.model import DEADLINE_META_KEY, Json
from agent.routing.fleet_targets import SeveralNodes
from agent.routing.table import Fleet, Replica, Route, RouteKind
from agent.server.fleet_calls import AT_ONCE_MAX, ask_several, completed_nodes, fleet_resource

pytestmark = pytest.mark.looptime
NODES = [f"n{number:03}" for number in range(40)]
HERE = Replica("", "", None, ours=True)


def route(node: str) -> Route:
    return Route(RouteKind.TOOL, f"{node}__disk__usage", {}, "", (), listed=False, owner="fleet:disk")


def target(names: list[str], **meta: object) -> SeveralNodes:
    calls: dict[str, Route | None] = {name: route(name) for name in names}
    return SeveralNodes(calls, {}, {"name": "disk__usage", "arguments": {}, "_meta": meta, "requestState": "x"})


class Nodes:
    """Each call takes `takes_s`; `most` is how many were under way at once, `seen` the params of each."""

    def __init__(self, takes_s: float = 0.1) -> None:
        self.takes_s = takes_s
        self.most = self.now = 0
        self.seen: list[Json] = []
        self.notes: list[Json] = []

    async def send(self, _: Route, params: Json) -> Forwarded:
        self.seen.append(params)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(min(self.takes_s, params["_meta"][DEADLINE_META_KEY] / 1000))
        finally:
            self.now -= 1
        if self.takes_s > params["_meta"][DEADLINE_META_KEY] / 1000:
            raise MCPError(code=NOT_EXECUTED, message="too late")
        return Forwarded({"content": [{"type": "text", "text": params["name"]}]}, HERE)

    async def note(self, method: str, params: Json) -> None:
        assert method == "notifications/progress"
        self.notes.append(params)


async def test_sixteen_are_called_at_a_time_and_progress_counts_the_nodes() -> None:
    nodes = Nodes()
    result = await ask_several(target(NODES, progressToken=7), nodes.send, nodes.note, 60)
    assert nodes.most == AT_ONCE_MAX == 16
    assert [row["node"] for row in result["structuredContent"]["results"]] == NODES
    assert [note["progress"] for note in nodes.notes] == list(range(1, 41))
    assert nodes.notes[6] == {"progressToken": 7, "progress": 7, "total": 40, "message": "7 of 40 nodes"}


async def test_each_node_gets_the_time_that_is_left_and_nothing_of_the_callers_session() -> None:
    nodes = Nodes(takes_s=1)
    capable = {CLIENT_CAPABILITIES_META_KEY: {"elicitation": {}}}
    result = await ask_several(target(NODES, progressToken=7, **capable), nodes.send, nodes.note, 2.5)
    outcomes = [row["outcome"] for row in result["structuredContent"]["results"]]
    assert (outcomes.count("ok"), outcomes.count("not_executed")) == (32, 8)
    assert result["isError"] is False
    for params in nodes.seen:
        assert "requestState" not in params
        assert "progressToken" not in params["_meta"]
        assert params["_meta"][CLIENT_CAPABILITIES_META_KEY] == {}
    left = [params["_meta"][DEADLINE_META_KEY] for params in nodes.seen]
    assert left[0] > left[-1]


async def test_the_callers_deadline_is_the_sooner_one() -> None:
    nodes = Nodes(takes_s=10)
    began_s = asyncio.get_running_loop().time()
    result = await ask_several(target(NODES[:2], **{DEADLINE_META_KEY: 1000}), nodes.send, nodes.note, 600)
    assert asyncio.get_running_loop().time() - began_s < 1.1
    assert result["isError"] is True


def fleet() -> Fleet:
    members = MappingProxyType({name: route(name) for name in NODES})
    return Fleet("disk", "", "node", members, (), {}, several=False, namespaces={})


def test_a_large_argument_of_a_completion_is_looked_at_within_limits() -> None:
    name, value = Unread(b'{"name":"node","value":"n00"}'), b'"%s"' % (b"x" * LOOKED_AT_BYTES_MAX)
    assert len(completed_nodes(fleet(), {"argument": name})["completion"]["values"]) == len(NODES[:10])
    with pytest.raises(MCPError, match=f"argument: more than {LOOKED_AT_BYTES_MAX} bytes"):
        completed_nodes(fleet(), {"argument": Unread(b'{"name":"node","value":"n","more":%s}' % value)})


def test_the_resource_of_a_fleet_lists_its_nodes_and_names_are_completed() -> None:
    (part,) = fleet_resource(fleet(), "mesh-fleet://disk/nodes")["contents"]
    assert orjson.loads(part["text"]) == {"server": "disk", "nodes": NODES, "count": 40}
    assert (
        orjson.loads(fleet_resource(fleet(), "mesh-fleet://disk/nodes/n007")["contents"][0]["text"])["node"] == "n007"
    )
    with pytest.raises(MCPError, match="Unknown resource"):
        fleet_resource(fleet(), "mesh-fleet://disk/nodes/nope")
    found = completed_nodes(fleet(), {"argument": {"name": "node", "value": "n03"}})["completion"]
    assert found == {"values": NODES[30:40], "total": 10, "hasMore": False}
