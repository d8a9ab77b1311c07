"""Which peers are wanted, under which names, and what status shows of the rest."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest

from agent.config.values import StaticPeer
from agent.control.candidates import url_key
from agent.control.selection import Finding, FindingKind, Selection, select
from agent.model import HttpTarget, NodeIdentity, Override, PeerScope, PeerSource, PeerSpec, Suppression
from discovery.model import Catalog, Health, Instance, InstanceKey

OWN = NodeIdentity("0a" * 16, "home")
ID_B, ID_C = "bb" * 16, "cc" * 16
TOKEN = "peer-token"


def _node(
    name: str, node_id: str, address: str = "10.0.0.2", *, health: Health = Health.PASSING, **meta: str
) -> Instance:
    key = InstanceKey("dc1", "machine", f"{name}-{node_id[:8]}")
    return Instance(key, address, 8000, health, {"node_id": node_id, "name": name, **meta})


def _plain(
    service_id: str, address: str = "10.0.0.9", node: str = "machine", health: Health = Health.PASSING
) -> Instance:
    return Instance(InstanceKey("dc1", node, service_id), address, 9000, health)


def _catalog(*instances: Instance) -> Catalog:
    return Catalog(tuple(sorted(instances, key=lambda instance: instance.key)))


def _names(selection: Selection) -> list[str]:
    return [spec.name for spec in selection.peers]


def _only(selection: Selection) -> PeerSpec:
    (spec,) = selection.peers
    return spec


def _up(specs: Iterable[PeerSpec]) -> set[str]:
    return {spec.key for spec in specs}


def _said(selection: Selection) -> list[tuple[str, FindingKind]]:
    return [(finding.name, finding.kind) for finding in selection.findings]


# What the catalog says


def test_a_peer_has_the_weight_of_the_catalog_however_it_was_named() -> None:
    heavy = replace(_node("node-b", ID_B), weight=3)
    assert _only(select(_catalog(heavy), OWN)).weight == 3
    override = Override("mine", HttpTarget("http://10.0.0.2:8000/mcp"))
    assert _only(select(_catalog(heavy), OWN, overrides=[override])).weight == 3
    assert _only(select(_catalog(), OWN, overrides=[override])).weight == 1


def test_an_entry_of_our_own_that_the_catalog_lists_more_than_once_is_a_finding() -> None:
    ours = _node(OWN.name, OWN.node_id)
    renamed = replace(ours, key=replace(ours.key, node="renamed"))
    assert select(_catalog(ours), OWN).findings == ()
    found = select(_catalog(ours, renamed), OWN)
    assert found.peers == ()
    assert [(one.kind, one.detail) for one in found.findings] == [
        (FindingKind.OWN_ENTRY_TWICE, "Consul node machine, at 10.0.0.2:8000"),
        (FindingKind.OWN_ENTRY_TWICE, "Consul node renamed, at 10.0.0.2:8000"),
    ]


def test_our_node_id_under_another_service_id_is_another_process_with_our_state() -> None:
    ours = _node(OWN.name, OWN.node_id)
    copied = replace(ours, key=replace(ours.key, node="there", service_id="copy-1"), address="10.0.0.7")
    found = select(_catalog(ours, copied), OWN)
    assert found.peers == ()
    assert found.findings == (Finding("copy-1", FindingKind.OWN_ID_ELSEWHERE, "10.0.0.7:8000, Consul node there"),)


def test_an_entry_that_is_critical_or_in_maintenance_is_a_finding_with_its_check_ours_too() -> None:
    sick = replace(_node("node-b", ID_B, health=Health.CRITICAL), trouble="mesh node: TTL expired")
    silent = _plain("p", health=Health.CRITICAL)
    resting = replace(_node("node-c", ID_C, "10.0.0.3"), maintenance="new disks")
    ours = replace(_node(OWN.name, OWN.node_id), health=Health.CRITICAL, trouble="http: 503")
    found = select(_catalog(sick, silent, resting, ours), OWN)
    assert _names(found) == ["node-c"]
    assert found.findings == (
        Finding(f"{OWN.name}-{OWN.node_id[:8]}", FindingKind.CRITICAL, "http: 503"),
        Finding("node-b-bbbbbbbb", FindingKind.CRITICAL, "mesh node: TTL expired"),
        Finding("node-c-cccccccc", FindingKind.IN_MAINTENANCE, "new disks"),
        Finding("p", FindingKind.CRITICAL, "the catalog does not say why"),
    )


def test_a_peer_in_maintenance_is_dialled_as_ever_and_marked_however_it_was_named() -> None:
    resting = replace(_node("node-b", ID_B), maintenance="new disks")
    override = Override("mine", HttpTarget("http://10.0.0.2:8000/mcp"))
    for spec in (_only(select(_catalog(resting), OWN)), _only(select(_catalog(resting), OWN, overrides=[override]))):
        assert spec.maintenance == "new disks"
        (back,) = select(_catalog(replace(resting, maintenance="")), OWN, previous=[spec]).peers
        assert back.maintenance == ""


@pytest.mark.parametrize(("told", "weight"), [(0, 1), (-5, 1), (100, 100), (10**9, 100)])
def test_a_weight_in_the_catalog_is_no_claim_to_every_call(told: int, weight: int) -> None:
    assert _only(select(_catalog(replace(_node("node-b", ID_B), weight=told)), OWN)).weight == weight


def test_a_discovered_node_is_dialled_where_its_meta_says_and_sent_no_token() -> None:
    selection = select(_catalog(_node("node-b", ID_B, scheme="https", mcp_path="/x/mcp")), OWN)
    spec = _only(selection)
    assert spec.target == HttpTarget("https://10.0.0.2:8000/x/mcp")
    assert (spec.name, spec.source, spec.scope) == ("node-b", PeerSource.DISCOVERY, PeerScope.LOCAL)
    assert (spec.expected_node_id, spec.is_mesh_node) == (ID_B, True)
    assert spec.aliases == ("node-b-bbbbbbbb",)
    assert selection.findings == ()


def test_an_instance_without_meta_is_a_plain_peer_named_by_its_service_id_and_gets_no_token() -> None:
    spec = _only(select(_catalog(_plain("node-2")), OWN))
    assert (spec.name, spec.target) == ("node-2", HttpTarget("http://10.0.0.9:9000/mcp"))
    assert (spec.expected_node_id, spec.is_mesh_node, spec.aliases) == (None, False, ())


def test_an_ipv6_address_is_put_in_brackets() -> None:
    assert _only(select(_catalog(_plain("p", "fd00::1")), OWN)).target.url == "http://[fd00::1]:9000/mcp"


def test_we_do_not_dial_our_own_registration_and_say_nothing_of_it() -> None:
    assert select(_catalog(_node("home", OWN.node_id)), OWN) == Selection()


def test_an_instance_that_once_answered_as_ourselves_is_left_out_and_named() -> None:
    selection = select(_catalog(_plain("p")), OWN, learned={"http://10.0.0.9:9000/mcp": OWN.node_id})
    assert selection.peers == ()
    assert _said(selection) == [("p", FindingKind.OURSELVES)]


@pytest.mark.parametrize(
    "instance",
    [
        replace(_plain("p"), port=0),
        replace(_plain("p"), port=70000),
        replace(_plain("p"), address=""),
        replace(_plain("p"), address="user@evil"),
        replace(_plain("p"), address="host/path"),
        replace(_plain("p"), address="host:80"),
        replace(_plain("p"), address="fe80::1%eth0"),
        replace(_plain("p"), meta={"scheme": "file"}),
        replace(_plain("p"), meta={"mcp_path": "/mcp?x=1"}),
        replace(_plain("p"), meta={"mcp_path": "@evil/"}),
        replace(_plain("p"), meta={"node_id": "a/b"}),
    ],
)
def test_what_gives_no_clean_url_is_left_out_and_named(instance: Instance) -> None:
    selection = select(_catalog(instance), OWN)
    assert selection.peers == ()
    assert _said(selection) == [("p", FindingKind.UNUSABLE)]


def test_a_loopback_address_of_another_machine_is_not_ours_to_dial() -> None:
    own = _node("home", OWN.node_id, "127.0.0.1")
    near, far = _plain("near", "127.0.0.1"), _plain("far", "127.0.0.1", node="elsewhere")
    assert _names(select(_catalog(own, near, far), OWN)) == ["near"]


# Health


def test_a_warning_instance_is_dialled_and_a_critical_one_is_not() -> None:
    catalog = _catalog(_node("warm", ID_B, health=Health.WARNING), _node("cold", ID_C, health=Health.CRITICAL))
    assert _names(select(catalog, OWN)) == ["warm"]


def test_a_critical_instance_keeps_its_link_while_the_link_is_up() -> None:
    healthy = select(_catalog(_node("node-b", ID_B), _plain("p")), OWN).peers
    sick = _catalog(_node("node-b", ID_B, health=Health.CRITICAL), _plain("p", health=Health.CRITICAL))
    assert _names(select(sick, OWN, previous=healthy, connected=_up(healthy))) == ["node-b", "p"]
    assert _names(select(sick, OWN, previous=healthy)) == []


def test_a_replaced_node_gets_its_name_although_the_dead_one_is_still_registered() -> None:
    before = select(_catalog(_node("node-b", ID_B)), OWN).peers
    catalog = _catalog(_node("node-b", ID_B, health=Health.CRITICAL), _node("node-b", ID_C, "10.0.0.3"))
    spec = _only(select(catalog, OWN, previous=before))
    assert (spec.name, spec.expected_node_id) == ("node-b", ID_C)


def test_the_sighting_changes_with_address_and_start_and_is_empty_while_critical() -> None:
    instances = (
        _node("n", ID_B, epoch="1"),
        _node("n", ID_B, epoch="2"),
        _node("n", ID_B, "10.0.0.7", epoch="2"),
    )
    sightings = [_only(select(_catalog(instance), OWN)).sighting for instance in instances]
    assert len(set(sightings)) == 3
    assert "" not in sightings
    warm = select(_catalog(_node("n", ID_B, epoch="1", health=Health.WARNING)), OWN).peers
    assert warm[0].sighting == sightings[0]
    sick = _catalog(_node("n", ID_B, epoch="1", health=Health.CRITICAL))
    assert _only(select(sick, OWN, previous=warm, connected=_up(warm))).sighting == ""


# Names


def test_of_two_nodes_of_one_name_the_second_gets_its_id_and_both_are_kept() -> None:
    selection = select(_catalog(_node("twin", ID_C), _node("twin", ID_B, "10.0.0.3")), OWN)
    assert [(spec.name, spec.expected_node_id) for spec in selection.peers] == [("twin", ID_B), ("twin-cccccccc", ID_C)]
    assert selection.findings == (Finding("twin", FindingKind.NAME_TAKEN, "twin-cccccccc"),)


def test_a_node_keeps_its_name_when_a_namesake_with_a_lower_id_joins() -> None:
    before = select(_catalog(_node("twin", ID_C)), OWN).peers
    after = select(_catalog(_node("twin", ID_C), _node("twin", ID_B, "10.0.0.3")), OWN, previous=before)
    assert {spec.name: spec.expected_node_id for spec in after.peers} == {"twin": ID_C, "twin-bbbbbbbb": ID_B}


def test_a_namesake_keeps_its_second_name_while_the_first_restarts_so_that_no_link_is_closed() -> None:
    first, second = _node("twin", ID_B), _node("twin", ID_C, "10.0.0.3")
    both = select(_catalog(first, second), OWN).peers
    alone = select(_catalog(second), OWN, previous=both).peers
    assert [(spec.name, spec.expected_node_id) for spec in alone] == [("twin-cccccccc", ID_C)]
    back = select(_catalog(first, second), OWN, previous=alone).peers
    assert {spec.name: spec.expected_node_id for spec in back} == {"twin": ID_B, "twin-cccccccc": ID_C}


@pytest.mark.parametrize("taken", ["server", "override", "static", "home"])
def test_a_discovered_node_takes_no_name_that_is_taken(taken: str) -> None:
    selection = select(
        _catalog(_node(taken, ID_B)),
        OWN,
        server_names={"server"},
        overrides=[Override("override", HttpTarget("http://elsewhere/mcp"))],
        statics=[StaticPeer("static", "http://other/mcp")],
    )
    assert {spec.name for spec in selection.peers} == {f"{taken}-bbbbbbbb", "override", "static"}
    assert Finding(taken, FindingKind.NAME_TAKEN, f"{taken}-bbbbbbbb") in selection.findings


def test_an_illegal_name_is_replaced_by_the_service_id_or_by_one_with_a_digest() -> None:
    node = _node("bad__name", ID_B)
    good_id = replace(node, key=replace(node.key, service_id="good-id"))
    assert _only(select(_catalog(good_id), OWN)).name == "good-id"
    selection = select(_catalog(_plain("web:1/é")), OWN)
    assert _only(selection).name.startswith("web-1-")
    assert _said(selection) == [("web:1/é", FindingKind.NAME_ILLEGAL)]


def test_plain_instances_of_one_service_id_on_two_agents_are_two_peers() -> None:
    selection = select(_catalog(_plain("p"), _plain("p", "10.0.0.8", node="other")), OWN)
    first, second = selection.peers
    assert first.name == "p"
    assert second.name.startswith("p-")
    assert _said(selection) == [("p", FindingKind.NAME_TAKEN)]


def test_an_alias_never_means_two_peers_nor_something_else() -> None:
    node = _node("node-b", ID_B)
    squatter = replace(node, key=replace(node.key, service_id="node-c"))
    selection = select(_catalog(squatter, _node("node-c", ID_C, "10.0.0.3")), OWN)
    assert {spec.name: spec.aliases for spec in selection.peers} == {"node-b": (), "node-c": ("node-c-cccccccc",)}


# One link a node


def test_of_several_instances_of_one_node_the_one_that_is_up_and_latest_is_dialled() -> None:
    def url(*instances: Instance) -> str:
        return _only(select(_catalog(*instances), OWN)).target.url

    old, new = _node("n", ID_B, "10.0.0.1", epoch="9"), _node("n", ID_B, "10.0.0.2", epoch="10")
    old = replace(old, key=replace(old.key, node="a"))
    assert url(old, new) == "http://10.0.0.2:8000/mcp"
    assert url(old, replace(new, health=Health.CRITICAL)) == "http://10.0.0.1:8000/mcp"


def test_a_plain_instance_that_turned_out_to_be_a_known_node_gets_no_second_link() -> None:
    selection = select(
        _catalog(_node("node-b", ID_B), _plain("legacy")), OWN, learned={"http://10.0.0.9:9000/mcp": ID_B}
    )
    assert len(selection.peers) == 1
    assert (FindingKind.SAME_NODE) in [kind for _, kind in _said(selection)]


def test_two_plain_instances_of_one_url_are_one_peer() -> None:
    selection = select(_catalog(_plain("a"), _plain("b")), OWN)
    assert _names(selection) == ["a"]
    assert selection.findings == (Finding("b", FindingKind.SAME_NODE, "a"),)


# Overrides and static peers


def _override(name: str, url: str, token: str | None = None, scope: PeerScope = PeerScope.LOCAL) -> Override:
    return Override(name, HttpTarget(url, token=token), scope)


@pytest.mark.parametrize(
    "url", ["http://10.0.0.2:8000/mcp", "HTTP://10.0.0.2:8000/mcp/", "http://10.0.0.2:8000/mcp/local"]
)
def test_an_override_beats_the_catalog_where_both_name_one_url(url: str) -> None:
    override = _override("mine", url, "secret", PeerScope.MESH)
    selection = select(_catalog(_node("node-b", ID_B)), OWN, overrides=[override])
    spec = _only(selection)
    assert (spec.name, spec.source, spec.scope) == ("mine", PeerSource.OVERRIDE, PeerScope.MESH)
    assert spec.target == override.target
    assert spec.aliases == ("node-b", "node-b-bbbbbbbb")
    assert spec.sighting != ""


def test_an_override_beats_the_catalog_where_both_lead_to_one_node() -> None:
    override = _override("mine", "http://balancer/mcp")
    selection = select(
        _catalog(_node("node-b", ID_B)), OWN, overrides=[override], learned={"http://balancer/mcp": ID_B}
    )
    assert _names(selection) == ["mine"]
    assert selection.peers[0].target.url == "http://balancer/mcp"
    assert _said(selection) == [("mine", FindingKind.OTHER_URL)]


def test_a_token_goes_where_an_operator_has_given_it_and_nowhere_else() -> None:
    selection = select(
        _catalog(_node("node-b", ID_B)),
        OWN,
        overrides=[_override("mine", "http://a/mcp", "its-own")],
        statics=[StaticPeer("fixed", "http://b/mcp")],
    )
    tokens = {spec.name: spec.target.token for spec in selection.peers}
    assert tokens == {"mine": "its-own", "fixed": None, "node-b": None}


def test_an_override_beats_a_static_peer_of_its_name_or_place_and_that_beats_the_catalog() -> None:
    statics = [StaticPeer("node-b", "http://10.0.0.2:8000/mcp")]
    catalog = _catalog(_node("other", ID_B))
    assert [(s.name, s.source) for s in select(catalog, OWN, statics=statics).peers] == [("node-b", PeerSource.STATIC)]
    elsewhere = select(catalog, OWN, statics=statics, overrides=[_override("node-b", "http://else/mcp")])
    assert {spec.name: spec.source for spec in elsewhere.peers} == {
        "node-b": PeerSource.OVERRIDE,
        "other": PeerSource.DISCOVERY,
    }
    assert Finding("node-b", FindingKind.NAME_TAKEN, "") in elsewhere.findings
    same_place = select(catalog, OWN, statics=statics, overrides=[_override("mine", "http://10.0.0.2:8000/mcp")])
    assert [(s.name, s.aliases) for s in same_place.peers] == [("mine", ("node-b", "other", "other-bbbbbbbb"))]


def test_of_two_overrides_that_lead_to_one_node_the_one_that_has_the_link_keeps_it() -> None:
    both = [_override("b", "http://b/mcp"), _override("a", "http://a/mcp")]
    previous = select(Catalog(), OWN, overrides=both[:1]).peers
    learned = {"http://b/mcp": ID_B, "http://a/mcp": ID_B}
    selection = select(Catalog(), OWN, overrides=both, learned=learned, previous=previous, connected=_up(previous))
    assert (_only(selection).name, _only(selection).aliases) == ("b", ("a",))
    assert select(Catalog(), OWN, overrides=both, learned=learned, previous=selection.peers).peers == selection.peers


def test_a_link_that_is_up_knows_better_than_the_catalog_which_node_is_there_and_one_that_is_down_does_not() -> None:
    overrides = [_override("mine", "http://10.0.0.2:8000/mcp")]
    previous = select(Catalog(), OWN, overrides=overrides).peers

    def names(*, connected: Sequence[str]) -> list[str]:
        catalog = _catalog(_node("new", ID_C, "10.0.0.2"), _node("old", ID_B, "10.0.0.3"))
        return _names(
            select(
                catalog,
                OWN,
                overrides=overrides,
                previous=previous,
                learned={"http://10.0.0.2:8000/mcp": ID_B},
                connected=connected,
            )
        )

    assert names(connected=["peer:mine"]) == ["mine"]
    assert names(connected=[]) == ["mine", "old"]


def test_two_overrides_that_led_to_one_node_stay_one_link_whatever_the_catalog_says_of_the_folded_ones_url() -> None:
    both = [_override("folded", "http://10.0.0.2:8000/mcp"), _override("a", "http://a/mcp")]
    catalog = _catalog(_node("stale", ID_C, "10.0.0.2"))
    learned = {override.target.url: ID_B for override in both}
    selection = select(catalog, OWN, overrides=both, learned=learned, connected={"peer:a", "peer:folded"})
    again = select(catalog, OWN, overrides=both, learned=learned, connected={"peer:a"}, previous=selection.peers)
    assert _names(selection) == _names(again) == ["a"]


def test_an_override_that_led_to_ourselves_is_not_dialled_again() -> None:
    override = _override("me", "http://localhost:8000/mcp")
    selection = select(Catalog(), OWN, overrides=[override], learned={override.target.url: OWN.node_id})
    assert (selection.peers, _said(selection)) == ((), [("me", FindingKind.OURSELVES)])


def test_the_catalog_cannot_call_an_override_ourselves() -> None:
    forged = _node("home", OWN.node_id, "10.0.0.2")
    assert _names(select(_catalog(forged), OWN, overrides=[_override("mine", "http://10.0.0.2:8000/mcp")])) == ["mine"]


# Suppressions


def _removed(catalog: Catalog, name: str) -> tuple[Suppression, ...]:
    """What an operator's DELETE of that peer leaves behind; nodes have proven themselves."""
    learned = {_url_of(found): found.meta["node_id"] for found in catalog.instances if "node_id" in found.meta}
    return select(catalog, OWN, learned=learned).discovered[name]


