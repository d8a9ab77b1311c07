"""Peers that are gone: how they went, for how long that shows, and what is no departure."""

from dataclasses import replace

from agent.control.departures import SHOWN_FOR_S, SHOWN_MAX, Departures
from agent.errors import DialledOurselves
from agent.model import HttpTarget, LinkState, LinkView, NodeIdentity, PeerScope, PeerSource, PeerSpec, Suppression


def view(name: str, state: LinkState = LinkState.READY, source: PeerSource = PeerSource.DISCOVERY) -> LinkView:
    spec = PeerSpec(name, HttpTarget(f"http://{name}/mcp"), source, PeerScope.LOCAL)
    return LinkView(spec, state, identity=NodeIdentity(f"id-{name}", name))


def gone(departures: Departures, now_s: float) -> list[tuple[str, bool, float]]:
    return [(one.name, one.failed, one.since_s) for one in departures.shown(now_s)]


def test_one_that_was_up_left_and_one_that_was_down_failed_when_it_went_down() -> None:
    departures = Departures()
    up, down = view("up"), replace(view("down", LinkState.BACKOFF), last_error="it refuses the connection")
    both = {up.key: up.spec, down.key: down.spec}
    departures.note([up, down], both, (), (), 10.0)
    departures.note([up, down], {}, both.keys(), (), 70.0)
    assert sorted(gone(departures, 100.0)) == [("down", True, 10.0), ("up", False, 70.0)]
    (failed,) = [one for one in departures.shown(100.0) if one.failed]
    assert (failed.node_id, failed.last_error) == ("id-down", "it refuses the connection")


def test_one_whose_link_ended_with_a_goodbye_has_left() -> None:
    departures = Departures()
    leaving = replace(view("a", LinkState.BACKOFF), last_error="http://a/mcp is stopping")
    departures.note([leaving], {}, [leaving.key], (), 5.0)
    assert gone(departures, 6.0) == [("a", False, 5.0)]


def test_one_that_comes_back_or_is_removed_by_an_operator_is_not_gone() -> None:
    departures, one, other = Departures(), view("one"), view("other")
    departures.note([one, other], {}, [one.key, other.key], (), 5.0)
    departures.note([], {one.key: one.spec}, (), (), 6.0)
    assert gone(departures, 7.0) == [("other", False, 5.0)]
    departures.note([], {}, (), [Suppression("other")], 8.0)
    assert gone(departures, 9.0) == []


def test_another_address_of_a_node_that_is_linked_is_no_departure_whether_it_was_up_or_down() -> None:
    up, down = view("up"), replace(view("down", LinkState.BACKOFF), identity=None)
    learned = {"http://down/mcp": "id-node"}
    linked = {"id-node": "peer:kept", "id-up": "peer:kept"}
    departures = Departures(learned.get, lambda node_id: linked.get(node_id, ""))
    departures.note([up, down], {}, [up.key, down.key], (), 5.0)
    assert gone(departures, 6.0) == []
    departures = Departures(learned.get)
    departures.note([up, down], {}, [up.key, down.key], (), 7.0)
    assert sorted(gone(departures, 8.0)) == [("down", True, 7.0), ("up", False, 7.0)]


def test_an_added_or_static_peer_that_is_taken_out_is_no_departure() -> None:
    departures = Departures()
    for source in (PeerSource.OVERRIDE, PeerSource.STATIC):
        peer = view(source.value, source=source)
        departures.note([peer], {}, [peer.key], (), 5.0)
    assert gone(departures, 6.0) == []


def test_an_address_that_turns_out_to_be_another_peer_or_this_node_is_no_departure() -> None:
    departures, by_alias, by_node, by_url, other = Departures(), *map(view, ("alias", "node", "url", "other"))
    ourselves = replace(view("self", LinkState.BACKOFF), failure=DialledOurselves.__name__)
    by_url = replace(by_url, identity=None)
    views = [by_alias, by_node, by_url, other, ourselves]
    departures.note(views, {one.key: one.spec for one in views}, (), (), 5.0)
    peers = [
        PeerSpec("a", HttpTarget("http://a/mcp"), PeerSource.STATIC, aliases=("alias",)),
        PeerSpec("b", HttpTarget("http://other/mcp"), PeerSource.DISCOVERY, expected_node_id="id-node"),
        PeerSpec("c", HttpTarget("http://url/mcp"), PeerSource.DISCOVERY, expected_node_id="id-c"),
    ]
    departures.note(views, {one.key: one for one in peers}, [one.key for one in views], (), 6.0)
    assert gone(departures, 7.0) == [("other", False, 6.0)]  # Another node has its URL now.


def test_departures_show_for_an_hour_and_are_bounded() -> None:
    departures = Departures()
    peers = [view(f"p{number}") for number in range(SHOWN_MAX + 5)]
    departures.note(peers, {}, [peer.key for peer in peers], (), 5.0)
    shown = gone(departures, 6.0)
    assert (len(shown), shown[0][0]) == (SHOWN_MAX, f"p{SHOWN_MAX + 4}")
    assert gone(departures, 5.0 + SHOWN_FOR_S) == []
