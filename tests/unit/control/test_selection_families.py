"""A node that a name of DNS lists by IPv4 and by IPv6: dialled at both, linked at one."""

from collections.abc import Iterable

import pytest

from agent.control.selection import Selection, select
from agent.model import NodeIdentity
from discovery.model import Catalog
from discovery.targets import instance_at

OWN = NodeIdentity("0a" * 16, "home")
ID_B, ID_C = "bb" * 16, "cc" * 16
FOUR, SIX = "http://10.0.0.1:8000/mcp", "http://[fd00::1]:8000/mcp"
NAME = "mesh.test:8000"


def listed(*addresses: str, by: str = NAME) -> Catalog:
    return Catalog(tuple(sorted((instance_at(by, one, 8000) for one in addresses), key=lambda one: one.key)))


BOTH = listed("10.0.0.1", "fd00::1")


def urls(selection: Selection) -> set[str]:
    return {spec.target.url for spec in selection.peers}


def keys(selection: Selection, *of: str) -> Iterable[str]:
    return {spec.key for spec in selection.peers if spec.target.url in of}


def test_both_addresses_are_dialled_before_it_is_known_who_is_there() -> None:
    assert urls(select(BOTH, OWN)) == {FOUR, SIX}


def test_two_nodes_of_one_name_are_two_links() -> None:
    first = select(BOTH, OWN)
    learned = {FOUR: ID_B, SIX: ID_C}
    again = select(BOTH, OWN, learned=learned, previous=first.peers, connected=set(keys(first, FOUR, SIX)))
    assert urls(again) == {FOUR, SIX}


@pytest.mark.parametrize("up", [FOUR, SIX])
def test_one_node_is_one_link_where_it_answers_and_that_is_no_finding(up: str) -> None:
    first = select(BOTH, OWN)
    learned = {FOUR: ID_B, SIX: ID_B}
    again = select(BOTH, OWN, learned=learned, previous=first.peers, connected=set(keys(first, up)))
    assert urls(again) == {up}
    assert again.findings == ()
    once_more = select(BOTH, OWN, learned=learned, previous=again.peers, connected=set(keys(again, up)))
    assert once_more == again


def test_one_node_that_answers_at_both_is_one_link_that_stays_where_it_is() -> None:
    first = select(BOTH, OWN)
    learned = {FOUR: ID_B, SIX: ID_B}
    again = select(BOTH, OWN, learned=learned, previous=first.peers, connected=set(keys(first, FOUR, SIX)))
    (spec,) = again.peers
    assert select(BOTH, OWN, learned=learned, previous=again.peers, connected={spec.key}).peers == again.peers


def test_a_node_whose_link_is_lost_is_dialled_at_both_again() -> None:
    learned = {FOUR: ID_B, SIX: ID_B}
    first = select(BOTH, OWN)
    up = select(BOTH, OWN, learned=learned, previous=first.peers, connected=set(keys(first, FOUR)))
    assert urls(select(BOTH, OWN, learned=learned, previous=up.peers, connected=())) == {FOUR, SIX}


def test_one_node_at_two_addresses_of_one_family_is_a_finding_and_linked_where_it_answers() -> None:
    other = "http://10.0.0.2:8000/mcp"
    catalog, learned = listed("10.0.0.1", "10.0.0.2"), {FOUR: ID_B, other: ID_B}
    first = select(catalog, OWN)
    again = select(catalog, OWN, learned=learned, previous=first.peers, connected=set(keys(first, other)))
    assert urls(again) == {other}
    assert [finding.kind for finding in again.findings] == ["same_node"]