def _url_of(found: Instance) -> str:
    return f"http://{found.address}:{found.port}/mcp"


def test_a_suppressed_peer_stays_away_when_it_comes_back_changed() -> None:
    removed = _removed(_catalog(_node("node-b", ID_B)), "node-b")
    for comes_back in (
        _node("node-b", ID_B, "10.0.0.77", epoch="5"),
        _node("renamed", ID_B),
        _node("node-b", ID_C),
    ):
        selection = select(_catalog(comes_back, _node("other", "dd" * 16)), OWN, suppressions=removed)
        assert _names(selection) == ["other"]
        assert _said(selection) == []


def test_a_suppressed_plain_peer_stays_away_when_it_moves() -> None:
    removed = _removed(_catalog(_plain("p")), "p")
    assert _names(select(_catalog(_plain("p", "10.0.0.10")), OWN, suppressions=removed)) == []


def test_removing_one_of_two_namesakes_leaves_the_other() -> None:
    catalog = _catalog(_node("twin", ID_B), _node("twin", ID_C, "10.0.0.3"))
    for name, left in (("twin", ID_C), ("twin-cccccccc", ID_B)):
        selection = select(catalog, OWN, suppressions=_removed(catalog, name))
        assert [(spec.name, spec.expected_node_id) for spec in selection.peers] == [("twin", left)]


