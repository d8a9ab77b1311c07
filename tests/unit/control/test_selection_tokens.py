"""A discovered node that somebody names again: the peer token follows it where its URL does, and nowhere else."""

import pytest

from agent.config.values import StaticPeer
from agent.control.selection import select
from agent.model import HttpTarget, NodeIdentity, Override, PeerScope, PeerSource, PeerSpec
from discovery.model import Catalog, Instance, InstanceKey

OWN = NodeIdentity("0a" * 16, "home")
ID_B, ID_C = "bb" * 16, "cc" * 16
URL = "http://10.0.0.2:8000/mcp"
TOKEN = "peer-token"


def _node(name: str, node_id: str) -> Instance:
    return Instance(InstanceKey("dc1", "m", name), "10.0.0.2", 8000, meta={"node_id": node_id, "name": name})


def _named_again(target: HttpTarget, *found: Instance, scope: PeerScope = PeerScope.LOCAL, **more: str) -> PeerSpec:
    catalog = Catalog(tuple(sorted(found, key=lambda instance: instance.key)))
    selection = select(catalog, OWN, overrides=[Override("mine", target, scope)], learned=more, peer_token=TOKEN)
    return next(spec for spec in selection.peers if spec.name == "mine")


@pytest.mark.parametrize("url", [URL, f"{URL}/", f"{URL}/local"])
def test_an_override_of_a_discovered_node_at_its_url_keeps_the_peer_token_and_the_node_id(url: str) -> None:
    spec = _named_again(HttpTarget(url), _node("node-b", ID_B))
    assert spec.target == HttpTarget(url, token=TOKEN)
    assert (spec.source, spec.expected_node_id, spec.is_mesh_node) == (PeerSource.OVERRIDE, ID_B, True)


def test_a_static_peer_that_is_a_discovered_node_keeps_the_peer_token_and_the_node_id() -> None:
    selection = select(Catalog((_node("node-b", ID_B),)), OWN, statics=[StaticPeer("fixed", URL)], peer_token=TOKEN)
    (spec,) = selection.peers
    assert (spec.source, spec.target.url) == (PeerSource.STATIC, URL)
    assert (spec.target, spec.expected_node_id, spec.is_mesh_node) == (HttpTarget(URL, token=TOKEN), ID_B, True)


@pytest.mark.parametrize(
    ("target", "scope"),
    [
        (HttpTarget(URL, token="its-own"), PeerScope.LOCAL),
        (HttpTarget(URL), PeerScope.MESH),
        (HttpTarget("http://10.0.0.2:8001/mcp"), PeerScope.LOCAL),
        (HttpTarget("https://10.0.0.2:8000/mcp"), PeerScope.LOCAL),
    ],
)
def test_an_override_with_a_token_or_a_wider_scope_or_another_url_is_dialled_as_it_was_ordered(
    target: HttpTarget, scope: PeerScope
) -> None:
    spec = _named_again(target, _node("node-b", ID_B), scope=scope)
    assert (spec.target, spec.expected_node_id, spec.is_mesh_node) == (target, None, False)


def test_an_override_that_leads_to_a_discovered_node_by_another_url_gets_no_token() -> None:
    balancer = "http://balancer/mcp"
    spec = _named_again(HttpTarget(balancer), _node("node-b", ID_B), **{balancer: ID_B})
    assert (spec.target, spec.aliases) == (HttpTarget(balancer), ("node-b",))
    assert (spec.expected_node_id, spec.is_mesh_node) == (None, False)


def test_of_two_nodes_that_the_catalog_claims_at_one_url_the_one_that_answered_there_is_expected() -> None:
    both = (_node("forged", ID_B), _node("node-c", ID_C))
    assert _named_again(HttpTarget(URL), *both, **{URL: ID_C}).expected_node_id == ID_C
    assert _named_again(HttpTarget(URL), *both, **{URL: ID_B}).expected_node_id == ID_B


def test_a_plain_instance_at_the_url_of_an_override_brings_it_no_token() -> None:
    plain = Instance(InstanceKey("dc1", "m", "p"), "10.0.0.2", 8000)
    spec = _named_again(HttpTarget(URL), plain)
    assert (spec.target, spec.is_mesh_node) == (HttpTarget(URL), False)


def test_a_static_peer_that_nobody_discovered_may_be_tried_with_the_peer_token_at_its_local_endpoint_alone() -> None:
    (spec,) = select(Catalog(), OWN, statics=[StaticPeer("fixed", URL)], peer_token=TOKEN).peers
    assert (spec.target, spec.local_token, spec.is_mesh_node) == (HttpTarget(URL), TOKEN, False)
    assert TOKEN not in repr(spec)
    assert _named_again(HttpTarget(URL)).local_token is None
    known = select(Catalog((_node("node-b", ID_B),)), OWN, statics=[StaticPeer("fixed", URL)], peer_token=TOKEN)
    assert known.peers[0].local_token is None
