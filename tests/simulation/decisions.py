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
from operator import is_
from typing import Any, NoReturn, cast

from agent.control.absence import AbsenceTracker
from agent.control.reconciler import RESYNC_EVERY_S
from agent.control.selector import Selector
from agent.dispatch.replicas import ReplicaStats
from agent.errors import CallNotSent, CallOutcomeUnknown, IdentityRefused, MeshError, Unreachable
from agent.links.actions import Action, CloseLink, OpenLink, RelabelLink, RenewLink, reconcile
from agent.links.crowd import Crowd, Kind
from agent.links.pause import retry_soon
from agent.links.record import LinkHooks, LinkRecord, kind_of
from agent.links.state import (
    DIALS,
    NAMED_DIALS,
    Closed,
    DialStarted,
    ProbeAnswered,
    Sighted,
    wait_s,
)
from agent.model import LinkState, Offer, PeerSource, PeerSpec
from discovery.consul.watch import ConsulWatch
from discovery.model import Catalog, Instance
from tests.simulation.calls import Outcomes, call
from tests.simulation.decision_rules import PROBES_OF_TURN, closed, decided, ended, ended_for_silence, look
from tests.simulation.network import INFO
from tests.simulation.orders import kept_away
from tests.simulation.rules import DIALS_OF_LINK_MAX, DIALS_WINDOW_S, RuleBroken
from tests.simulation.surroundings import (
    Facts,
    NodeFacts,
    OwnEntry,
    Servers,
    SharedEntries,
    SharedRows,
    Store,
    identity_of,
)
from tests.simulation.virtual_time import VirtualTimeLoop

# One link's sessions: it is held down for ten seconds after the fourth in a row that did not last so long.
SESSIONS_OF_LINK_MAX, SESSIONS_WINDOW_S = 4, 10.0
# After so many failures in a row a link's wait no longer grows, if it waits at all.
ATTEMPTS_UNLIKE, WAITED_S = 7, 0.5
# A server that stumbles answers all calls but one in so many.
STUMBLES_ONE_IN = 3

_OFFER = Offer(tools=({"name": "read"},), digest="d")


@dataclass(slots=True)
class HeldLink:
    """A link without its task. `due_s`: its next dial; `dialled`, `readied`: when it was.

    `node_id`, `epoch`: the node that answered last, and its life; `silent_s`, `missed`, `vain_turns`: since when it has
    answered no probe, how many, and for how many turns in which most others did; `critical_turns`, `forgotten_turns`:
    how many it is down and critical, or has long been lost, and `left_turns` has left; `sighting`, `was_down`: what the
    catalog last said of it, and whether it was down then.
    """

    record: LinkRecord
    due_s: float = 0.0
    node_id: str = ""
    epoch: int = 0
    dialled: list[float] = field(default_factory=list)
    readied: list[float] = field(default_factory=list)
    silent_s: float | None = None
    missed: int = 0
    vain_turns: int = 0
    critical_turns: int = 0
    forgotten_turns: int = 0
    left_turns: int = 0
    sighting: str = ""
    was_down: bool = True


