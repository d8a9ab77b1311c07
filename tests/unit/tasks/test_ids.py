"""The IDs of tasks: what a client gets leads back to the very server that keeps the task, and nowhere else."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agent.errors import ProtocolBroken
from agent.model import (
    TASKS_EXTENSION,
    HttpTarget,
    Json,
    LinkView,
    NodeIdentity,
    Offer,
    PeerSource,
    PeerSpec,
    ServerScope,
    ServerSpec,
)
from agent.routing.build import build_routes, local_contributions
from agent.routing.table import Contribution, ContributionKind, Replica, RouteTable
from agent.tasks.ids import (
    TASK_ID_BYTES_MAX,
    TaskIdRefused,
    any_tasks,
    declares_tasks,
    shown_task,
    task_route,
    without_tasks,
)

OWN = NodeIdentity("0a" * 16, "home")
EAST = NodeIdentity("ea" * 16, "east")
WEST = NodeIdentity("we" * 16, "west")
TARGET = HttpTarget("http://127.0.0.1:1/mcp")
TAKES_TASKS: Json = {
    "_meta": {"io.modelcontextprotocol/clientCapabilities": {"extensions": {TASKS_EXTENSION: {}}}},
    "name": "kit__build",
}
IDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.sampled_from(
    ["mesh1/server/a/b/c", f"mesh1/server/{EAST.node_id}/kit/1", "mesh1/peer/shop/1", "/", "//", "%2F", "\n"]
)


def server(name: str, scope: ServerScope = ServerScope.SERVICE, *, has_tasks: bool = True) -> Contribution:
    return Contribution(f"server:{name}", ContributionKind.SERVER, name, OWN, scope, Offer(), has_tasks=has_tasks)


def plain(name: str) -> Contribution:
    return Contribution(f"peer:{name}", ContributionKind.PLAIN_PEER, name, None, None, Offer(), has_tasks=True)


def node(identity: NodeIdentity) -> Contribution:
    return Contribution(f"peer:{identity.name}", ContributionKind.MESH_PEER, "", identity, None, Offer())


PARTS = (server("kit"), server("secret", ServerScope.PRIVATE), plain("shop"), node(EAST), node(WEST))
TABLE = build_routes(PARTS, OWN)
LOCAL = build_routes(local_contributions(PARTS), OWN)


def link_to(part: Contribution) -> LinkView:
    """The link that a contribution comes from."""
    if part.kind is ContributionKind.SERVER:
        return LinkView(ServerSpec(part.label, TARGET, ServerScope.SERVICE))
    return LinkView(PeerSpec(part.backend_key.removeprefix("peer:"), TARGET, PeerSource.OVERRIDE), identity=part.node)


def handed_out(task_id: str, part: Contribution, own: NodeIdentity = OWN) -> str:
    """What a client gets for a task that answers a call to that backend."""
    result: Json = {"resultType": "task", "taskId": task_id, "status": "working"}
    replica = Replica(part.backend_key, "kit__build", None, ours=False)
    shown = shown_task("tools/call", TAKES_TASKS, result, replica, link_to(part), own_node_id=own.node_id)
    assert {**shown, "taskId": task_id} == result
    public = shown["taskId"]
    assert isinstance(public, str)
    return public


def asked(public: str, table: RouteTable = TABLE, own: NodeIdentity = OWN) -> list[tuple[str, str]]:
    """Which backend a request about a task goes to, and by which ID."""
    route = task_route("tasks/get", public, table, own.node_id)
    return [(replica.backend_key, replica.remote_name) for replica in route.replicas]


@given(task_id=IDS, which=st.sampled_from([0, 2, 3, 4]))
def test_an_id_leads_back_to_the_backend_that_gave_it_as_that_backend_wrote_it(task_id: str, which: int) -> None:
    assert asked(handed_out(task_id, PARTS[which])) == [(PARTS[which].backend_key, task_id)]


@given(task_id=IDS, node_id=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_an_id_survives_whatever_a_peer_calls_itself(task_id: str, node_id: str) -> None:
    odd = node(NodeIdentity(node_id, "odd"))
    assume(node_id != OWN.node_id)
    assert asked(handed_out(task_id, odd), build_routes([odd], OWN)) == [("peer:odd", task_id)]


@given(one=IDS, other=IDS, first=st.sampled_from([0, 2, 3]), second=st.sampled_from([0, 2, 3]))
def test_two_tasks_never_get_one_id(one: str, other: str, first: int, second: int) -> None:
    same = handed_out(one, PARTS[first]) == handed_out(other, PARTS[second])
    assert same == ((one, first) == (other, second))


@given(task_id=IDS)
def test_a_node_hands_on_the_id_of_another_node_as_it_is_and_so_it_means_the_same_on_every_node(task_id: str) -> None:
    at_east = handed_out(task_id, server("kit"), own=EAST)
    assert handed_out(at_east, node(EAST)) == at_east
    assert asked(at_east) == [("peer:east", at_east)]
    east = build_routes([replace(server("kit"), node=EAST)], EAST)
    assert asked(at_east, east, own=EAST) == [("server:kit", task_id)]


def test_what_a_gateway_passes_on_leads_back_through_the_gateway() -> None:
    far = handed_out("1", server("kit"), own=NodeIdentity("fa" * 16, "far"))
    assert asked(far) == [], "there is no link to that node"
    through_east = handed_out(far, node(EAST))
    assert through_east != far
    assert asked(through_east) == [("peer:east", far)]


@pytest.mark.parametrize(
    "made_up",
    [
        "mesh1/peer/shop/1",
        f"mesh1/server/{EAST.node_id}/kit/1",
        f"mesh1/gateway/{EAST.node_id}/1",
        f"mesh1/server/{OWN.node_id}/secret/1",
        f"mesh1/server/{OWN.node_id}/absent/1",
        f"mesh1/gateway/{OWN.node_id}/1",
    ],
)
def test_the_local_endpoint_asks_nothing_but_what_it_serves_itself(made_up: str) -> None:
    assert asked(made_up, LOCAL) == []
    assert asked(f"mesh1/server/{OWN.node_id}/kit/1", LOCAL) == [("server:kit", "1")]


def test_a_server_that_knows_no_tasks_is_not_asked_about_any() -> None:
    mute = build_routes([server("kit", has_tasks=False)], OWN)
    assert asked(handed_out("1", server("kit")), mute) == []
    assert (any_tasks(mute), any_tasks(TABLE)) == (False, True)


@pytest.mark.parametrize(
    "stranger",
    [
        "",
        "1",
        "mesh1",
        "mesh1/server/a/b",
        "mesh1/peer//1",
        "mesh2/peer/shop/1",
        " mesh1/peer/shop/1",
        "mesh1/peer/shop/" + "x" * TASK_ID_BYTES_MAX,
        "mesh1/peer/shop/" + "ü" * (TASK_ID_BYTES_MAX // 2),
    ],
)
def test_what_no_node_hands_out_is_refused(stranger: str) -> None:
    with pytest.raises(TaskIdRefused):
        asked(stranger)


def test_only_one_backend_is_ever_asked_and_a_plain_peers_word_stays_a_plain_peers() -> None:
    plain_route = task_route("tasks/get", "mesh1/peer/shop/1", TABLE, OWN.node_id)
    assert plain_route.owner.startswith("plain:")
    assert [replica.node_id for replica in plain_route.replicas] == [None]


def answered(method: str, params: Json, result: Json, remote: str = "1") -> Json:
    replica = Replica("server:kit", remote, OWN.node_id, ours=True)
    return shown_task(method, params, result, replica, link_to(PARTS[0]), own_node_id=OWN.node_id)


def test_a_task_is_named_in_the_answer_as_it_was_in_the_question() -> None:
    params = {**TAKES_TASKS, "taskId": "mesh1/server/x/kit/1"}
    assert answered("tasks/get", params, {"taskId": "1", "status": "working"}) == {
        "taskId": "mesh1/server/x/kit/1",
        "status": "working",
    }
    empty: Json = {"resultType": "complete"}
    assert answered("tasks/update", params, empty) is empty
    with pytest.raises(ProtocolBroken, match="another task"):
        answered("tasks/get", params, {"taskId": "2"})


@pytest.mark.parametrize(
    ("method", "params", "task_id", "why"),
    [
        ("tools/call", {"name": "kit__build"}, "1", "did not say"),
        ("prompts/get", TAKES_TASKS, "1", "did not say"),
        ("tools/call", TAKES_TASKS, None, "no ID"),
        ("tools/call", TAKES_TASKS, 7, "no ID"),
        ("tools/call", TAKES_TASKS, "x" * TASK_ID_BYTES_MAX, "bytes"),
    ],
)
def test_a_task_that_no_client_can_use_is_no_answer(method: str, params: Json, task_id: object, why: str) -> None:
    with pytest.raises(ProtocolBroken, match=why):
        answered(method, params, {"resultType": "task", "taskId": task_id})


def test_other_answers_pass_untouched() -> None:
    for result in ({"resultType": "complete", "taskId": "1"}, {"content": []}, {"resultType": "input_required"}):
        assert answered("tools/call", TAKES_TASKS, result) is result


@pytest.mark.parametrize(
    "meta",
    [None, [], {}, {"io.modelcontextprotocol/clientCapabilities": None}]
    + [
        {"io.modelcontextprotocol/clientCapabilities": {"extensions": said}}
        for said in (None, [], {TASKS_EXTENSION: 1})
    ],
)
def test_a_client_that_does_not_declare_the_extension_takes_no_tasks(meta: object) -> None:
    assert not declares_tasks({"_meta": meta})
    assert declares_tasks(TAKES_TASKS)


def test_a_client_of_sessions_declares_everything_but_tasks() -> None:
    known: Json = {"sampling": {}, "extensions": {TASKS_EXTENSION: {}, "org.example/x": {}}}
    assert without_tasks(known) == {"sampling": {}, "extensions": {"org.example/x": {}}}
    assert without_tasks({"roots": {}}) == {"roots": {}}
