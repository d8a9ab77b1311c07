"""One node's decisions under thousands of seeds: the rules of a whole mesh at a hundredth of its cost.

Real here: `ConsulWatch` with all of its trust, `Selector` with select, reconcile, the record of links with their table,
back-off and crowd, the choice among replicas with ejection, and the rule of what may be sent again. The tasks around
them are replaced by the loop below, which takes a turn of each after every fault; `tests.simulation.world` runs the
real ones. The one rule: the loop below only carries out what the decisions say.
"""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast

from agent.control.selector import Selector
from agent.dispatch.outlier import outcome_of
from agent.dispatch.replicas import Attempt, ReplicaStats
from agent.dispatch.retry import Step, fate_of, is_repeatable, next_step
from agent.errors import CallNotSent, CallOutcomeUnknown, IdentityRefused, MeshError, Unreachable
from agent.links.actions import CloseLink, OpenLink, RelabelLink, RenewLink, reconcile
from agent.links.crowd import Crowd
from agent.links.record import LinkHooks, LinkRecord
from agent.links.state import MISSES_DOWN, Closed, DialStarted, ProbeAnswered, Sighted, wait_s
from agent.model import HttpTarget, NodeIdentity, Offer, Override, PeerSource, PeerSpec, Suppression
from agent.routing.table import Replica, Route, RouteKind
from discovery.consul.forgotten import FORGOTTEN_S
from discovery.consul.watch import ConsulWatch
from discovery.model import Catalog, Instance
from tests.simulation.lying_catalog import Lie
from tests.simulation.network import INFO
from tests.simulation.node import NoRecorder
from tests.simulation.rules import CAUSE_LASTS_S, DIALS_OF_LINK_MAX, DIALS_WINDOW_S, RuleBroken
from tests.simulation.surroundings import OWN, Other, Own, Servers, Store
from tests.simulation.virtual_time import VirtualTimeLoop, run

FAULTS = 5
# A held-down link waits for a minute, and after a restore the catalog is doubted for three: turns of half a wait each.
CONVERGED_WITHIN_S = 260.0
_OFFER = Offer(tools=({"name": "read"},), digest="d")
_WAITS_S = (0.2, 2.0, 15.0, 30.0)
# What vanishes by itself, and what was put back into the past.
_LIES = (
    Lie.NONE,
    Lie.NONE,
    Lie.AWAY,
    Lie.LEADERLESS,
    Lie.FROZEN,
    Lie.BLIND,
    Lie.UNKNOWN_TOKEN,
    Lie.BEHIND,
    Lie.DOUBLED,
)


@dataclass(slots=True)
class HeldLink:
    """A link without its task. `due_s`: its next dial; `dialled`: when it was."""

    record: LinkRecord
    due_s: float = 0.0
    dialled: list[float] = field(default_factory=list)


