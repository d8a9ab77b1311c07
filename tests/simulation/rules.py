"""What must hold in every run, whatever happens: the rules, and what each of them saw broken.

Fed by the world: facts (who is there, and why not), steps of each node's mesh, and ended calls. The one rule: a rule
knows the facts of the simulated world, never what a node believes of it.
"""

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import is_
from typing import TYPE_CHECKING, Any

from agent.errors import Unreachable
from agent.links.link import Link
from agent.links.supervisor import DIALS_MAX
from agent.model import HttpTarget, LinkState, LinkView, PeerSource, PeerSpec
from discovery.consul.forgotten import FORGOTTEN_S
from tests.simulation.loads import Loads
from tests.simulation.node import READ, WRITE, replicas_of

if TYPE_CHECKING:
    from tests.simulation.crowd import QuietNode
    from tests.simulation.node import SimulatedNode
    from tests.simulation.world import World

# A reason for a removal counts for so long: what the catalog lacks after a restore is doubted for three minutes, and a
# wait may sleep for 25 s.
CAUSE_LASTS_S = 240.0
# Who is at the other end of a link is known when it is up; the next step of the mesh, a second later at most, folds it.
TWO_LINKS_FOR_S = 2.0
# One link's dials within ten seconds: back-off with full jitter, a call a second, what the catalog says, and reloads.
DIALS_OF_LINK_MAX, DIALS_WINDOW_S = 25, 10.0
# And its sessions: it is held down for ten seconds after the fourth in a row that lasted less; one of a life before.
SESSIONS_OF_LINK_MAX = 6
# A node that has reached us is dialled at once where the last dial is longer ago than this; the dial waits for a place.
REACHED_EVERY_S, REACHED_WITHIN_S = 5.0, 1.0
# A read may be executed once for each attempt.
ATTEMPTS_MAX = 3


class RuleBroken(AssertionError):
    """A rule does not hold; the text says which, when and where."""


