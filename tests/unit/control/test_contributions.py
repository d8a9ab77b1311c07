"""What connected links contribute to the route tables, and what of it is kept from step to step."""

from dataclasses import replace

from agent.control.contributions import Contributions
from agent.model import HttpTarget, LinkState, LinkView, NodeIdentity, Offer, PeerSource, PeerSpec

OWN = NodeIdentity("0a" * 16, "home")
PINNED = {"kit": frozenset({"1b" * 16})}


def view_of(name: str, state: LinkState = LinkState.READY) -> LinkView:
    spec = PeerSpec(name, HttpTarget(f"http://{name}.test:8000/mcp"), PeerSource.DISCOVERY)
    return LinkView(spec, state, identity=NodeIdentity(f"id-{name}", name))


def test_connected_links_contribute_by_key_with_what_all_tables_are_made_with() -> None:
    views = [view_of("b"), view_of("a"), view_of("c", LinkState.BACKOFF)]
    parts = Contributions(OWN, 40, PINNED).of(views)
    assert [part.label for part in parts] == ["a", "b"]
    assert {(part.name_len_max, part.pinned["kit"]) for part in parts} == {(40, PINNED["kit"])}


def test_a_contribution_is_kept_while_its_view_is_and_made_anew_when_it_changes() -> None:
    contributions, a, b = Contributions(OWN, 64, {}), view_of("a"), view_of("b")
    first = contributions.of([a, b])
    changed = replace(b, offer=Offer(tools=({"name": "x"},), digest="d"))
    second = contributions.of([a, changed])
    assert second[0] is first[0]
    assert (first[1].offer.tools, second[1].offer) == ((), changed.offer)


def test_a_link_that_was_down_and_is_back_with_another_offer_shows_that() -> None:
    contributions, up = Contributions(OWN, 64, {}), view_of("a")
    contributions.of([up])
    assert contributions.of([replace(up, state=LinkState.BACKOFF)]) == []
    (part,) = contributions.of([replace(up, has_tasks=True)])
    assert part.has_tasks