class Observer:
    """One node's decisions, and the facts around them.

    Long because it is the loop that takes a turn of each part, and the list of faults.
    """

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.loop = cast("VirtualTimeLoop", asyncio.get_running_loop())
        self.others = [Other(number) for number in range(rng.randrange(2, 5))]
        self.own = Own()
        self.servers = Servers(self.others, self.own)
        self.watch = ConsulWatch(
            cast("Any", self.servers), "mcp-node", own=cast("Any", self.own), answers=self._answers
        )
        self.catalog = Catalog()
        self.store = Store()
        self.selector = Selector(OWN, cast("Any", self.store))
        self.crowd = Crowd()
        self.hooks = LinkHooks(_ignored, _ignored, _ignored, crowd=self.crowd)
        self.links: dict[str, HeldLink] = {}
        self.stats = ReplicaStats(NoRecorder(), rng, self._up_since_s, lambda _key: 1, self._is_ready)
        self.executed: Counter[str] = Counter()
        self.log: list[str] = []
        self.words: dict[str, float] = {}
        self.calls = 0

    # Faults

    def fault(self) -> str:
        """Let one thing happen."""
        return self.rng.choice(_FAULTS)(self)

    def _stopped(self) -> str:
        one = self._other()
        kind = self.rng.choice(("SIGKILL", "SIGTERM", "starts", "starts", "moves"))
        self.servers.changed()
        match kind:
            case "SIGKILL":
                one.alive = one.passing = False
            case "SIGTERM":
                one.alive = one.listed = False
            case _:
                one.port += kind == "moves"
                one.epoch += 1
                one.alive = one.listed = one.passing = True
        if kind != "starts":
            one.caused_at_s = self.loop.time()
        return f"{kind} {one.name}"

    def _cut(self) -> str:
        one = self._other()
        one.reachable = not one.reachable
        return f"{one.name} reachable: {one.reachable}"

    def _all_cut(self) -> str:
        reachable = self.rng.random() < 0.5
        for one in self.others:
            one.reachable = reachable
        return f"all reachable: {reachable}"

    def _lied(self) -> str:
        self.servers.lie = self.rng.choice(_LIES)
        return f"Consul: {self.servers.lie}"

    def _forgotten(self) -> str:
        self.servers.changed()
        for one in self.rng.sample(self.others, self.rng.randrange(1, len(self.others) + 1)):
            one.listed, one.lost_at_s = False, self.loop.time()
        self.own.listed = self.rng.random() < 0.5
        return "a script deregisters some"

    def _restored(self) -> str:
        """A snapshot from before anybody had registered; each registers again, when it notices."""
        if not self.servers.before:
            return "no snapshot"
        self.servers.index = self.servers.before[0][0] - 1
        for one in self.rng.sample(self.others, self.rng.randrange(1, len(self.others) + 1)):
            one.listed, one.lost_at_s = False, self.loop.time()
        self.own.listed = self.rng.random() < 0.3
        return "a snapshot is restored"

    def _registered_again(self) -> str:
        self.servers.changed()
        for one in self.others:
            one.listed = one.listed or one.alive
            one.passing = one.alive
        return "all living are registered"

    def _ordered(self) -> str:
        one, word = self._other(), self.rng.choice(("remove", "add", "add under another name", "reset"))
        self.words[one.node_id] = self.loop.time()
        name = one.name if word != "add under another name" else f"my-{one.name}"
        overrides = tuple(known for known in self.store.overrides if known.name != name)
        suppressions = tuple(known for known in self.store.suppressions if known.node_id != one.node_id)
        match word:
            case "remove":
                suppressions = (*suppressions, Suppression(one.name, one.node_id, f"{one.name}-svc"))
            case "add" | "add under another name":
                overrides = (*overrides, Override(name, HttpTarget(one.url)))
        self.store.overrides, self.store.suppressions = overrides, suppressions
        return f"an operator: {word} {name}"

    def _time_set(self) -> str:
        ahead_s = self.rng.choice((-86_400.0, -3_600.0, 0.0, 3_600.0, 40 * 86_400.0))
        self.loop.set_time_of_day(ahead_s)
        return f"the time of day is {ahead_s} s ahead"

    def _healed(self) -> str:
        self.servers.lie = Lie.NONE
        for one in self.others:
            one.reachable = True
        return "everything heals"

    def _other(self) -> Other:
        return self.rng.choice(self.others)

    # One turn of everything

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
            raise RuleBroken(f"reconciling does not end: {desired} {list(self.links)}")

    def _forget(self, held: HeldLink) -> None:
        held.record.advance(Closed())

    def _closed(self, spec: PeerSpec, *, up: bool) -> None:
        one = self._at(spec.target.url)
        lost_for_s = self.loop.time() - one.lost_at_s
        causes = [one.caused_at_s, self.words.get(one.node_id, 0.0)]
        # What neither answers nor is in the catalog, as far as this node has seen it, is gone for all that it can know;
        # what answers is when it has been lost for long.
        causes += [] if up else [one.lost_at_s]
        is_gone = not one.alive or (not one.listed and (not up or lost_for_s >= FORGOTTEN_S))
        if not is_gone and self.loop.time() - max(causes) > CAUSE_LASTS_S:
            raise RuleBroken(f"removed without a cause: {spec.name}")

    def _probe(self, held: HeldLink) -> None:
        record = held.record
        spec = cast("PeerSpec", record.view.spec)
        one = self._at(spec.target.url)
        if not (record.view.connected and one.alive and one.url == spec.target.url):
            return
        if not one.reachable:
            record.asked()
            record.missed(busy=False, silent=True)
            if not record.view.connected:
                self._failed(held, Unreachable("no sign of life"), lost=True)
            return
        self.crowd.heard += 1
        if record.standing.misses:
            record.advance(ProbeAnswered())

    def _move_on(self, key: str, held: HeldLink) -> None:
        record, now_s = held.record, self.loop.time()
        spec = cast("PeerSpec", record.view.spec)
        one = self._at(spec.target.url)
        there = one.alive and one.url == spec.target.url
        if record.view.connected:
            if not there:
                self._failed(held, Unreachable("reset"))
            return
        if now_s >= held.due_s:
            self._dial(key, held, is_there=there and one.reachable)

    def _dial(self, key: str, held: HeldLink, *, is_there: bool) -> None:
        record, now_s = held.record, self.loop.time()
        spec = cast("PeerSpec", record.view.spec)
        one = self._at(spec.target.url)
        record.advance(DialStarted())
        held.dialled = [at_s for at_s in held.dialled if now_s - at_s <= DIALS_WINDOW_S] + [now_s]
        if len(held.dialled) > DIALS_OF_LINK_MAX:
            raise RuleBroken(f"too many dials of {key}")
        if not is_there:
            self._failed(held, Unreachable("refused"))
        elif spec.expected_node_id not in (None, one.node_id):
            self._failed(held, IdentityRefused("another node"))
        else:
            record.ready(_OFFER, INFO, NodeIdentity(one.node_id, one.name))

    def _failed(self, held: HeldLink, failure: MeshError, *, lost: bool = False) -> None:
        if lost:
            held.record.show(ready_at_s=None, last_error=str(failure), failure=type(failure).__name__)
        else:
            held.record.failed(failure)
        soon = bool(getattr(failure, "retry_soon", True))
        standing, now_s = held.record.standing, self.loop.time()
        held.due_s = now_s + wait_s(standing, self.rng, retry_soon=soon, down=self.crowd.down, now_s=now_s)

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
            raise RuleBroken(f"a write was sent twice: {call_id} to {tried}")

    def _sent(self, replica: Replica, call_id: str) -> MeshError | None:
        spec = cast("PeerSpec", self.links[replica.backend_key].record.view.spec)
        one = self._at(spec.target.url)
        if not one.alive:
            return CallNotSent("refused")
        # Of what is cut off, some requests still arrive: a way may be cut in one direction alone.
        if one.reachable or self.rng.random() < 0.5:
            self.executed[call_id] += 1
        return None if one.reachable else CallOutcomeUnknown("no answer")

    # Rules

    def _look(self) -> None:
        peers, store = self.selector.selection.peers, self.store
        added = {self._at(known.target.url).node_id for known in store.overrides}
        suppressed = {known.node_id for known in store.suppressions} - added
        linked = [
            view.identity.node_id
            for held in self.links.values()
            if (view := held.record.view).connected and view.identity
        ]
        for spec in peers:
            if spec.source is PeerSource.DISCOVERY and spec.expected_node_id in suppressed:
                raise RuleBroken(f"an operator's word does not win: {spec.name} was removed")
        by_name = {name: spec for spec in peers for name in (spec.name, *spec.aliases)}
        for known in store.overrides:
            spec = by_name.get(known.name)
            if spec is None or (spec.name == known.name and spec.target != known.target):
                raise RuleBroken(f"an operator's word does not win: {known} {spec}")
        if len(set(linked)) < len(linked):
            raise RuleBroken(f"two links to one node: {linked}")

    def unconverged(self) -> str:
        """What is not yet as it must be; empty when everything is."""
        suppressed = {known.node_id for known in self.store.suppressions}
        added = {self._at(known.target.url).node_id for known in self.store.overrides}
        # An operator's URL of a node that has moved: the operator's word wins, and leads nowhere.
        lost = {self._at(one.target.url).node_id for one in self.store.overrides if not self._is_at(one.target.url)}
        wanted = {
            one.node_id for one in self.others if one.alive and (one.node_id not in suppressed or one.node_id in added)
        }
        linked = {
            view.identity.node_id
            for held in self.links.values()
            if (view := held.record.view).connected and view.identity is not None
        }
        linked, wanted = linked - lost, wanted - lost
        return "" if linked == wanted else f"linked to {sorted(linked)}, not to {sorted(wanted)}"

    # Links, as dispatch and the watch see them

    def _answers(self, instance: Instance) -> bool:
        return self._is_ready(self.selector.key_at(instance))

    def _at(self, url: str) -> Other:
        """The node that is, or was, at a URL."""
        return self.others[int(url[len("http://10.0.0.") :].partition(":")[0]) - 1]

    def _is_at(self, url: str) -> bool:
        return self._at(url).url == url

    def _up_since_s(self, key: str) -> float | None:
        held = self.links.get(key)
        return None if held is None else held.record.view.ready_at_s

    def _is_ready(self, key: str) -> bool:
        held = self.links.get(key)
        return held is not None and held.record.view.connected

    async def live(self) -> float:
        """One run; returns the seconds from the last fault until everything is as it must be."""
        await self.turn(0.0)
        for _ in range(FAULTS):
            self.log.append(f"{self.loop.time():9.3f} {self.fault()}")
            await self.turn(self.rng.choice(_WAITS_S))
        self._healed()
        self._registered_again()
        self.own.listed = True
        healed_at_s = self.loop.time()
        await self.turn(0.0)
        while fault := self.unconverged():
            if self.loop.time() - healed_at_s > CONVERGED_WITHIN_S:
                raise RuleBroken(f"not converged within {CONVERGED_WITHIN_S:g} s: {fault}")
            await self.turn(5.0)
        return self.loop.time() - healed_at_s


_FAULTS = (
    Observer._stopped,
    Observer._stopped,
    Observer._stopped,
    Observer._cut,
    Observer._cut,
    Observer._all_cut,
    Observer._lied,
    Observer._lied,
    Observer._forgotten,
    Observer._restored,
    Observer._registered_again,
    Observer._ordered,
    Observer._ordered,
    Observer._time_set,
    Observer._healed,
)


def decide(seed: int, *, log: list[str] | None = None) -> float:
    """Run one seed. Raises `RuleBroken`. `log` gets what happens."""
    random.seed(seed)  # Discovery's jitter comes from the module's own generator.

    async def main() -> float:
        observer = Observer(seed)
        observer.log = observer.log if log is None else log
        return await observer.live()

    return run(main())


def _ignored(_what: object) -> None:
    pass
