"""What must hold for one node's decisions in every run, whatever happens: the rules of `tests.simulation.decisions`.

Each looks at an observer after a turn, or at what has just become of one of its links. The one rule: a rule knows the
facts (`tests.simulation.surroundings`), never what a node believes of them.
"""

from typing import TYPE_CHECKING, cast

from agent.control.absence import is_suppressed
from agent.control.selection import select
from agent.model import LinkState, PeerSource, PeerSpec
from tests.simulation.calls import look_at_refused
from tests.simulation.lying_catalog import Lie
from tests.simulation.rules import CAUSE_LASTS_S
from tests.simulation.surroundings import identity_of

if TYPE_CHECKING:
    from tests.simulation.decisions import HeldLink, Observer

# A session this long is no flap, and after one that long a failure is the first of a new row.
FLAP_S, STEADY_S = 10.0, 60.0
# Three probes in a row go unanswered, and a link is down; a turn has as many.
PROBES_OF_TURN = 3
# Of so many links most fall silent together: that is this node's own silence, and is taken for that so long.
TOGETHER_MIN, DOUBT_LASTS_S = 2, 90.0
# After that, links end one after the other; a turn lasts half a minute.
KEPT_SILENT_MAX_S, VAIN_TURNS_MAX = 135.0, 3
# A link that goes down while its entry is critical goes in the next step.
CRITICAL_TURNS_MAX = 1
# Our own entry is missed, doubted and registered again in so many turns.
TURNS_MAX = 4
# What the catalog has forgotten for longer than any doubt lasts (docs/reliability.md) is read once more and gone in so
# many, a plain server without the first part; what has left is gone in so many once Consul has been well for a while.
FORGOTTEN_MAX_S, RESTORED_MAX_S, SETTLED_S = 180.0, 180.0, 10.0
DOUBT_MAX_S, GONE_TURNS_MAX, LEFT_TURNS_MAX = FORGOTTEN_MAX_S + RESTORED_MAX_S, 2, 4
# Away names are known for ten minutes; the turn before is when they were noted.
AWAY_KNOWN_S = 540.0


def look(observer: "Observer") -> None:
    """After each turn."""
    if observer.facts.cut:
        _look_at_silence(observer)
    if observer.away:
        _look_at_away(observer)
    _look_at_entries(observer)
    _look_at_catalog(observer)
    if observer.outcomes.refused_at_s:
        look_at_refused(observer)
    if observer.servers.misused:
        observer.broken(f"Consul is asked for what it does not have: {observer.servers.misused}")
    linked = [held.node_id for held in observer.links.values() if held.record.view.connected]
    if len(set(linked)) < len(linked):
        observer.broken(f"two links to one node: {linked}")
    backing_off = [held.record.standing.state for held in observer.links.values()].count(LinkState.BACKOFF)
    if (observer.crowd.afar.up, observer.crowd.down.total()) != (len(linked), backing_off):
        observer.broken(f"links are counted wrongly: {observer.crowd}")


def decided(observer: "Observer") -> None:
    """After each step of the selection: an operator's word wins, and of a node one entry is wanted."""
    if observer.links.keys() != observer.desired.keys():
        observer.broken(
            f"links are not those that are wanted: {sorted(observer.links.keys() ^ observer.desired.keys())}"
        )
    if observer.store.overrides or observer.store.suppressions:
        _operator_wins(observer)
    wanted = [spec for spec in observer.desired.values() if spec.source is PeerSource.DISCOVERY]
    if len({spec.expected_node_id or spec.name for spec in wanted}) < len(wanted):
        observer.broken(f"two links to one node are wanted: {[spec.name for spec in wanted]}")