@dataclass
class Rules:
    """See the module. `causes`: node ID -> when it last was a reason that its links end.

    `doubts`: the same of what the catalog alone says of it, a reason for links that are down, with its end; `doubted`
    now. `lost`: since when it lacks a node. Long because it is the list of all rules.
    """

    world: "World"
    causes: dict[str, float] = field(default_factory=dict)
    doubts: dict[str, float] = field(default_factory=dict)
    doubted: set[str] = field(default_factory=set)
    lost: dict[str, float] = field(default_factory=dict)
    words: dict[tuple[str, str], float] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)
    two_since_s: dict[tuple[str, str], float] = field(default_factory=dict)
    steps: Counter[str] = field(default_factory=Counter)
    failure: RuleBroken | None = None
    loads: Loads = field(init=False)
    windows: dict[tuple[str, str], deque[float]] = field(default_factory=lambda: defaultdict(deque))
    sessions: dict[tuple[str, str], deque[float]] = field(default_factory=lambda: defaultdict(deque))
    _looked_at: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.loads = Loads(self.world)

    # Facts

    def cause(self, node_id: str) -> None:
        """From now on, for a while, links to this node may end."""
        self.causes[node_id] = self.world.now_s

    def listed(self, node_id: str, what: str) -> None:
        """What has become of a node's entry of the catalog: "there", "critical", "left", or why it is lost."""
        now_s = self.world.now_s
        self.loads.news(node_id)
        if what in ("there", "critical"):
            self.lost.pop(node_id, None)
        else:
            self.lost.setdefault(node_id, now_s)
        if what == "left":
            self.cause(node_id)
        if what != "there":
            self.doubted.add(node_id)
        elif node_id in self.doubted:
            self.doubted.remove(node_id)
            self.doubts[node_id] = now_s

    def word(self, node: "SimulatedNode", node_id: str) -> None:
        """An operator of `node` has said something about that node."""
        self.words[node.name, node_id] = self.world.now_s
        self.loads.news(node_id)

    # What nodes do

    def removed(self, node: "SimulatedNode", spec: PeerSpec, *, up: bool) -> None:
        """A node has closed its link to a peer for good, one that was `up` or not: a removal has a cause."""
        if not node.alive:
            return
        other = self.world.by_url(spec.target.url)
        if other is None:
            return
        node_id, now_s = other.identity.node_id, self.world.now_s
        causes = [self.causes.get(node_id, 0.0), self.words.get((node.name, node_id), 0.0)]
        if not up:
            causes.append(now_s if node_id in self.doubted else self.doubts.get(node_id, 0.0))
            causes.append(node.agent.hid_at_s)
        if now_s - self.lost.get(node_id, now_s) >= FORGOTTEN_S:
            causes.append(now_s)
        if now_s - max(causes) > CAUSE_LASTS_S:
            self.broken("removed without a cause", f"{node.name} closed {spec.name} at {spec.target.url}")

    def reached(self, node: "SimulatedNode", other: "SimulatedNode") -> None:
        """Another node has got through to this one: where its link waits in vain, the way may be open again."""
        link, now_s = node.mesh.link(node.mesh._selector.key_of(other.identity.node_id)), self.world.now_s
        way, dialled_at = (node.name, other.url), self.world.network.dialled_at
        self.loads.begun(*way)
        if link is None or link.spec.target != HttpTarget(other.url) or not _waits(link, now_s):
            return
        if now_s - dialled_at.get(way, 0.0) <= REACHED_EVERY_S:
            return

        def look() -> None:
            is_same = node.alive and node.mesh.link(link.spec.key) is link
            if is_same and _waits(link, now_s) and dialled_at.get(way, 0.0) < now_s:
                what = f"{other.name} by {node.name}"
                self.failure = self.failure or self._failed("who has reached us is not dialled", what)

        asyncio.get_running_loop().call_later(REACHED_WITHIN_S, look)

    def left(self, node: "SimulatedNode", *, was_well: bool) -> None:
        """A node has left: where its agent was well all the time, the catalog does not list it."""
        if was_well and node.agent.is_well and node.service_id in self.world.consul.entries:
            self.broken("a node that has left is still listed", node.name)

    def stepped(self, node: "SimulatedNode") -> None:
        """A node's mesh has made a step."""
        if not node.alive or node.mesh.observed_generation < node.mesh._generation:
            return
        self.steps["checked"] += 1
        views, store, routes = node.mesh.views(), node.store, node.mesh.routes
        # What has not changed since the last look is as it was then; views are compared as objects, which is quick.
        looked_at = views, store.overrides, store.suppressions, routes
        known = self._looked_at.get(node.name)
        is_same = known is not None and all(map(is_, looked_at[1:], known[1:])) and _same_objects(views, known[0])
        if is_same and not any(name == node.name for name, _ in self.two_since_s):
            return
        self._looked_at[node.name] = looked_at
        peers = [view for view in views if isinstance(view.spec, PeerSpec)]
        self._operator_wins(node, peers)
        self._one_link_each(node, peers)

    def called(self, call_id: str, tool: str, outcome: str) -> None:
        """A call has ended, with the outcome that its client got."""
        self.outcomes[call_id] = outcome
        executions = self.world.executed.get(call_id, [])
        self.steps[outcome] += 1
        if tool == WRITE and len(executions) > 1:
            self.broken("a write was sent twice", f"{call_id} was executed by {executions}")
        if len(executions) > ATTEMPTS_MAX:
            self.broken("a read was sent too often", f"{call_id} was executed by {executions}")
        if outcome == "ok" and not executions:
            self.broken("an answer came from nowhere", call_id)
        if outcome == "not_executed" and executions:
            self.broken("a call was executed all the same", f"{call_id} by {executions}")

    def dialled(self) -> None:
        """Look through the dials since the last time."""
        network = self.world.network
        dials, network.dials = network.dials, []
        for at_s, source, url, row in dials:
            self.loads.dialled(at_s, source, row)
            window = self.windows[source, url]
            window.append(at_s)
            while at_s - window[0] > DIALS_WINDOW_S:
                window.popleft()
            if len(window) > DIALS_OF_LINK_MAX:
                self.broken("too many dials", f"{source} dialled {url} {len(window)} times within {DIALS_WINDOW_S} s")
        opened, network.opened_at = network.opened_at, []
        for at_s, source, url in opened:
            sessions = self.sessions[source, url]
            sessions.append(at_s)
            while at_s - sessions[0] > DIALS_WINDOW_S:
                sessions.popleft()
            other = self.world.by_url(url)  # A reload, by an operator's word, begins a new row.
            word_s = 0.0 if other is None else self.words.get((source, other.identity.node_id), 0.0)
            if len(sessions) > SESSIONS_OF_LINK_MAX and at_s - word_s > CAUSE_LASTS_S:
                self.broken("a flapping link is not held down", f"{source} to {url}, {len(sessions)} sessions")
        if network.began_most > DIALS_MAX:
            self.broken("too many dials at once", f"{network.began_most} had a place")

    def broken(self, rule: str, what: str) -> None:
        """End the run, at the latest with the next look: a node's mesh goes on whatever is raised in one step of it."""
        self.failure = self.failure or self._failed(rule, what)
        raise self.failure

    def _failed(self, rule: str, what: str) -> RuleBroken:
        return RuleBroken(f"{rule}, at {self.world.now_s - self.world.began_s:.3f} s: {what}")

    def held(self) -> None:
        """Raises the first `RuleBroken`, if there was one."""
        if self.failure is not None:
            raise self.failure

    # Rules

    def _operator_wins(self, node: "SimulatedNode", views: Sequence[LinkView]) -> None:
        mesh, store = node.mesh, node.store
        if not (store.suppressions or store.overrides):
            return
        suppressed = {one.node_id for one in store.suppressions} - {None}
        added = {self.world.node_id_at(one.target.url) for one in store.overrides}
        for view in views:
            node_id = None if view.identity is None else view.identity.node_id
            discovered = isinstance(view.spec, PeerSpec) and view.spec.source is PeerSource.DISCOVERY
            if discovered and view.connected and node_id in suppressed - added:
                self.broken(
                    "an operator's word does not win", f"{node.name} is linked to {view.key}, which was removed"
                )
        peers = {name: spec for spec in mesh.selection.peers for name in (spec.name, *spec.aliases)}
        for override in store.overrides:
            if self.world.node_id_at(override.target.url) == node.identity.node_id:
                continue
            spec = peers.get(override.name)
            named = spec is not None and (spec.name != override.name or spec.target == override.target)
            if not named:
                self.broken("an operator's word does not win", f"{node.name} has not added {override.name}: {spec}")

    def _one_link_each(self, node: "SimulatedNode", views: Sequence[LinkView]) -> None:
        now_s = self.world.now_s
        linked = [view.identity.node_id for view in views if view.connected and view.identity is not None]
        many = Counter(linked) if len(set(linked)) < len(linked) else {}
        twice = {node_id for node_id, count in many.items() if count > 1}
        if node.identity.node_id in linked:
            self.broken("a link to ourselves", node.name)
        for name, node_id in list(self.two_since_s):
            if name == node.name and node_id not in twice:
                del self.two_since_s[name, node_id]
        for node_id in twice:
            since_s = self.two_since_s.setdefault((node.name, node_id), now_s)
            if now_s - since_s > TWO_LINKS_FOR_S:
                self.broken("two links to one node", f"{node.name} to {node_id}")
        replicas = replicas_of(node.mesh.routes, READ)
        if len(set(replicas)) < len(replicas):
            self.broken("two replicas of one node", f"{node.name}: {replicas}")

    # The end

    def unconverged(self) -> list[str]:
        """What is not yet as it must be once all faults are over; empty when everything is."""
        whole = self.world.nodes.values()
        if ended := [node.name for node in whole if not node.alive]:
            return [f"{ended} have not started again"]
        alive = [*whole, *(one for one in self.world.crowd if one.alive)]
        return [fault for node in whole for fault in self._unconverged_of(node, alive)]

    def _unconverged_of(self, node: "SimulatedNode", alive: Iterable["SimulatedNode | QuietNode"]) -> Iterable[str]:
        suppressed = {one.node_id for one in node.store.suppressions}
        # What an operator removed before it had proven which node it is, is hidden by its place.
        suppressed |= {self.world.node_id_at(one.url) for one in node.store.suppressions if one.url is not None}
        added = {self.world.node_id_at(one.target.url) for one in node.store.overrides}
        wanted = {
            other.identity.node_id
            for other in alive
            if other is not node and (other.identity.node_id not in suppressed or other.identity.node_id in added)
        }
        # An operator's URL of a node that has moved: the operator's word wins, and leads nowhere.
        lost = {self.world.node_id_at(one.target.url) for one in node.store.overrides} - {
            other.identity.node_id
            for other in alive
            if any(other.url == one.target.url for one in node.store.overrides)
        }
        wanted -= lost
        views = [view for view in node.mesh.peer_views() if view.connected]
        linked = sorted(view.identity.node_id for view in views if view.identity is not None)
        if sorted(set(linked) - lost) != sorted(wanted):
            yield f"{node.name} is linked to {linked}, not to {sorted(wanted)}"
        replicas = {one for one in replicas_of(node.mesh.routes, READ) if one is not None} - lost
        if replicas != wanted | {node.identity.node_id}:
            yield f"{node.name} has replicas {sorted(replicas)}"
        if kept := node.specs.keys() - {view.key for view in node.mesh.peer_views()}:
            yield f"{node.name} keeps what it knows of links that are closed: {sorted(kept)}"
        if not (node.registrar.status.registered and node.watch.status.up):
            yield f"{node.name}: {node.registrar.status} {node.watch.status}"
        entry = self.world.consul.entries.get(node.service_id)
        if entry is None or not entry.passing:
            held = node.agent.held.get(node.service_id)
            yield f"{node.name} is not passing in the catalog; its agent has {held}, its token is {node.agent.token}"


def _waits(link: Link, now_s: float) -> bool:
    """Whether it waits to dial what may be back at any moment."""
    standing = link._record.standing
    soon = link.view.failure == Unreachable.__name__
    return standing.state is LinkState.BACKOFF and standing.held_until_s <= now_s and soon


def _same_objects(views: Sequence[LinkView], known: Sequence[LinkView]) -> bool:
    return len(views) == len(known) and all(map(is_, views, known))


async def every_second(world: "World") -> None:
    """Look at every node each second, too: not every step makes another table."""
    while True:
        await asyncio.sleep(1.0)
        world.rules.dialled()
        world.rules.held()
        for node in world.nodes.values():
            world.rules.stepped(node)
            if node.agent.misused:
                world.rules.broken("Consul is asked for what it does not have", f"{node.name}: {node.agent.misused}")
