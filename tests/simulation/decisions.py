"""One node's decisions, without the tasks around them: the rules of a whole mesh at a hundredth of its cost.

Real here: `ConsulWatch` with all of its trust, `Selector` with select, reconcile, the record of links with their table,
back-off and crowd, the choice among replicas with ejection, and the rule of what may be sent again. The tasks around
them are replaced by turns, which `tests.simulation.towns` takes after every fault; `tests.simulation.world` runs the
real ones. The one rule: a turn only carries out what the decisions say.
"""

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast

from agent.control.selector import Selector
from agent.dispatch.outlier import outcome_of
from agent.dispatch.replicas import Attempt, ReplicaStats
from agent.dispatch.retry import Step, fate_of, is_repeatable, next_step
from agent.errors import CallNotSent, CallOutcomeUnknown, IdentityRefused, MeshError, Unreachable
from agent.links.actions import CloseLink, OpenLink, RelabelLink, RenewLink, reconcile
from agent.links.crowd import Crowd
from agent.links.record import LinkHooks, LinkRecord, is_announced
from agent.links.state import (
    DIALS,
    MISSES_DOWN,
    NAMED_DIALS,
    Closed,
    DialStarted,
    ProbeAnswered,
    Sighted,
    wait_s,
)
from agent.model import Offer, PeerSource, PeerSpec
from agent.routing.table import Replica, Route, RouteKind
from discovery.consul.forgotten import FORGOTTEN_S
from discovery.consul.watch import ConsulWatch
from discovery.model import Catalog, Instance
from tests.simulation.network import INFO
from tests.simulation.node import NoRecorder
from tests.simulation.rules import CAUSE_LASTS_S, DIALS_OF_LINK_MAX, DIALS_WINDOW_S, RuleBroken
from tests.simulation.surroundings import Facts, NodeFacts, OwnEntry, Servers, Store, identity_of
from tests.simulation.virtual_time import VirtualTimeLoop

_OFFER = Offer(tools=({"name": "read"},), digest="d")


@dataclass(slots=True)
class HeldLink:
    """A link without its task. `due_s`: its next dial; `dialled`: when it was."""

    record: LinkRecord
    due_s: float = 0.0
    dialled: list[float] = field(default_factory=list)


