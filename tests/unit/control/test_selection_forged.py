"""Catalog entries that copy a node's ID: a link that has proven its node keeps its place, and no other does."""

from dataclasses import replace

import pytest

from agent.control.selection import Finding, FindingKind, select
from agent.model import HttpTarget, NodeIdentity, Override, PeerSpec
from agent.routing.names import node_alias
from discovery.model import Catalog, Health, Instance, InstanceKey

OWN = NodeIdentity("0a" * 16, "home")
ID_B, ID_C = "bb" * 16, "cc" * 16
EARLIER = "this node under an earlier name, or a dead copy of it; Consul removes it within minutes"
GENUINE, FORGED = "http://10.0.0.2:8000/mcp", "http://10.6.6.6:8000/mcp"


def _entry(service_id: str, address: str, epoch: str, node_id: str = ID_B, health: Health = Health.PASSING) -> Instance:
    meta = {"node_id": node_id, "name": "node-b", "epoch": epoch}
    return Instance(InstanceKey("dc1", "m", service_id), address, 8000, health, meta)


TRUE = _entry("true", "10.0.0.2", "1")
COPY = _entry("copy", "10.6.6.6", "99")
BEFORE = select(Catalog((TRUE,)), OWN).peers


def _urls(
    *found: Instance, previous: tuple[PeerSpec, ...] = BEFORE, answered: str = ID_B, connected: bool = True
) -> list[str]:
    catalog = Catalog(tuple(sorted(found, key=lambda instance: instance.key)))
    up = {spec.key for spec in previous} if connected else set()
    selection = select(catalog, OWN, previous=previous, connected=up, learned={GENUINE: answered})
    return [spec.target.url for spec in selection.peers]


def test_a_copied_node_id_with_a_later_start_does_not_take_the_place_of_a_proven_link() -> None:
    assert _urls(TRUE, COPY) == [GENUINE]
    assert _urls(replace(TRUE, health=Health.CRITICAL), COPY) == [GENUINE]


def test_the_copy_of_a_node_id_is_named_as_a_finding() -> None:
    up = {spec.key for spec in BEFORE}
    selection = select(Catalog((COPY, TRUE)), OWN, previous=BEFORE, connected=up, learned={GENUINE: ID_B})
    assert selection.findings == (Finding("copy", FindingKind.SAME_NODE, "true"),)


def test_a_link_that_is_down_or_proved_another_node_gives_its_place_to_the_later_start() -> None:
    assert _urls(TRUE, COPY, connected=False) == [FORGED]
    assert _urls(TRUE, COPY, answered=ID_C) == [FORGED]
    assert _urls(TRUE, COPY, previous=select(Catalog((COPY,)), OWN).peers) == [FORGED]


def test_a_node_that_moved_is_followed_when_its_old_entry_is_gone() -> None:
    assert _urls(COPY) == [FORGED]


def test_a_node_that_answers_at_another_url_than_before_is_linked_there_and_stays_so() -> None:
    overrides = [Override("a", HttpTarget("http://left/mcp")), Override("b", HttpTarget("http://now/mcp"))]
    learned = {override.target.url: ID_B for override in overrides}
    apart = select(Catalog(), OWN, overrides=overrides).peers
    moved = select(Catalog(), OWN, overrides=overrides, learned=learned, connected={"peer:b"}, previous=apart).peers
    assert [(spec.name, spec.aliases) for spec in moved] == [("b", ("a",))]
    # Neither URL answers: its link does not go to and fro between them.
    down = select(Catalog(), OWN, overrides=overrides, learned=learned, previous=moved).peers
    assert down == moved


