"""A mesh of simulated nodes under faults that a seed draws: one run, from the first start until all is quiet again.

A run: nodes start and call each other; faults come one after the other; everything heals; the mesh has to be whole
again within `CONVERGED_WITHIN_S`. Whatever happens is written into `log`. The one rule: everything random comes from
the seed, so that the same seed is the same run.
"""

import asyncio
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from agent.errors import OverrideRefused
from agent.model import HttpTarget, Override
from tests.simulation import cities
from tests.simulation.crowd import QuietNode, crowd_faults
from tests.simulation.lying_catalog import Consul, Lie
from tests.simulation.network import Network
from tests.simulation.node import READ, WRITE, SimulatedNode
from tests.simulation.rules import RuleBroken, Rules, every_second
from tests.simulation.virtual_time import VirtualTimeLoop, run

# A flapping link is held down for a minute, a back-off is half a minute; a wait sleeps over a restore for 25 s.
CONVERGED_WITHIN_S = 120.0
PAUSES_S = (0.0, 0.01, 0.3, 1.0, 3.0, 12.0, 40.0)
CALL_EVERY_S = 3.0
FAULTS, FAULTS_WITH_CROWD = 12, 6
# How long a node goes on with a token that was deleted, until it has read the new one.
TOKEN_LATE_S = (0.0, 0.0, 2.0, 20.0)
# When nodes of a crowd register again that the catalog has lost, as Consul's own anti-entropy does; many at a time.
LOST_FOR_S = (1.0, 5.0, 15.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run went. `converged_s`: after the last fault; `steps`: how often rules looked, and outcomes of calls."""

    seed: int
    converged_s: float
    lasted_s: float
    steps: dict[str, int]
    log: tuple[str, ...]


@dataclass
class World:
    """See the module.

    Long because it is the list of all faults.
    """

    seed: int
    rng: random.Random
    consul: Consul
    network: Network = field(default_factory=Network)
    executed: dict[str, list[str]] = field(default_factory=dict)
    nodes: dict[str, SimulatedNode] = field(default_factory=dict)
    crowd: list[QuietNode] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    began_s: float = 0.0
    disturbances: int = 0
    _lives: dict[str, tuple[asyncio.Task[None], asyncio.Event]] = field(default_factory=dict)
    _tokens: int = 0
    _urls: dict[str, SimulatedNode | QuietNode] = field(default_factory=dict)
    _by_service: dict[str, SimulatedNode | QuietNode] = field(default_factory=dict)
    _calls: int = 0

    def __post_init__(self) -> None:
        self.rules = Rules(self)

    @property
    def now_s(self) -> float:
        """The virtual clock."""
        return asyncio.get_running_loop().time()

    def by_url(self, url: str) -> SimulatedNode | QuietNode | None:
        """The node that is, or was, at a URL."""
        return self._urls.get(url)

    def node_id_at(self, url: str) -> str | None:
        """Its node ID."""
        node = self._urls.get(url)
        return None if node is None else node.identity.node_id

    def settle(self, node: SimulatedNode | QuietNode) -> None:
        """A node is at its URL from now on."""
        self._urls[node.url] = self._by_service[node.service_id] = node
        if isinstance(node, QuietNode):
            self.network.at[node.url] = node

    def say(self, what: str) -> None:
        """Write down what happens."""
        self.log.append(f"{self.now_s - self.began_s:9.3f} {what}")

    # Lives

    def start(self, node: SimulatedNode, group: asyncio.TaskGroup) -> None:
        """Let a node live, if it does not."""
        before = self._lives.get(node.name)
        if before is not None and not (before[0].cancelling() or before[1].is_set()):
            return
        self.settle(node)
        stop = asyncio.Event()
        after = [] if before is None else [before[0]]
        life = group.create_task(self._life(node, stop, group, after), name=node.name)
        self._lives[node.name] = life, stop

    async def _life(
        self, node: SimulatedNode, stop: asyncio.Event, group: asyncio.TaskGroup, after: list[asyncio.Task[None]]
    ) -> None:
        try:
            if after:
                await asyncio.wait(after)
            async with node.life():
                calls = group.create_task(self._call(node), name=f"{node.name} calls")
                try:
                    await stop.wait()
                    await node.leave()
                finally:
                    calls.cancel()
        finally:
            if self._lives.get(node.name, (None, None))[1] is stop:
                del self._lives[node.name]

    def end(self, node: SimulatedNode, *, kindly: bool) -> None:
        """SIGTERM or SIGKILL."""
        life = self._lives.get(node.name)
        if life is None:
            return
        self.rules.cause(node.identity.node_id)
        task, stop = life
        if kindly:
            stop.set()
        else:
            node.alive = False
            for client in list(node.clients):
                client.hear_reset()
            task.cancel()

    async def _call(self, node: SimulatedNode) -> None:
        while True:
            await asyncio.sleep(self.rng.uniform(0.0, 2 * CALL_EVERY_S))
            self._calls += 1
            tool, call_id = self.rng.choice((READ, WRITE)), f"c{self._calls}"
            self.rules.called(call_id, tool, await node.call(tool, call_id))

    # Faults

    def news(self, service_id: str, what: str) -> None:
        """A fact about an entry of the catalog; what its own node took away is a cause that links to it end."""
        if service_id in self._by_service:
            self.rules.listed(self._by_service[service_id].identity.node_id, what)

    @property
    def is_city(self) -> bool:
        """Whether it has so many whole nodes that what happens to many is of interest."""
        return len(self.nodes) >= cities.NODES_MIN

    def any_node(self) -> SimulatedNode:
        """One of those that decide."""
        return self.rng.choice(list(self.nodes.values()))

    def anybody(self) -> SimulatedNode | QuietNode:
        """One of all."""
        return self.rng.choice([*self.nodes.values(), *self.crowd])

    def _lost(self, service_ids: Iterable[str]) -> None:
        """The catalog has lost these behind their agents' backs; whole nodes' own registrars notice."""
        loop = asyncio.get_running_loop()
        for service_id in service_ids:
            if isinstance(one := self._by_service.get(service_id), QuietNode):
                loop.call_later(self.rng.choice(LOST_FOR_S), one.register)

    def faults(self, group: asyncio.TaskGroup) -> list[Callable[[], str]]:
        """All that may happen, each as often as it should."""
        return [
            lambda: self._killed(kindly=False),
            lambda: self._killed(kindly=True),
            lambda: self._started(group),
            lambda: self._started(group),
            self._moved,
            self._hung,
            self._cut_one_way,
            self._cut_one_way,
            self._cut_off,
            self._slowed,
            self._lied,
            self._lied,
            self._outage,
            self._wiped,
            self._forgotten,
            self._restored,
            self._restored,
            self._rotated,
            self._rotated_at_the_end,
            self._jumped,
            self._time_set,
            lambda: self._ordered(group),
            lambda: self._ordered(group),
            self._healed,
        ]

    def _killed(self, *, kindly: bool) -> str:
        node = self.any_node()
        self.end(node, kindly=kindly)
        return f"{'SIGTERM' if kindly else 'SIGKILL'} {node.name}"

    def _started(self, group: asyncio.TaskGroup) -> str:
        for node in self.nodes.values():
            self.start(node, group)
        return "all start"

    def _moved(self) -> str:
        node = self.any_node()
        if node.name in self._lives:
            return "no move"
        node.move()
        self.rules.cause(node.identity.node_id)
        return f"{node.name} moves to {node.url}"

    def _hung(self) -> str:
        node = self.any_node()
        node.hangs = not node.hangs
        return f"{node.name} hangs: {node.hangs}"

    def _cut_one_way(self) -> str:
        pair = self.any_node(), self.anybody()
        source, to = pair if self.rng.random() < 0.5 else pair[::-1]
        self.network.cut.add((source.name, to.name))
        return f"packets from {source.name} to {to.name} are lost"

    def _cut_off(self) -> str:
        node, outward = self.any_node(), self.rng.random() < 0.5
        for other in (*self.nodes, *(one.name for one in self.crowd)):
            if other != node.name:
                self.network.lose(*((node.name, other) if outward else (other, node.name)))
        return f"all packets {'from' if outward else 'to'} {node.name} are lost"

    def _slowed(self) -> str:
        node = self.anybody()
        self.network.slow_s[node.name] = self.rng.choice((0.05, 0.4, 1.5))
        return f"{node.name} is slow"

    def _lied(self) -> str:
        node = self.any_node()
        node.agent.lie = self.rng.choice(list(Lie))
        return f"the agent of {node.name}: {node.agent.lie}"

    def _outage(self) -> str:
        lie = self.rng.choice((Lie.AWAY, Lie.LEADERLESS, Lie.FROZEN, Lie.NONE))
        for node in self.nodes.values():
            node.agent.lie = lie
        return f"all agents: {lie}"

    def _wiped(self) -> str:
        node = self.any_node()
        node.agent.wipe()
        return f"the agent of {node.name} is wiped"

    def _forgotten(self) -> str:
        everything = self.rng.random() < 0.3
        there = sorted(self.consul.entries)
        chosen = there if everything else self.rng.sample(there, min(1, len(there)))
        for service_id in chosen:
            self.consul.remove(service_id, "deregistered by a script")
        self._lost(chosen)
        return f"a script deregisters {chosen if len(chosen) < 9 else len(chosen)}"

    def _restored(self) -> str:
        back = self.rng.randrange(1, 8)
        self.consul.restore(back)
        self._lost(one.service_id for one in self.crowd if one.service_id not in self.consul.entries)
        return f"a snapshot of {back} changes ago is restored"

    def _rotated(self) -> str:
        before, self._tokens = f"t{self._tokens}", self._tokens + 1
        self.disturbances += 1
        loop = asyncio.get_running_loop()
        for node in (*self.nodes.values(), *self.crowd):
            loop.call_later(self.rng.choice(TOKEN_LATE_S), self._read_token, node)
        self.consul.refused_tokens.add(before)
        return f"tokens are rotated, {before} is deleted"

    def _rotated_at_the_end(self) -> str:
        """A node that has read the new token leaves before its registrar has noticed."""
        said, node = self._rotated(), self.any_node()
        self._read_token(node)
        self.end(node, kindly=True)
        return f"{said}, SIGTERM {node.name}"

    def _read_token(self, node: SimulatedNode | QuietNode) -> None:
        token = f"t{self._tokens}"
        if isinstance(node, SimulatedNode):
            node.agent.token = token  # Its registrar notices.
        elif node.token != token:
            node.token = token
            node.register()

    def _jumped(self) -> str:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        seconds = self.rng.choice((1.0, 20.0, 3600.0))
        loop.jump(seconds)
        self.disturbances += 1
        return f"the clock jumps {seconds} s ahead"

    def _time_set(self) -> str:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        ahead_s = self.rng.choice((-86_400.0, -3_600.0, 0.0, 3_600.0, 40 * 86_400.0))
        loop.set_time_of_day(ahead_s)
        return f"the time of day is {ahead_s} s ahead"

    def _ordered(self, group: asyncio.TaskGroup) -> str:
        node, other = self.any_node(), self.anybody()
        if not node.alive:
            return "no order"
        order = self.rng.choice(("remove", "reset", "add", "add under another name"))
        name = other.name if order != "add under another name" else f"my-{other.name}"
        self.rules.word(node, other.identity.node_id)
        group.create_task(self._order(node, order, name, other), name="order")
        return f"an operator of {node.name}: {order} {name}"

    async def _order(self, node: SimulatedNode, order: str, name: str, other: SimulatedNode | QuietNode) -> None:
        with suppress(OverrideRefused):
            match order:
                case "remove":
                    await node.orders.remove(name)
                case "reset":
                    await node.orders.reset(name)
                case _:
                    await node.orders.add(Override(name, HttpTarget(other.url)))
        self.rules.word(node, other.identity.node_id)

    def _healed(self) -> str:
        self.network.heal()
        for node in self.nodes.values():
            node.hangs = False
            node.agent.lie = Lie.NONE
        for one in (*self.nodes.values(), *self.crowd):
            self._read_token(one)
        return "everything heals"

    # The run

    async def live(self, *, faults: int) -> Outcome:
        """One run."""
        self.began_s = self.now_s
        async with asyncio.TaskGroup() as group:
            watcher = group.create_task(every_second(self), name="rules")
            for node in self.nodes.values():
                node.agent.keep_syncing()
                self.start(node, group)
            for one in self.crowd:
                one.start()
            await asyncio.sleep(self.rng.choice((0.5, 20.0)))
            choices, pauses_s, rng = self.faults(group), PAUSES_S, self.rng
            if self.is_city:  # Of what kind the faults of a seed are is the same in cities of all sizes.
                choices += cities.MORE_OFTEN * cities.CityFaults(self, group).all()
                pauses_s, rng = cities.PAUSES_S, random.Random(self.seed)
            if self.crowd:  # What concerns many, and orders about any of them, would come too seldom.
                choices += 6 * [*crowd_faults(self, self.crowd), lambda: self._ordered(group)]
            for _ in range(faults):
                self.say(rng.choice(choices)())
                await asyncio.sleep(rng.choice(pauses_s))
            self.say(self._healed())
            self._started(group)
            for one in self.crowd:
                one.register()
            healed_at_s = self.now_s
            converged_s = await self._until_converged(healed_at_s)
            self.rules.dialled()
            self.rules.held()
            lasted_s = self.now_s - self.began_s
            watcher.cancel()
            for node in self.nodes.values():
                node.agent.close()
            for task, _ in list(self._lives.values()):
                task.cancel()
        return Outcome(self.seed, converged_s, lasted_s, dict(self.rules.steps), tuple(self.log))

    async def _until_converged(self, since_s: float) -> float:
        while faults := self.rules.unconverged():
            if self.now_s - since_s > CONVERGED_WITHIN_S:
                self.rules.broken(f"not converged within {CONVERGED_WITHIN_S:g} s", "; ".join(faults))
            await asyncio.sleep(0.5)
        return self.now_s - since_s


def world_of(seed: int, *, crowd: int = 0, nodes: int = 0) -> World:
    """The world of a seed, before it begins: a few whole nodes, or so many, which may have a crowd around them."""
    rng = random.Random(seed)
    random.seed(seed)  # Discovery's jitter comes from the module's own generator.
    consul = Consul(rng)
    world = World(seed, rng, consul)
    consul.news = world.news
    for number in range(nodes or (1 + seed % 3 if crowd else 3 + seed % 4)):
        node = SimulatedNode(world, number)
        world.nodes[node.name] = node
    world.crowd = [QuietNode(world, number) for number in range(crowd)]
    return world


def simulate(seed: int, *, crowd: int = 0, nodes: int = 0, log: list[str] | None = None) -> Outcome:
    """Run one seed on a loop of its own. Raises `RuleBroken`. `log` gets what happens, also in a run that fails."""

    async def main() -> Outcome:
        world = world_of(seed, crowd=crowd, nodes=nodes)
        world.log = world.log if log is None else log
        return await world.live(faults=cities.FAULTS if world.is_city else FAULTS_WITH_CROWD if crowd else FAULTS)

    try:
        return run(main())
    except BaseExceptionGroup as group:
        raise _first_of(group) from group


def _first_of(failure: BaseException) -> BaseException:
    """The failure that began it: a broken rule, if there is one."""
    if not isinstance(failure, BaseExceptionGroup):
        return failure
    found = [_first_of(one) for one in failure.exceptions]
    return next((one for one in found if isinstance(one, RuleBroken)), found[0])