class Observer:
    """One life of one node, on a loop and a clock of its own, and the facts around it.

    Long because it is the loop that takes a turn of each part.
    """

    def __init__(self, own: NodeFacts, facts: Facts, rng: random.Random, store: Store, loop: VirtualTimeLoop) -> None:
        self.own, self.facts, self.rng, self.store, self.loop = own, facts, rng, store, loop
        self.servers = Servers(facts, own)
        entry = cast("Any", OwnEntry(facts, own))
        self.watch = ConsulWatch(cast("Any", self.servers), "mcp-node", own=entry, answers=self._is_up)
        self.catalog = Catalog()
        self.selector = Selector(identity_of(own), cast("Any", store))
        self.crowd = Crowd()
        self.hooks = LinkHooks(_ignored, _ignored, _ignored, crowd=self.crowd)
        self.links: dict[str, HeldLink] = {}
        self.stats = ReplicaStats(NoRecorder(), rng, self._up_since_s, lambda _key: 1, self._is_ready)
        self.executed: Counter[str] = Counter()
        self.words: dict[str, float] = {}
        self.calls = 0
        self.turned_at_s = 0.0

    async def turn(self, seconds: float) -> None:
        """Call, let so much time pass, look at the catalog, choose and reconcile, let links move on, and call."""
        self._call()  # Before anything is known of what has just happened.
        self.loop.jump(seconds)
        update = await self.watch._turn()
        if update is not None:
            self.catalog = update
        await self._reconcile()
        before = [held.record.view for held in self.links.values()]
        for _ in range(MISSES_DOWN):
            for held in self.links.values():
                self._probe(held)
        for key, held in list(self.links.items()):
            self._move_on(key, held)
        if before != [held.record.view for held in self.links.values()]:
            await self._reconcile()
        self.turned_at_s = self.loop.time()
        self._call()
        self._look()

    async def _reconcile(self) -> None:
        views = [held.record.view for held in self.links.values()]
        await self.selector.select(self.catalog, (), views)
        selection = self.selector.selection
        desired = {spec.key: spec for spec in selection.peers}
        actual = {key: held.record.view.spec for key, held in self.links.items()}
        actions = reconcile(desired, actual)
        for action in actions:
            match action:
                case OpenLink(spec=spec) | RenewLink(spec=spec):
                    before = self.links.get(spec.key)
                    self.links[spec.key] = HeldLink(LinkRecord(spec, self.hooks), self.loop.time())
                    if before is not None:
                        self._forget(before)
                case CloseLink(key=key):
                    self._closed(cast("PeerSpec", actual[key]), up=self.links[key].record.view.connected)
                    self._forget(self.links.pop(key))
                    self.stats.forget(key)
                case RelabelLink(spec=spec, sighted=sighted):
                    held = self.links[spec.key]
                    held.record.show(spec=spec)
                    if (
                        sighted
                        and not held.record.view.connected
                        and held.record.standing.held_until_s <= self.loop.time()
                    ):
                        held.record.advance(Sighted())
                        held.due_s = self.loop.time()
        if actions and reconcile(desired, {key: held.record.view.spec for key, held in self.links.items()}):
            self._broken(f"reconciling does not end: {desired} {list(self.links)}")

    def _forget(self, held: HeldLink) -> None:
        held.record.advance(Closed())

    def _closed(self, spec: PeerSpec, *, up: bool) -> None:
        one = self.facts.at(spec.target.url)
        causes = [one.caused_at_s, self.words.get(one.node_id, 0.0)]
        # What neither answers nor is in the catalog, as far as this node has seen it, is gone for all that it can know;
        # what answers is when it has been lost for long.
        causes += [] if up else [one.lost_at_s]
        lost_for_s = self.loop.time() - one.unlisted_at_s
        is_gone = not one.alive or (not one.listed and (not up or lost_for_s >= FORGOTTEN_S))
        if not is_gone and self.loop.time() - max(causes) > CAUSE_LASTS_S:
            self._broken(f"removed without a cause: {spec.name}")

    def _probe(self, held: HeldLink) -> None:
        record = held.record
        spec = cast("PeerSpec", record.view.spec)
        one = self.facts.at(spec.target.url)
        if not (record.view.connected and one.alive and one.url == spec.target.url):
            return
        if not self._answers(one):
            record.asked()
            record.missed(busy=False, silent=True)
            if not record.view.connected:
                self._failed(held, Unreachable("no sign of life"), self.loop.time(), lost=True)
            return
        self.crowd.heard += 1
        if record.standing.misses:
            record.advance(ProbeAnswered())

    def _move_on(self, key: str, held: HeldLink) -> None:
        record, now_s = held.record, self.loop.time()
        spec = cast("PeerSpec", record.view.spec)
        one = self.facts.at(spec.target.url)
        there = one.alive and one.url == spec.target.url
        if record.view.connected:
            if not there:
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
            self._broken(f"too many dials of {key}")
        if not is_there:
            self._failed(held, Unreachable("refused"), now_s)
        elif spec.expected_node_id not in (None, one.node_id):
            self._failed(held, IdentityRefused("another node"), now_s)
        else:
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

    # Calls

    def _call(self) -> None:
        """One call, with all its attempts, as dispatch sends it."""
        self.calls += 1
        call_id, now_s = f"c{self.calls}", self.loop.time()
        hints = {"readOnlyHint": True} if self.rng.random() < 0.5 else {}
        up = [held.record.view for held in self.links.values() if held.record.view.connected]
        replicas = tuple(Replica(view.key, "t", view.identity.node_id, ours=False) for view in up if view.identity)
        if not replicas:
            return
        route = Route(RouteKind.TOOL, "kit__t", {"name": "kit__t", "annotations": hints}, "d", replicas, True, "kit")
        self.stats.called(route, now_s)
        tried: list[str] = []
        while (replica := self.stats.choose(route, tried, None, now_s)) is not None:
            tried.append(replica.backend_key)
            attempt = Attempt(route, replica.backend_key, now_s, 10.0, 10.0)
            self.stats.begin(attempt, "tools/call", {})
            failure = self._sent(replica, call_id)
            now_s += 0.01
            self.stats.finish(attempt, "ok" if failure is None else outcome_of(failure), now_s)
            if failure is None:
                break
            budget = self.stats.budget(route)
            repeatable = is_repeatable("tools/call", route, replica)
            known = {"repeatable": repeatable, "attempts": len(tried), "remaining_s": 5.0}
            if next_step(fate_of(failure), **known, budget=budget, now_s=now_s) is not Step.AGAIN:
                break
            self.stats.repeated(route, replica, now_s)
        if not hints and self.executed[call_id] > 1:
            self._broken(f"a write was sent twice: {call_id} to {tried}")

    def _sent(self, replica: Replica, call_id: str) -> MeshError | None:
        spec = cast("PeerSpec", self.links[replica.backend_key].record.view.spec)
        one = self.facts.at(spec.target.url)
        if not one.alive:
            return CallNotSent("refused")
        if self.facts.carries(self.own.number, one.number):
            self.executed[call_id] += 1
        return None if self._answers(one) else CallOutcomeUnknown("no answer")

    def _answers(self, one: NodeFacts) -> bool:
        """Whether packets arrive in both directions."""
        mine, its = self.own.number, one.number
        return self.facts.carries(mine, its) and self.facts.carries(its, mine)

    # Rules

    def _broken(self, what: str) -> NoReturn:
        raise RuleBroken(f"{what} (by {self.own.name} at {self.loop.time():.3f} s)")

    def _look(self) -> None:
        peers, store = self.selector.selection.peers, self.store
        added = {self.facts.at(known.target.url).node_id for known in store.overrides}
        suppressed = {known.node_id for known in store.suppressions} - added
        linked = [
            view.identity.node_id
            for held in self.links.values()
            if (view := held.record.view).connected and view.identity
        ]
        for spec in peers:
            if spec.source is PeerSource.DISCOVERY and spec.expected_node_id in suppressed:
                self._broken(f"an operator's word does not win: {spec.name} was removed")
        by_name = {name: spec for spec in peers for name in (spec.name, *spec.aliases)}
        for known in store.overrides:
            spec = by_name.get(known.name)
            if spec is None or (spec.name == known.name and spec.target != known.target):
                self._broken(f"an operator's word does not win: {known} {spec}")
        if len(set(linked)) < len(linked):
            self._broken(f"two links to one node: {linked}")

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
        linked = {
            view.identity.node_id
            for held in self.links.values()
            if (view := held.record.view).connected and view.identity is not None
        }
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