def closed(observer: "Observer", spec: PeerSpec, *, up: bool) -> None:
    """A link has ended for good, one that was `up` or not: a removal has a cause."""
    one = observer.facts.at(spec.target.url)
    causes = [one.caused_at_s, observer.words.get(one.node_id, 0.0)]
    # What access control hides, and does not answer, may be gone.
    causes += [] if up else [observer.servers.hid_at_s]
    # What neither answers nor is in the catalog, as far as this node has seen it, is gone for all that it can know;
    # what answers is when it has been lost for long.
    causes += [] if up else [one.lost_at_s, one.lapsed_at_s]
    lost_for_s = observer.loop.time() - one.unlisted_at_s
    is_gone = not one.alive or (not one.listed and (not up or lost_for_s >= FORGOTTEN_MAX_S))
    is_gone |= not up and not one.passing
    is_gone |= spec.name != one.name  # It has another name by now, or has a namesake.
    if not is_gone and observer.loop.time() - max(causes) > CAUSE_LASTS_S:
        observer.broken(f"removed without a cause: {spec.name}")


def ended(observer: "Observer", held: "HeldLink", now_s: float, lasted_s: float) -> None:
    """A session has ended, after `lasted_s`: one that lasted is no flap, and after a steady one all begins anew."""
    standing = held.record.standing
    if lasted_s >= FLAP_S and standing.held_until_s > now_s:
        observer.broken(f"a link is held down that has not flapped: {held.record.view.key}")
    if lasted_s >= STEADY_S and standing.attempts > 1:
        observer.broken(f"a failure after a steady session is not the first: {held.record.view.key}")


def ended_for_silence(observer: "Observer", held: "HeldLink") -> None:
    """Where most have fallen silent together it is this node that does not hear, as far as it can know for long."""
    if held.missed < PROBES_OF_TURN:
        observer.broken(f"a link ended after fewer misses in a row: {held.record.view.key}")
    silent, up = _silent(observer)
    silent_s, now_s = held.silent_s or 0.0, observer.loop.time()
    most = 2 * (len(silent) + 1) > up + 1 and up + 1 >= TOGETHER_MIN
    if most and now_s - silent_s < DOUBT_LASTS_S:
        observer.broken(f"a link ended for our own silence: {held.record.view.key}, {len(silent)} of {up} are silent")


def _look_at_entries(observer: "Observer") -> None:
    """Nothing is wanted that is down and critical, and what has just registered is dialled."""
    for spec in observer.desired.values():
        if spec.source is not PeerSource.DISCOVERY:
            continue
        held = observer.links[spec.key]
        is_down = not held.record.view.connected
        held.critical_turns = held.critical_turns + 1 if is_down and not spec.sighting else 0
        if held.critical_turns > CRITICAL_TURNS_MAX:
            observer.broken(f"what is critical is dialled: {spec.name}")
        if is_down and held.was_down and spec.sighting not in ("", held.sighting):
            _look_at_returned(observer, spec, held)
        held.sighting, held.was_down = spec.sighting, is_down


def _look_at_returned(observer: "Observer", spec: PeerSpec, held: "HeldLink") -> None:
    one, now_s = observer.facts.at(spec.target.url), observer.loop.time()
    is_there = one.alive and one.url == spec.target.url and observer.answers(one)
    if is_there and held.due_s > now_s >= held.record.standing.held_until_s:
        observer.broken(f"what has registered anew is not dialled at once: {spec.name}")


def _look_at_catalog(observer: "Observer") -> None:
    """Where Consul is well, our own entry comes back, and what it has long forgotten goes."""
    own, facts, now_s = observer.own, observer.facts, observer.loop.time()
    is_well = observer.servers.lie is Lie.NONE and own.has_token == facts.token
    observer.lost_turns = observer.lost_turns + 1 if is_well and not (own.listed or own.agent_away) else 0
    if observer.lost_turns > TURNS_MAX:
        observer.broken("our own entry is lost, and not registered again")
    if not (is_well and own.listed):
        observer.doubted_at_s = now_s
    doubted_at_s = max(observer.doubted_at_s, own.lost_at_s, facts.restored_at_s)
    for key, held in observer.links.items():
        one = facts.at(cast("PeerSpec", held.record.view.spec).target.url)
        is_known = one.listed or one.ghost is not None or observer.desired[key].source is not PeerSource.DISCOVERY
        doubt_max_s = RESTORED_MAX_S if one.is_plain else DOUBT_MAX_S
        is_gone = not is_known and now_s - max(doubted_at_s, one.unlisted_at_s) > doubt_max_s
        held.forgotten_turns = held.forgotten_turns + 1 if is_gone else 0
        if held.forgotten_turns > GONE_TURNS_MAX:
            observer.broken(f"what the catalog has long forgotten is kept: {key}")
        is_settled = now_s - max(doubted_at_s, one.unlisted_at_s) > SETTLED_S
        held.left_turns = held.left_turns + 1 if is_settled and not (is_known or one.alive) else 0
        if held.left_turns > LEFT_TURNS_MAX:
            observer.broken(f"what has left is kept: {key}")