def test_an_override_of_a_suppressed_peer_is_dialled() -> None:
    catalog = _catalog(_node("node-b", ID_B))
    selection = select(
        catalog,
        OWN,
        suppressions=_removed(catalog, "node-b"),
        overrides=[_override("node-b", "http://10.0.0.2:8000/mcp")],
    )
    assert [(spec.name, spec.source) for spec in selection.peers] == [("node-b", PeerSource.OVERRIDE)]


def test_removing_an_override_can_suppress_what_discovery_says_of_the_same_peer() -> None:
    catalog = _catalog(_node("node-b", ID_B))
    override = _override("mine", "http://10.0.0.2:8000/mcp")
    unproven = select(catalog, OWN, overrides=[override]).discovered["mine"]
    assert unproven == (Suppression("node-b-bbbbbbbb", None, "node-b-bbbbbbbb"),)
    assert _names(select(catalog, OWN, suppressions=unproven)) == []
    removed = select(catalog, OWN, overrides=[override], learned={override.target.url: ID_B}).discovered["mine"]
    assert removed == (Suppression("node-b", ID_B, "node-b-bbbbbbbb"),)
    assert select(catalog, OWN, suppressions=removed).peers == ()


def test_where_a_named_peer_led_before_does_not_say_which_instance_of_a_node_discovery_links() -> None:
    catalog = _catalog(_plain("b", "10.0.0.1"), _plain("z", "10.0.0.2"))
    learned = {"http://10.0.0.1:9000/mcp": ID_B, "http://10.0.0.2:9000/mcp": ID_B}
    removed = [Suppression("z", None, None)]
    named = select(catalog, OWN, statics=[StaticPeer("mine", "http://10.0.0.2:9000/mcp")], learned=learned)
    once = select(catalog, OWN, suppressions=removed, learned=learned, previous=named.peers, connected=_up(named.peers))
    again = select(catalog, OWN, suppressions=removed, learned=learned, previous=once.peers, connected=_up(once.peers))
    assert _names(once) == _names(again) == ["b"]


