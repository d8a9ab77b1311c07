"""Nodes that a file or DNS lists by their addresses alone, and that an operator removes: the node is what is meant."""

from pathlib import Path

from agent.control.selection import select
from agent.control.selector import Selector
from agent.model import LinkState, LinkView, NodeIdentity, PeerSpec, Suppression
from agent.state.overrides import OverrideStore
from discovery.model import Catalog
from discovery.targets import instance_at

OWN = NodeIdentity("0a" * 16, "home")
ID_B, ID_C = "bb" * 16, "cc" * 16
HERE, THERE = "http://10.0.0.1:8000/mcp", "http://10.0.0.2:8000/mcp"


def listed(*addresses: str) -> Catalog:
    found = (instance_at("mesh.test:8000", one, 8000) for one in addresses)
    return Catalog(tuple(sorted(found, key=lambda one: one.key)))


def ready(spec: PeerSpec) -> LinkView:
    return LinkView(spec, LinkState.READY, identity=NodeIdentity(ID_B, "b"), ready_at_s=1.0)


def test_a_removed_node_stays_away_at_another_address_and_another_node_there_is_linked() -> None:
    (spec,) = select(listed("10.0.0.1"), OWN).peers
    (removed,) = select(listed("10.0.0.1"), OWN, learned={HERE: ID_B}).discovered[spec.name]
    assert (removed.name, removed.node_id) == (spec.name, ID_B)
    away = [removed]
    assert select(listed("10.0.0.1"), OWN, suppressions=away).peers == (), "before it has answered after a restart"
    assert select(listed("10.0.0.1"), OWN, suppressions=away, learned={HERE: ID_B}).peers == ()
    moved = listed("10.0.0.2")
    assert select(moved, OWN, suppressions=away, learned={THERE: ID_B}).peers == ()
    assert [peer.target.url for peer in select(moved, OWN, suppressions=away, learned={THERE: ID_C}).peers] == [THERE]
    both = select(listed("10.0.0.1", "10.0.0.2"), OWN, suppressions=away, learned={HERE: ID_C, THERE: ID_B})
    assert [peer.target.url for peer in both.peers] == [HERE], "it has moved, and another one is where it was"


async def test_a_node_that_has_moved_is_reset_by_the_name_that_it_has_now(tmp_path: Path) -> None:
    store = OverrideStore.open(tmp_path)
    selector = Selector(OWN, store)
    await selector.select(listed("10.0.0.2"), (), [])
    (spec,) = selector.selection.peers
    await selector.select(listed("10.0.0.2"), (), [ready(spec)])
    removed = Suppression("10.0.0.1-8000", ID_B, "10.0.0.1-8000")
    await store.suppress(removed)
    await selector.select(listed("10.0.0.2"), (), [ready(spec)])
    assert selector.selection.peers == ()
    assert selector.keeping_away(spec.name) == {removed}