def _look_at_silence(observer: "Observer") -> None:
    silent, up = _silent(observer)
    few = up < TOGETHER_MIN or 2 * len(silent) < up
    for held in silent:
        held.vain_turns = held.vain_turns + 1 if few else 0
        long = observer.loop.time() - (held.silent_s or 0.0) > KEPT_SILENT_MAX_S
        if held.vain_turns > VAIN_TURNS_MAX or long:
            observer.broken(f"a link is kept that answers nothing: {held.record.view.key}")


def look_at_the_end(observer: "Observer") -> None:
    """Selecting everything anew changes nothing, where more than one entry or word may concern a peer."""
    store, selector = observer.store, observer.selector
    names = [one.name for one in observer.facts.nodes]
    if not (store.overrides or store.suppressions or len(set(names)) < len(names)):
        return
    anew = select(
        observer.catalog,
        identity_of(observer.own),
        overrides=store.overrides,
        suppressions=store.suppressions,
        learned=selector._learned,
        connected=selector._connected,
        previous=selector.selection.peers,
    )
    if anew.peers != selector.selection.peers:
        others = [one.name for one in {*anew.peers} ^ {*selector.selection.peers}]
        observer.broken(f"a selection has not come to its end: {sorted(others)}")


def _silent(observer: "Observer") -> tuple[list["HeldLink"], int]:
    """The links that are up and answer no probe, by the facts; and how many are up."""
    up = [held for held in observer.links.values() if held.record.view.connected]
    return [held for held in up if held.silent_s is not None], len(up)


def _look_at_away(observer: "Observer") -> None:
    """Names of what the catalog took away stay known for an hour, but for those that an operator took away."""
    now_s, views = observer.loop.time(), [held.record.view for held in observer.links.values()]
    removed = [spec for key, (spec, _) in observer.away.items() if key not in observer.noted]
    observer.absences.note(observer.desired, removed, observer.store.suppressions, now_s)
    expected = observer.absences.absence(views, (), now_s).expected
    for key, (spec, at_s) in list(observer.away.items()):
        by_word = is_suppressed(spec.name, spec.expected_node_id, observer.store.suppressions)
        if by_word and key in expected and key not in observer.links:
            observer.broken(f"the names of a peer are kept that an operator removed: {key}")
        if key in observer.desired or by_word or now_s - at_s > AWAY_KNOWN_S:
            del observer.away[key]
        elif key not in expected:
            observer.broken(f"the names of a peer are forgotten that may come back: {key}")
    observer.noted = set(observer.away)


def _operator_wins(observer: "Observer") -> None:
    peers, store = observer.selector.selection.peers, observer.store
    added = {observer.facts.at(known.target.url).node_id for known in store.overrides}
    for spec in peers:
        hidden = store.hidden.get(spec.expected_node_id or "") is not None and spec.expected_node_id not in added
        if spec.source is PeerSource.DISCOVERY and hidden:
            observer.broken(f"an operator's word does not win: {spec.name} was removed")
    by_name = {name: spec for spec in peers for name in (spec.name, *spec.aliases)}
    for known in store.overrides:
        spec = by_name.get(known.name)
        if spec is None or (spec.name == known.name and spec.target != known.target):
            observer.broken(f"an operator's word does not win: {known} {spec}")