@pytest.mark.parametrize("name", ["evil", "node-b"])
def test_the_removal_of_an_entry_that_only_claims_a_node_hides_that_entry_alone(name: str) -> None:
    claiming = replace(COPY, meta={**COPY.meta, "name": name})
    (claimed,) = select(Catalog((claiming,)), OWN).peers
    removed = select(Catalog((claiming,)), OWN).discovered[claimed.name]
    selection = select(Catalog((claiming, TRUE)), OWN, suppressions=removed)
    assert [(spec.name, spec.target.url) for spec in selection.peers] == [("node-b", GENUINE)]
    assert select(Catalog((claiming,)), OWN, suppressions=removed).peers == ()
    # Another service ID or name at the same place is the same liar.
    again = replace(claiming, key=InstanceKey("dc1", "m", "else"), meta={**COPY.meta, "name": "else"})
    assert select(Catalog((again,)), OWN, suppressions=removed).peers == ()


def test_the_removal_of_a_node_that_has_proven_itself_hides_it_wherever_it_comes_back() -> None:
    removed = select(Catalog((TRUE,)), OWN, learned={GENUINE: ID_B}).discovered["node-b"]
    assert [one.node_id for one in removed] == [ID_B]
    assert select(Catalog((COPY,)), OWN, suppressions=removed).peers == ()


def test_our_service_id_with_another_node_id_is_another_process_that_has_taken_it() -> None:
    service_id = node_alias(OWN.name, OWN.node_id)
    ours, taken = (_entry(service_id, f"10.0.0.{number}", "1", one) for number, one in ((1, OWN.node_id), (7, ID_B)))
    taken = replace(taken, key=replace(taken.key, node="there"))
    found = select(Catalog((ours, taken)), OWN)
    assert [(one.kind, one.detail) for one in found.findings] == [
        (FindingKind.OWN_ID_ELSEWHERE, f"10.0.0.7:8000, Consul node there, node ID {ID_B}")
    ]
    assert [one.name for one in found.peers] == ["node-b"]


def test_what_cannot_be_a_peer_is_named_with_its_check_as_well() -> None:
    copied = replace(_entry("copy", "10.6.6.6", "2", OWN.node_id, Health.CRITICAL), trouble="mesh node: TTL expired")
    portless = replace(_entry("none", "10.6.6.7", "1", ID_B, Health.CRITICAL), port=0, trouble="mesh node: refused")
    found = select(Catalog((copied, portless)), OWN)
    assert found.peers == ()
    assert [(one.name, one.kind, one.detail) for one in found.findings] == [
        ("copy", FindingKind.CRITICAL, "mesh node: TTL expired"),
        ("copy", FindingKind.OWN_EARLIER_NAME, f"10.6.6.6:8000, Consul node m ({EARLIER})"),
        ("none", FindingKind.CRITICAL, "mesh node: refused"),
        ("none", FindingKind.UNUSABLE, "port 0 is none"),
    ]


def test_our_node_id_under_another_name_where_we_are_ourselves_is_no_copy_also_while_it_is_not_dead_yet() -> None:
    ours = _entry(node_alias(OWN.name, OWN.node_id), "10.0.0.1", "3", OWN.node_id)
    before, copy = (
        replace(ours, key=replace(ours.key, service_id="before")),
        _entry("copy", "10.6.6.6", "2", OWN.node_id),
    )
    found = select(Catalog((before, copy, ours)), OWN)
    assert [(one.name, one.kind, one.detail) for one in found.findings] == [
        ("before", FindingKind.OWN_EARLIER_NAME, f"10.0.0.1:8000, Consul node m ({EARLIER})"),
        ("copy", FindingKind.OWN_ID_ELSEWHERE, "10.6.6.6:8000, Consul node m"),
    ]


def test_an_entry_of_ours_that_was_left_over_makes_no_strangers_of_those_beside_us() -> None:
    ours = _entry("home", "127.0.0.1", "1", OWN.node_id)
    left = replace(ours, key=replace(ours.key, node="a machine of another name"))
    beside = _entry("node-b", "127.0.0.1", "1")
    catalog = Catalog(tuple(sorted((ours, left, beside), key=lambda one: one.key)))
    assert [spec.name for spec in select(catalog, OWN).peers] == ["node-b"]
