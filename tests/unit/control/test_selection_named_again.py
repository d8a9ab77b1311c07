"""A discovered node that an operator names again: dialled as it was ordered, and what answers has to prove itself."""

import pytest

from agent.config.values import StaticPeer
from agent.control.candidates import FindingKind
from agent.control.selection import select
from agent.model import HttpTarget, NodeIdentity, Override, PeerScope, PeerSource, PeerSpec
from discovery.model import Catalog, Instance, InstanceKey

OWN = NodeIdentity("0a" * 16, "home")
ID_B, ID_C = "bb" * 16, "cc" * 16
URL = "http://10.0.0.2:8000/mcp"


def _node(name: str, node_id: str) -> Instance:
    return Instance(InstanceKey("dc1", "m", name), "10.0.0.2", 8000, meta={"node_id": node_id, "name": name})


def _named_again(target: HttpTarget, *found: Instance, scope: PeerScope = PeerScope.LOCAL, **more: str) -> PeerSpec:
    catalog = Catalog(tuple(sorted(found, key=lambda instance: instance.key)))
    selection = select(catalog, OWN, overrides=[Override("mine", target, scope)], learned=more)
    return next(spec for spec in selection.peers if spec.name == "mine")


@pytest.mark.parametrize("url", [URL, f"{URL}/", f"{URL}/local"])
def test_an_override_of_a_discovered_node_at_its_url_is_one_peer_that_nothing_is_believed_of(url: str) -> None:
    spec = _named_again(HttpTarget(url), _node("node-b", ID_B))
    assert (spec.target, spec.aliases) == (HttpTarget(url), ("node-b",))
    assert (spec.source, spec.expected_node_id, spec.is_mesh_node) == (PeerSource.OVERRIDE, None, False)


def test_a_static_peer_that_is_a_discovered_node_is_one_peer_that_nothing_is_believed_of() -> None:
    (spec,) = select(Catalog((_node("node-b", ID_B),)), OWN, statics=[StaticPeer("fixed", URL)]).peers
    assert (spec.source, spec.target) == (PeerSource.STATIC, HttpTarget(URL))
    assert (spec.expected_node_id, spec.is_mesh_node) == (None, False)


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


def test_an_override_that_leads_to_a_discovered_node_by_another_url_keeps_its_own() -> None:
    balancer = "http://balancer/mcp"
    spec = _named_again(HttpTarget(balancer), _node("node-b", ID_B), **{balancer: ID_B})
    assert (spec.target, spec.aliases) == (HttpTarget(balancer), ("node-b",))
    assert (spec.expected_node_id, spec.is_mesh_node) == (None, False)


def test_an_override_where_nothing_answers_while_discovery_knows_a_node_of_that_name_is_a_finding() -> None:
    catalog, old = Catalog((_node("node-b", ID_B),)), [Override("node-b", HttpTarget("http://10.0.0.9:8000/mcp"))]
    lost = select(catalog, OWN, overrides=old)
    assert {(one.name, one.kind, one.detail) for one in lost.findings} == {
        ("node-b", FindingKind.OTHER_URL, URL),
        ("node-b", FindingKind.NAME_TAKEN, "node-b-bbbbbbbb"),
    }
    key = next(spec.key for spec in lost.peers if spec.name == "node-b")
    answers = select(catalog, OWN, overrides=old, previous=lost.peers, connected={key})
    assert [one.kind for one in answers.findings] == [FindingKind.NAME_TAKEN]


def test_what_the_catalog_claims_of_the_url_of_an_override_binds_its_link_to_nothing() -> None:
    both = (_node("forged", ID_B), _node("node-c", ID_C))
    assert _named_again(HttpTarget(URL), *both, **{URL: ID_C}).expected_node_id is None


def test_a_plain_instance_at_the_url_of_an_override_changes_nothing_of_it() -> None:
    plain = Instance(InstanceKey("dc1", "m", "p"), "10.0.0.2", 8000)
    spec = _named_again(HttpTarget(URL), plain)
    assert (spec.target, spec.is_mesh_node) == (HttpTarget(URL), False)


def test_a_false_entry_at_the_url_of_a_plain_peer_takes_no_node_away_and_suppresses_none() -> None:
    plain = HttpTarget("http://10.0.0.9:8999/mcp")
    genuine = _node("node-b", ID_B)
    false = Instance(InstanceKey("dc1", "m", "x"), "10.0.0.9", 8999, meta={"node_id": ID_B, "name": "node-b"})
    catalog = Catalog(tuple(sorted((genuine, false), key=lambda instance: instance.key)))
    before = select(Catalog((genuine,)), OWN, overrides=[Override("mine", plain)])
    linked = {spec.key for spec in before.peers}
    after = select(
        catalog, OWN, overrides=[Override("mine", plain)], learned={URL: ID_B}, connected=linked, previous=before.peers
    )
    assert {spec.name: spec.target.url for spec in after.peers} == {"mine": plain.url, "node-b": URL}
    assert [one.node_id for one in after.discovered["mine"]] == [None]
    removed = select(catalog, OWN, suppressions=after.discovered["mine"], learned={URL: ID_B}, previous=after.peers)
    assert "node-b" in [spec.name for spec in removed.peers]


@pytest.mark.parametrize("by_server", [False, True], ids=["an override", "a server of the file"])
def test_a_node_whose_name_was_taken_by_a_person_has_it_back_when_that_is_taken_away(by_server: bool) -> None:
    catalog = Catalog((_node("node-b", ID_B),))
    name = select(catalog, OWN).peers[0].name
    overrides = [] if by_server else [Override(name, HttpTarget("http://10.0.0.9:8999/mcp"))]
    servers = [name] if by_server else []
    taken = select(
        catalog,
        OWN,
        overrides=overrides,
        server_names=servers,
        previous=select(catalog, OWN).peers,
        learned={URL: ID_B},
    )
    (renamed,) = (spec for spec in taken.peers if spec.target.url == URL)
    assert renamed.name != name
    again = select(catalog, OWN, previous=taken.peers, freed=servers, learned={URL: ID_B})
    assert [spec.name for spec in again.peers] == [name]
    later = select(catalog, OWN, previous=again.peers, learned={URL: ID_B})
    assert [spec.name for spec in later.peers] == [name]


def test_a_namesake_does_not_take_the_name_of_a_node_whose_override_is_taken_away() -> None:
    genuine = _node("node-b", ID_B)
    namesake = Instance(InstanceKey("dc1", "m", "z"), "10.6.6.6", 8000, meta={"node_id": "aa" * 16, "name": "node-b"})
    both = Catalog((genuine, namesake))
    first = select(Catalog((genuine,)), OWN)
    second = select(both, OWN, previous=first.peers, learned={URL: ID_B})
    mine = [Override("node-b", HttpTarget(URL))]
    taken = select(both, OWN, overrides=mine, previous=second.peers, learned={URL: ID_B})
    again = select(both, OWN, previous=taken.peers, learned={URL: ID_B})
    urls = {spec.name: spec.target.url for spec in again.peers}
    assert urls["node-b"] == URL
    assert len(urls) == 2