class Observer:
    """One life of one node, on a loop and a clock of its own, and the facts around it.

    `proven`: URL -> the node that has proven itself there last. Long because it is the loop that takes a turn of each
    part.
    """

    def __init__(self, own: NodeFacts, facts: Facts, rng: random.Random, store: Store, loop: VirtualTimeLoop) -> None:
        self.own, self.facts, self.rng, self.store, self.loop = own, facts, rng, store, loop
        self.servers = Servers(facts, own)
        entry = cast("Any", OwnEntry(facts, own))
        self.watch = ConsulWatch(cast("Any", self.servers), "mcp-node", own=entry, answers=self._is_up)
        self.watch._reader = SharedRows()
        self.catalog = Catalog()
        self.selector = Selector(identity_of(own), cast("Any", store))
        self.selector._reader = SharedEntries()
        self.crowd = Crowd()
        self.hooks = LinkHooks(_ignored, _ignored, _ignored, crowd=self.crowd)
        self.links: dict[str, HeldLink] = {}
        self.desired: dict[str, PeerSpec] = {}
        self.outcomes = Outcomes()
        self.proven: dict[str, str] = {}
        self.stats = ReplicaStats(self.outcomes, rng, self._up_since_s, lambda _key: 1, self._is_ready)
        self.executed: Counter[str] = Counter()
        self.words: dict[str, float] = {}
        self.absences = AbsenceTracker(waits_for_catalog=False)
        self.away: dict[str, tuple[PeerSpec, float]] = {}
        self.noted: set[str] = set()
        self.calls = 0
        self.turned_at_s = 0.0
        self.chosen_from: tuple[object, ...] = ()
        self.all_due_s = 0.0
        self.lost_turns = 0
        self.doubted_at_s = 0.0

    def close(self) -> None:
        """Let go of the parts that hold this one: what is in no circle goes at once, without the garbage collector."""
        del self.watch, self.stats

    async def turn(self, seconds: float) -> None:
        """Call, let so much time pass, look at the catalog, choose and reconcile, let links move on, and call."""
        call(self)  # Before anything is known of what has just happened.
        self.loop.jump(seconds)
        update = await self.watch._turn()
        if update is not None:
            self.catalog = update
        if self._has_news():
            await self._reconcile()
        before = {key: held.record.view for key, held in self.links.items()}
        self._probe_all()
        for key, held in list(self.links.items()):
            self._move_on(key, held)
        if changed := [key for key, view in before.items() if self.links[key].record.view is not view]:
            await self._reconcile(changed)
        self.turned_at_s = self.loop.time()
        if changed or self.outcomes.refused_at_s:  # Else it would be the same call again.
            call(self)
        look(self)

    def _has_news(self) -> bool:
        """Whether there is something to select again: else a mesh takes a step every half a minute only."""
        now_s, made_of = self.loop.time(), (self.catalog, self.store.overrides, self.store.suppressions)
        if (
            len(self.chosen_from) == len(made_of)
            and all(map(is_, made_of, self.chosen_from))
            and now_s < self.all_due_s
        ):
            return False
        self.chosen_from, self.all_due_s = made_of, now_s + RESYNC_EVERY_S
        return True

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
            decided(self)
            return
        actual = {key: held.record.view.spec for key in sorted(keys) if (held := self.links.get(key)) is not None}
        desired = {key: spec for key in sorted(keys) if (spec := self.desired.get(key)) is not None}
        actions = reconcile(desired, actual)
        for action in actions:
            self._carry_out(action)
        if actions and reconcile(desired, {key: self.links[key].record.view.spec for key in keys & self.links.keys()}):
            self.broken(f"reconciling does not end: {desired} {list(self.links)}")
        decided(self)

    def _carry_out(self, action: Action) -> None:
        match action:
            case OpenLink(spec=spec) | RenewLink(spec=spec):
                before = self.links.get(spec.key)
                self.links[spec.key] = HeldLink(LinkRecord(spec, self.hooks), self.loop.time())
                if before is not None:
                    self._forget(before)
            case CloseLink(key=key):
                gone = cast("PeerSpec", self.links[key].record.view.spec)
                closed(self, gone, up=self.links[key].record.view.connected)
                self._forget(self.links.pop(key))
                if gone.source is PeerSource.DISCOVERY:
                    self.away[key] = gone, self.loop.time()
                self.stats.forget(key)
                self.outcomes.forget(key)
                if any(key in group.healths for group in self.stats._groups.values()):
                    self.broken(f"what is gone keeps its ejection: {key}")
            case RelabelLink(spec=spec, sighted=sighted):
                held = self.links[spec.key]
                if held.record.view.spec.target != spec.target:
                    self.broken(f"a link is at another place than its peer: {spec.name}")
                held.record.show(spec=spec)
                if sighted and not held.record.view.connected and held.record.standing.held_until_s <= self.loop.time():
                    held.record.advance(Sighted())
                    if held.record.standing.state is LinkState.IDLE:
                        held.due_s = self.loop.time()

    def _forget(self, held: HeldLink) -> None:
        held.record.advance(Closed())

    def _probe_all(self) -> None:
        """As many probes of each as end a link that answers none; where nothing is lost, all are answered."""
        if not self.facts.cut and not self.facts.lossy and not self.crowd.afar.silent:
            for held in self.links.values():
                held.silent_s, held.missed, held.vain_turns = None, 0, 0
            self.crowd.afar.heard += PROBES_OF_TURN * self.crowd.afar.up
            return
        for number in range(PROBES_OF_TURN):
            for held in self.links.values():
                self._probe(held, loses=number == 0)

    def _probe(self, held: HeldLink, *, loses: bool) -> None:
        """`loses`: packets that are lost now and then are lost now."""
        record = held.record
        spec = cast("PeerSpec", record.view.spec)
        one = self.facts.at(spec.target.url)
        if not (record.view.connected and one.alive and one.url == spec.target.url):
            return
        if not self.answers(one) or (loses and one.number in self.facts.lossy):
            if held.silent_s is None:
                held.silent_s = self.loop.time()
            held.missed += 1
            record.asked()
            record.missed(busy=False, silent=True)
            if not record.view.connected:
                ended_for_silence(self, held)
                self._failed(held, Unreachable("no sign of life"), self.loop.time(), lost=True)
            return
        held.silent_s, held.missed, held.vain_turns = None, 0, 0
        self.crowd.hear(here=False)
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
        # What has passed since the last turn may have been time for many dials. Those of a link that has waited the
        # longest already are all alike: one of them is made.
        is_there = there and self.answers(one)
        while now_s >= held.due_s and not record.view.connected:
            at_s = max(held.due_s, self.turned_at_s)
            self._dial(key, held, at_s, is_there=is_there)
            if record.view.attempts > ATTEMPTS_UNLIKE and held.due_s > at_s + WAITED_S:
                held.due_s = max(held.due_s, now_s)
                break

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
            if not one.is_plain:
                self.proven[spec.target.url] = one.node_id
            held.readied = [at_s for at_s in held.readied if now_s - at_s < SESSIONS_WINDOW_S] + [now_s]
            if len(held.readied) > SESSIONS_OF_LINK_MAX:
                self.broken(f"a flapping link is not held down: {key}")
            record.ready(_OFFER, INFO, None if one.is_plain else identity_of(one))

    def _failed(self, held: HeldLink, failure: MeshError, now_s: float, *, lost: bool = False) -> None:
        ready_at_s = held.record.view.ready_at_s
        if lost:
            held.record.show(ready_at_s=None, last_error=str(failure), failure=type(failure).__name__)
        else:
            held.record.failed(failure)
        soon = retry_soon(failure)
        standing = held.record.standing
        if ready_at_s is not None:
            ended(self, held, now_s, now_s - ready_at_s)
        kind = kind_of(held.record.view.spec)
        down, dials = self.crowd.down[kind], DIALS if kind is Kind.ANNOUNCED else NAMED_DIALS
        held.due_s = now_s + wait_s(standing, self.rng, retry_soon=soon, down=down, dials=dials, now_s=now_s)

    # What calls need (`tests.simulation.calls`)

    def replicas(self) -> tuple[tuple[str, str], ...]:
        """The links that are up and heard, as no others get calls: backend key and node ID."""
        return tuple([(key, held.node_id) for key, held in self.links.items() if self._is_heard(held)])

    def sent(self, key: str, call_id: str) -> MeshError | None:
        """Send a call over a link; returns why there is no answer, None where there is one."""
        one = self.facts.at(cast("PeerSpec", self.links[key].record.view.spec).target.url)
        if not one.alive:
            return CallNotSent("refused")
        if self.facts.carries(self.own.number, one.number):
            self.executed[call_id] += 1
        stumbles = one.stumbles and self.calls % STUMBLES_ONE_IN == 0
        answers = self.answers(one) and not one.server_hangs and not stumbles
        return None if answers else CallOutcomeUnknown("no answer")

    def answers(self, one: NodeFacts) -> bool:
        """Whether packets arrive in both directions."""
        mine, its = self.own.number, one.number
        return self.facts.carries(mine, its) and self.facts.carries(its, mine)

    # Rules (`tests.simulation.decision_rules`)

    def broken(self, what: str) -> NoReturn:
        """A rule does not hold."""
        raise RuleBroken(f"{what} (by {self.own.name} at {self.loop.time():.3f} s)")

    def unconverged(self) -> str:
        """What is not yet as it must be; empty when everything is."""
        hidden = kept_away(self.store, self.facts)
        added = {self.facts.at(known.target.url).node_id for known in self.store.overrides}
        # An operator's URL of a node that has moved: the operator's word wins, and leads nowhere.
        urls = [one.target.url for one in self.store.overrides]
        lost = {self.facts.at(url).node_id for url in urls if not self.facts.is_at(url)}
        wanted = {
            one.node_id
            for one in self.facts.nodes
            if one.alive and one is not self.own and (one.node_id not in hidden or one.node_id in added)
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
        return None if held is None or held.record.view.unheard else held.record.view.ready_at_s

    def _is_heard(self, held: HeldLink) -> bool:
        return held.record.view.connected and not held.record.view.unheard

    def _is_ready(self, key: str) -> bool:
        held = self.links.get(key)
        return held is not None and held.record.view.connected


def _ignored(_what: object) -> None:
    pass
