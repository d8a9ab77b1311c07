"""What workers may call: tools whose every replica has no state that the node alone holds."""

import pickle
from dataclasses import replace
from typing import Any

import pytest

from agent.mcp_terms import LATEST_HANDSHAKE_VERSION, LATEST_MODERN_VERSION
from agent.model import (
    HttpTarget,
    LinkState,
    LinkView,
    NodeIdentity,
    OAuthClient,
    Offer,
    PeerScope,
    PeerSource,
    PeerSpec,
    ServerScope,
    ServerSpec,
    Sessions,
    StdioTarget,
)
from agent.routing.table import Replica, Route, RouteKind
from agent.workers.picture import Picture, changes, link_shown, may_dial, tools_for_workers

URL = HttpTarget("http://127.0.0.1:9/mcp")
SERVER = LinkView(ServerSpec("kit", URL, ServerScope.SERVICE), LinkState.READY, protocol_version=LATEST_MODERN_VERSION)
PEER = LinkView(
    PeerSpec("back", URL, PeerSource.DISCOVERY),
    LinkState.READY,
    protocol_version=LATEST_MODERN_VERSION,
    identity=NodeIdentity("id-of-back", "back"),
)


def of_server(**changed: Any) -> LinkView:
    assert isinstance(SERVER.spec, ServerSpec)
    return replace(SERVER, spec=replace(SERVER.spec, **changed))


def of_peer(**changed: Any) -> LinkView:
    assert isinstance(PEER.spec, PeerSpec)
    return replace(PEER, spec=replace(PEER.spec, **changed))


def route(name: str, *keys: str, **changed: Any) -> Route:
    replicas = tuple(Replica(key, name, None, ours=True) for key in keys)
    return replace(Route(RouteKind.TOOL, name, {"name": name}, "d", replicas, listed=True, owner="o"), **changed)


def test_servers_by_url_and_nodes_of_the_stateless_era_are_dialled() -> None:
    assert may_dial(SERVER)
    assert may_dial(replace(SERVER, state=LinkState.SUSPECT))
    assert may_dial(PEER)


@pytest.mark.parametrize(
    "view",
    [
        replace(SERVER, state=LinkState.BACKOFF),
        replace(SERVER, protocol_version=LATEST_HANDSHAKE_VERSION),
        replace(SERVER, has_tasks=True),
        of_server(target=StdioTarget("python")),
        of_server(target=replace(URL, oauth=OAuthClient())),
        of_server(sticky=True),
        of_server(sessions=Sessions.OWN),
        of_peer(scope=PeerScope.MESH),
        replace(PEER, identity=None),
    ],
)
def test_backend_whose_state_the_node_holds_is_not_dialled(view: LinkView) -> None:
    assert not may_dial(view)


def test_tool_is_for_workers_where_every_replica_is() -> None:
    links = {"server:kit": SERVER, "peer:back": PEER, "server:child": of_server(target=StdioTarget("python"))}
    routes = {
        "kit__add": route("kit__add", "server:kit", "peer:back"),
        "kit__mixed": route("kit__mixed", "server:kit", "server:child"),
        "kit__gone": route("kit__gone", "server:gone"),
        "kit__none": route("kit__none"),
        "kit__away": route("kit__away", "server:kit", away_since_s=1.0),
        "kit__sticky": route("kit__sticky", "server:kit", sticky=True),
    }
    assert set(tools_for_workers(routes, links)) == {"kit__add"}


def test_only_what_has_changed_of_the_tools_is_sent() -> None:
    one, two = route("one", "server:kit"), route("two", "server:kit")
    assert changes({"one": one}, {"one": one}) is None
    assert changes({"one": one}, {"one": replace(one)}) is None
    sent = changes({"one": one, "two": two}, {"two": replace(two, digest="other")})
    assert sent is not None
    assert (set(sent.changed), sent.gone) == ({"two"}, {"one"})


def test_pictures_of_one_state_are_equal_whatever_was_measured_meanwhile() -> None:
    measured = replace(SERVER, latency_s=0.2, attempts=3, offer=Offer(digest="x"), last_error="slow")
    assert link_shown(measured) == link_shown(SERVER)


def test_picture_arrives_as_it_was_sent() -> None:
    picture = Picture(tokens=("token-of-clients",), links={"server:kit": link_shown(SERVER)})
    assert pickle.loads(pickle.dumps(picture)) == picture
    assert "token-of-clients" not in repr(picture)
