"""A node that a catalog has at one address and a file at another: dialled at both, linked where it answers."""

from dataclasses import replace

from agent.control.selection import FindingKind, Selection, select
from agent.model import NodeIdentity
from discovery.model import Catalog, Instance, InstanceKey
from discovery.targets import instance_at

OWN = NodeIdentity("0a" * 16, "home")
ID_B = "bb" * 16
OLD, NEW = "http://10.0.0.1:8000/mcp", "http://10.0.0.2:8000/mcp"
OF_CATALOG = Instance(
    InstanceKey("dc2", "machine", "b-bbbbbbbb"), "10.0.0.1", 8000, meta={"node_id": ID_B, "name": "b", "epoch": "7"}
)
OF_FILE = instance_at("/etc/peers.json", "10.0.0.2", 8000)
BOTH = Catalog(tuple(sorted((OF_CATALOG, OF_FILE), key=lambda one: one.key)))
LEARNED = {OLD: ID_B, NEW: ID_B}


def urls(selection: Selection) -> set[str]:
    return {spec.target.url for spec in selection.peers}


def keys(selection: Selection, url: str) -> set[str]:
    return {spec.key for spec in selection.peers if spec.target.url == url}


def test_a_node_is_linked_where_a_file_has_it_while_the_catalog_has_another_address() -> None:
    first = select(BOTH, OWN)
    assert urls(first) == {OLD, NEW}
    again = select(BOTH, OWN, learned=LEARNED, previous=first.peers, connected=keys(first, NEW))
    assert urls(again) == {NEW}
    assert [(one.name, one.kind) for one in again.findings] == [("b-bbbbbbbb", FindingKind.SAME_NODE)]
    assert select(BOTH, OWN, learned=LEARNED, previous=again.peers, connected=keys(again, NEW)) == again


def test_a_node_that_is_not_linked_is_dialled_at_both() -> None:
    first = select(BOTH, OWN)
    for up, of in ((NEW, first), (OLD, first)):
        linked = select(BOTH, OWN, learned=LEARNED, previous=of.peers, connected=keys(of, up))
        assert urls(linked) == {up}
        assert urls(select(BOTH, OWN, learned=LEARNED, previous=linked.peers, connected=())) == {OLD, NEW}


def test_what_a_catalog_says_of_a_place_counts_where_a_file_lists_it_too() -> None:
    first = select(BOTH, OWN)
    linked = select(BOTH, OWN, learned=LEARNED, previous=first.peers, connected=keys(first, NEW))
    moved = replace(OF_CATALOG, address="10.0.0.2", maintenance="upgrade")
    both = Catalog(tuple(sorted((moved, OF_FILE), key=lambda one: one.key)))
    chosen = select(both, OWN, learned=LEARNED, previous=linked.peers, connected=keys(linked, NEW))
    (spec,) = chosen.peers
    assert (spec.target.url, spec.maintenance) == (NEW, "upgrade")
    assert [one.kind for one in chosen.findings] == [FindingKind.IN_MAINTENANCE], "that both list it is no news"


def test_what_a_catalog_says_of_a_node_counts_at_the_address_of_a_file_too() -> None:
    first = select(BOTH, OWN)
    said = replace(OF_CATALOG, weight=3, maintenance="upgrade", far=True)
    both = Catalog(tuple(sorted((said, OF_FILE), key=lambda one: one.key)))
    (spec,) = select(both, OWN, learned=LEARNED, previous=first.peers, connected=keys(first, NEW)).peers
    assert (spec.target.url, spec.weight, spec.maintenance, spec.datacenter) == (NEW, 3, "upgrade", "dc2")
