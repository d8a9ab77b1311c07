"""One node's decisions, without the tasks around them: the rules of a whole mesh at a hundredth of its cost.

Real here: `ConsulWatch` with all of its trust, `Selector` with select, reconcile, the record of links with their table,
back-off and crowd, the choice among replicas with ejection, and the rule of what may be sent again. The tasks around
them are replaced by turns, which `tests.simulation.towns` takes after every fault; `tests.simulation.world` runs the
real ones. The one rule: a turn only carries out what the decisions say.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast

from agent.control.absence import AbsenceTracker, is_suppressed
from agent.control.selector import Selector
from agent.dispatch.replicas import ReplicaStats
from agent.errors import CallNotSent, CallOutcomeUnknown, IdentityRefused, MeshError, Unreachable
from agent.links.actions import Action, CloseLink, OpenLink, RelabelLink, RenewLink, reconcile
from agent.links.crowd import Crowd
from agent.links.record import LinkHooks, LinkRecord, is_announced
from agent.links.state import (
    DIALS,
    NAMED_DIALS,
    Closed,
    DialStarted,
    ProbeAnswered,
    Sighted,
    wait_s,
)
from agent.model import Offer, PeerSource, PeerSpec
from discovery.consul.forgotten import FORGOTTEN_S
from discovery.consul.watch import ConsulWatch
from discovery.model import Catalog, Instance
from tests.simulation.calls import call
from tests.simulation.network import INFO
from tests.simulation.node import NoRecorder
from tests.simulation.rules import CAUSE_LASTS_S, DIALS_OF_LINK_MAX, DIALS_WINDOW_S, RuleBroken
from tests.simulation.surroundings import Facts, NodeFacts, OwnEntry, Servers, SharedRows, Store, identity_of
from tests.simulation.virtual_time import VirtualTimeLoop

# One link's sessions: it is held down for ten seconds after the fourth in a row that did not last as long.
SESSIONS_OF_LINK_MAX, SESSIONS_WINDOW_S = 5, 10.0
# Three probes in a row go unanswered, and a link is down; a turn has as many.
PROBES_OF_TURN = 3
# Of so many links most fall silent together: that is this node's own silence, and is taken for that so long.
OTHERS_MIN, DOUBT_LASTS_S = 5, 90.0
# After that, links end one after the other; a turn lasts half a minute.
KEPT_SILENT_MAX_S, VAIN_TURNS_MAX = 135.0, 3
# A link that goes down while its entry is critical goes in the next step.
CRITICAL_TURNS_MAX = 1
# Away names are known for an hour; the turn before is when they were noted.
AWAY_KNOWN_S = 3_500.0

_OFFER = Offer(tools=({"name": "read"},), digest="d")


@dataclass(slots=True)
class HeldLink:
    """A link without its task. `due_s`: its next dial; `dialled`, `readied`: when it was.

    `node_id`, `epoch`: the node that answered last, and its life; `silent_s`, `vain_turns`: since when it has answered
    no probe, and for how many turns in which most others did; `critical_turns`: how many it is down, and critical.
    """

    record: LinkRecord
    due_s: float = 0.0
    node_id: str = ""
    epoch: int = 0
    dialled: list[float] = field(default_factory=list)
    readied: list[float] = field(default_factory=list)
    silent_s: float | None = None
    vain_turns: int = 0
    critical_turns: int = 0


class Observer:
    """One life of one node, on a loop and a clock of its own, and the facts around it.

    Long because it is the loop that takes a turn of each part.
    """

    def __init__(self, own: NodeFacts, facts: Facts, rng: random.Random, store: Store, loop: VirtualTimeLoop) -> None:
        self.own, self.facts, self.rng, self.store, self.loop = own, facts, rng, store, loop
        self.servers = Servers(facts, own)
        entry = cast("Any", OwnEntry(facts, own))
        self.watch = ConsulWatch(cast("Any", self.servers), "mcp-node", own=entry, answers=self._is_up)
        self.watch._reader = SharedRows()
        self.catalog = Catalog()
        self.selector = Selector(identity_of(own), cast("Any", store))
        self.crowd = Crowd()
        self.hooks = LinkHooks(_ignored, _ignored, _ignored, crowd=self.crowd)
        self.links: dict[str, HeldLink] = {}
        self.desired: dict[str, PeerSpec] = {}
        self.stats = ReplicaStats(NoRecorder(), rng, self._up_since_s, lambda _key: 1, self._is_ready)
        self.executed: Counter[str] = Counter()
        self.words: dict[str, float] = {}
        self.absences = AbsenceTracker(waits_for_catalog=False)
        self.away: dict[str, tuple[PeerSpec, float]] = {}
        self.noted: set[str] = set()
        self.calls = 0
        self.turned_at_s = 0.0

    async def turn(self, seconds: float) -> None:
        """Call, let so much time pass, look at the catalog, choose and reconcile, let links move on, and call."""
        call(self)  # Before anything is known of what has just happened.
        self.loop.jump(seconds)
        update = await self.watch._turn()
        if update is not None:
            self.catalog = update
        await self._reconcile()
        before = {key: held.record.view for key, held in self.links.items()}
        self._probe_all()
        for key, held in list(self.links.items()):
            self._move_on(key, held)
        if changed := [key for key, view in before.items() if self.links[key].record.view is not view]:
            await self._reconcile(changed)
        self.turned_at_s = self.loop.time()
        call(self)
        self._look()

    async def _reconcile(self, changed: Sequence[str] | None = None) -> None:
        """Select and reconcile, as `agent.control.reconciler` does. `changed`: the links that did; None: everything."""
        views = [self.links[key].record.view for key in (self.links if changed is None else changed)]
        peers = await self.selector.select(self.catalog, (), views, gone=None if changed is None else ())
        for was, now in peers.values():
            if now is not None:
                self.desired[now.key] = now
            elif was is not None:
                self.desired.pop(was.key, None)
        keys = {spec.key for pair in peers.values() for spec in pair if spec is not None}
        if changed is None:
            keys |= self.desired.keys() ^ self.links.keys()
        if not keys:
            return
        actual = {key: held.record.view.spec for key in sorted(keys) if (held := self.links.get(key)) is not None}
        desired = {key: spec for key in sorted(keys) if (spec := self.desired.get(key)) is not None}
        actions = reconcile(desired, actual)
        for action in actions:
            self._carry_out(action)
        if actions and reconcile(desired, {key: self.links[key].record.view.spec for key in keys & self.links.keys()}):
            self.broken(f"reconciling does not end: {desired} {list(self.links)}")

    def _carry_out(self, action: Action) -> None:
        match action:
            case OpenLink(spec=spec) | RenewLink(spec=spec):
                before = self.links.get(spec.key)
                self.links[spec.key] = HeldLink(LinkRecord(spec, self.hooks), self.loop.time())
                if before is not None:
                    self._forget(before)
            case CloseLink(key=key):
                gone = cast("PeerSpec", self.links[key].record.view.spec)
                self._closed(gone, up=self.links[key].record.view.connected)
                self._forget(self.links.pop(key))
                if gone.source is PeerSource.DISCOVERY:
                    self.away[key] = gone, self.loop.time()
                self.stats.forget(key)
            case RelabelLink(spec=spec, sighted=sighted):
                held = self.links[spec.key]
                held.record.show(spec=spec)
                if sighted and not held.record.view.connected and held.record.standing.held_until_s <= self.loop.time():
                    held.record.advance(Sighted())
                    held.due_s = self.loop.time()

    def _forget(self, held: HeldLink) -> None:
        held.record.advance(Closed())

    def _closed(self, spec: PeerSpec, *, up: bool) -> None:
        one = self.facts.at(spec.target.url)
        causes = [one.caused_at_s, self.words.get(one.node_id, 0.0)]
        # What neither answers nor is in the catalog, as far as this node has seen it, is gone for all that it can know;
        # what answers is when it has been lost for long.
        causes += [] if up else [one.lost_at_s, one.lapsed_at_s]
        lost_for_s = self.loop.time() - one.unlisted_at_s
        is_gone = not one.alive or (not one.listed and (not up or lost_for_s >= FORGOTTEN_S))
        is_gone |= not up and not one.passing
        if not is_gone and self.loop.time() - max(causes) > CAUSE_LASTS_S:
            self.broken(f"removed without a cause: {spec.name}")

    def _probe_all(self) -> None:
        """As many probes of each as end a link that answers none; where nothing is lost, all are answered."""
        if not self.facts.cut and not self.crowd.silent:
            for held in self.links.values():
                held.silent_s, held.vain_turns = None, 0
            self.crowd.heard += PROBES_OF_TURN * self.crowd.up
            return
        for _ in range(PROBES_OF_TURN):
            for held in self.links.values():
                self._probe(held)

    def _probe(self, held: HeldLink) -> None:
        record = held.record
        spec = cast("PeerSpec", record.view.spec)
        one = self.facts.at(spec.target.url)
        if not (record.view.connected and one.alive and one.url == spec.target.url):
            return
        if not self._answers(one):
            if held.silent_s is None:
                held.silent_s = self.loop.time()
            record.asked()
            record.missed(busy=False, silent=True)
            if not record.view.connected:
                self._ended_for_silence(held)
                self._failed(held, Unreachable("no sign of life"), self.loop.time(), lost=True)
            return
        held.silent_s, held.vain_turns = None, 0
        self.crowd.heard += 1
        if record.standing.misses:
            record.advance(ProbeAnswered())

    def _move_on(self, key: str, held: HeldLink) -> None:
        record, now_s = held.record, self.loop.time()
        spec = cast("PeerSpec", record.view.spec)
        one = self.facts.at(spec.target.url)
        there = one.alive and one.url == spec.target.url
        if record.view.connected:
            if not there or held.epoch != one.epoch:
                self._failed(held, Unreachable("reset"), now_s)
            return
        # What has passed since the last turn may have been time for many dials.
        while now_s >= held.due_s and not record.view.connected:
            at_s = max(held.due_s, self.turned_at_s)
            self._dial(key, held, at_s, is_there=there and self._answers(one))

    def _dial(self, key: str, held: HeldLink, now_s: float, *, is_there: bool) -> None:
        record = held.record
        spec = cast("PeerSpec", record.view.spec)
        one = self.facts.at(spec.target.url)
        record.advance(DialStarted())
        held.dialled = [at_s for at_s in held.dialled if now_s - at_s <= DIALS_WINDOW_S] + [now_s]
        if len(held.dialled) > DIALS_OF_LINK_MAX:
            self.broken(f"too many dials of {key}")
        if not is_there:
            self._failed(held, Unreachable("refused"), now_s)
        elif spec.expected_node_id not in (None, one.node_id):
            self._failed(held, IdentityRefused("another node"), now_s)
        else:
            held.node_id, held.epoch = one.node_id, one.epoch
            held.readied = [at_s for at_s in held.readied if now_s - at_s < SESSIONS_WINDOW_S] + [now_s]
            if len(held.readied) > SESSIONS_OF_LINK_MAX:
                self.broken(f"a flapping link is not held down: {key}")
            record.ready(_OFFER, INFO, identity_of(one))

    def _failed(self, held: HeldLink, failure: MeshError, now_s: float, *, lost: bool = False) -> None:
        if lost:
            held.record.show(ready_at_s=None, last_error=str(failure), failure=type(failure).__name__)
        else:
            held.record.failed(failure)
        soon = bool(getattr(failure, "retry_soon", True))
        standing = held.record.standing
        announced = is_announced(held.record.view.spec)
        down, dials = (self.crowd.down, DIALS) if announced else (self.crowd.named_down, NAMED_DIALS)
        held.due_s = now_s + wait_s(standing, self.rng, retry_soon=soon, down=down, dials=dials, now_s=now_s)

    # What calls need (`tests.simulation.calls`)

    def replicas(self) -> tuple[tuple[str, str], ...]:
        """The links that are up: backend key and node ID."""
        return tuple([(key, held.node_id) for key, held in self.links.items() if held.record.view.connected])

    def sent(self, key: str, call_id: str) -> MeshError | None:
        """Send a call over a link; returns why there is no answer, None where there is one."""
        one = self.facts.at(cast("PeerSpec", self.links[key].record.view.spec).target.url)
        if not one.alive:
            return CallNotSent("refused")
        if self.facts.carries(self.own.number, one.number):
            self.executed[call_id] += 1
        return None if self._answers(one) and not one.server_hangs else CallOutcomeUnknown("no answer")

    def _answers(self, one: NodeFacts) -> bool:
        """Whether packets arrive in both directions."""
        mine, its = self.own.number, one.number
        return self.facts.carries(mine, its) and self.facts.carries(its, mine)

    # Rules

    def broken(self, what: str) -> NoReturn:
        """A rule does not hold."""
        raise RuleBroken(f"{what} (by {self.own.name} at {self.loop.time():.3f} s)")

    def _silent(self) -> tuple[list[HeldLink], int]:
        """The links that are up and answer no probe, by the facts; and how many are up."""
        up = [held for held in self.links.values() if held.record.view.connected]
        return [held for held in up if held.silent_s is not None], len(up)

    def _ended_for_silence(self, held: HeldLink) -> None:
        """Where most have fallen silent together it is this node that does not hear, as far as it can know for long."""
        silent, up = self._silent()
        silent_s, now_s = held.silent_s or 0.0, self.loop.time()
        most = 2 * (len(silent) + 1) > up + 1 and up + 1 >= OTHERS_MIN
        if most and now_s - silent_s < DOUBT_LASTS_S:
            self.broken(f"a link ended for our own silence: {held.record.view.key}, {len(silent)} of {up} are silent")

    def _look_at_silence(self) -> None:
        silent, up = self._silent()
        few = up < OTHERS_MIN or 2 * len(silent) < up
        for held in silent:
            held.vain_turns = held.vain_turns + 1 if few else 0
            long = self.loop.time() - (held.silent_s or 0.0) > KEPT_SILENT_MAX_S
            if held.vain_turns > VAIN_TURNS_MAX or long:
                self.broken(f"a link is kept that answers nothing: {held.record.view.key}")

    def _look_at_away(self) -> None:
        """Names of what the catalog took away stay known for an hour, but for those that an operator took away."""
        now_s, views = self.loop.time(), [held.record.view for held in self.links.values()]
        removed = [spec for key, (spec, _) in self.away.items() if key not in self.noted]
        self.absences.note(self.desired, removed, self.store.suppressions, now_s)
        expected = self.absences.absence(views, (), now_s).expected
        for key, (spec, at_s) in list(self.away.items()):
            by_word = is_suppressed(spec, self.store.suppressions)
            if key in self.desired or by_word or now_s - at_s > AWAY_KNOWN_S:
                del self.away[key]
            elif key not in expected:
                self.broken(f"the names of a peer are forgotten that may come back: {key}")
        self.noted = set(self.away)

    def _look_at_entries(self) -> None:
        """Of a node with several entries one is wanted, and none that is down and whose entry is critical."""
        wanted = [spec for spec in self.desired.values() if spec.source is PeerSource.DISCOVERY]
        if len({spec.expected_node_id for spec in wanted}) < len(wanted):
            self.broken(f"two links to one node are wanted: {[spec.name for spec in wanted]}")
        for spec in wanted:
            held = self.links[spec.key]
            is_critical = not (spec.sighting or held.record.view.connected)
            held.critical_turns = held.critical_turns + 1 if is_critical else 0
            if held.critical_turns > CRITICAL_TURNS_MAX:
                self.broken(f"what is critical is dialled: {spec.name}")

    def _look(self) -> None:
        if self.facts.cut:
            self._look_at_silence()
        if self.away:
            self._look_at_away()
        self._look_at_entries()
        if self.store.overrides or self.store.suppressions:
            self._operator_wins()
        linked = [held.node_id for held in self.links.values() if held.record.view.connected]
        if len(set(linked)) < len(linked):
            self.broken(f"two links to one node: {linked}")

    def _operator_wins(self) -> None:
        peers, store = self.selector.selection.peers, self.store
        added = {self.facts.at(known.target.url).node_id for known in store.overrides}
        suppressed = {known.node_id for known in store.suppressions} - added
        for spec in peers:
            if spec.source is PeerSource.DISCOVERY and spec.expected_node_id in suppressed:
                self.broken(f"an operator's word does not win: {spec.name} was removed")
        by_name = {name: spec for spec in peers for name in (spec.name, *spec.aliases)}
        for known in store.overrides:
            spec = by_name.get(known.name)
            if spec is None or (spec.name == known.name and spec.target != known.target):
                self.broken(f"an operator's word does not win: {known} {spec}")

    def unconverged(self) -> str:
        """What is not yet as it must be; empty when everything is."""
        suppressed = {known.node_id for known in self.store.suppressions}
        added = {self.facts.at(known.target.url).node_id for known in self.store.overrides}
        # An operator's URL of a node that has moved: the operator's word wins, and leads nowhere.
        urls = [one.target.url for one in self.store.overrides]
        lost = {self.facts.at(url).node_id for url in urls if not self.facts.is_at(url)}
        wanted = {
            one.node_id
            for one in self.facts.nodes
            if one.alive and one is not self.own and (one.node_id not in suppressed or one.node_id in added)
        }
        linked = {held.node_id for held in self.links.values() if held.record.view.connected}
        if self.desired != {spec.key: spec for spec in self.selector.selection.peers}:
            return f"wanting {sorted(self.desired)}, which is not its selection"
        linked, wanted = linked - lost, wanted - lost
        return "" if linked == wanted else f"linked to {sorted(linked)}, not to {sorted(wanted)}"

    # Links, as dispatch and the watch see them

    def _is_up(self, instance: Instance) -> bool:
        return self._is_ready(self.selector.key_at(instance))

    def _up_since_s(self, key: str) -> float | None:
        held = self.links.get(key)
        return None if held is None else held.record.view.ready_at_s

    def _is_ready(self, key: str) -> bool:
        held = self.links.get(key)
        return held is not None and held.record.view.connected


def _ignored(_what: object) -> None:
    pass