# URLs


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://Host/mcp", "http://host:80/mcp/"),
        ("https://host/mcp", "https://host:443/mcp/local/"),
        ("http://[FD00::1]:80/", "http://[fd00::1]"),
    ],
)
def test_urls_of_one_endpoint_are_equal(one: str, other: str) -> None:
    assert url_key(one) == url_key(other)


def test_urls_of_different_endpoints_are_not() -> None:
    urls = ["http://h/mcp", "https://h/mcp", "http://h:81/mcp", "http://h/x", "http://h/mcp?a=1", "http://[bad", ""]
    assert len({url_key(url) for url in urls}) == len(urls)


def test_of_two_entries_of_a_node_the_one_at_home_is_dialled_and_one_elsewhere_is_marked() -> None:
    near = _node("node-b", ID_B)
    far = replace(near, key=replace(near.key, datacenter="dc2"), address="198.51.100.1", far=True)
    assert [(spec.target.url, spec.datacenter) for spec in select(_catalog(near, far), OWN).peers] == [
        ("http://10.0.0.2:8000/mcp", "")
    ]
    assert _only(select(_catalog(far), OWN)).datacenter == "dc2"
    sick = replace(near, health=Health.CRITICAL)
    assert _only(select(_catalog(sick, far), OWN)).datacenter == "dc2"
