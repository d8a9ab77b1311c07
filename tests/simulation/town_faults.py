"""All that may happen to the nodes of a town (`tests.simulation.towns`): each fault draws where, and says what it did.

A fault changes the facts, what an observer's Consul answers, or the clocks; those that take time let turns pass
themselves. The one rule: a fault is never known to a node but by its consequences.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.calls import BURST_CALLS, STUMBLING_CALLS, burst, burst_around, burst_in_panic, late_failures
from tests.simulation.lying_catalog import Lie
from tests.simulation.orders import WORDS, order

if TYPE_CHECKING:
    from tests.simulation.surroundings import NodeFacts
    from tests.simulation.towns import Town

# How likely a draw of these is to become one: they take many turns or calls.
CRASH_LOOPS, BURSTS, RESTARTS, LONG_TIMES = 0.1, 0.25, 0.4, 0.1
CRASHES, CRASH_EVERY_S = 14, 0.7
# How often a snapshot is nearly of now, where this node is not in it, either.
RECENT = 0.5
# A second name for several nodes.
SHARED_NAME = "twin"
# Longer than a catalog that was restored is doubted, with the last look at it.
LONG_S = 400.0
# A node doubts itself for 96 s at most; then another silence is a new one.
SILENCES_APART_S = 100.0
# How long a node goes on with a token that was deleted, until it has read the new one.
_TOKEN_LATE_S = (0.0, 0.0, 2.0, 60.0)
_LIES = (
    Lie.NONE,
    Lie.NONE,
    Lie.AWAY,
    Lie.LEADERLESS,
    Lie.FROZEN,
    Lie.BLIND,
    Lie.SHORT_SIGHTED,
    Lie.UNKNOWN_TOKEN,
    Lie.BEHIND,
    Lie.PARTIAL,
    Lie.DOUBLED,
    Lie.REORDERED,
)


# Nodes


def _stopped(town: "Town") -> str:
    one = town.other()
    kind = town.rng.choice(("SIGKILL", "SIGTERM", "starts", "starts", "moves", "is renamed"))
    town.stop(one, kind)
    return f"{kind} {one.name}"


def _many_stopped(town: "Town") -> str:
    kind, some = town.rng.choice(("SIGKILL", "SIGTERM", "starts")), town.some()
    for one in some:
        town.stop(one, kind)
    return f"{kind} {len(some)} nodes"


def _lapsed(town: "Town") -> str:
    """Their heartbeats do not arrive; their next registration does."""
    some = town.some()
    for one in some:
        town.facts.lapse(one)
    return f"the checks of {len(some)} are critical"


def _crash_loops(town: "Town") -> str:
    """A node starts, registers and dies, again and again."""
    one = town.other()
    if town.rng.random() > CRASH_LOOPS:
        return "no crash loop"
    for _ in range(CRASHES):
        town.stop(one, "SIGKILL")
        town.stop(one, "starts")
        town.turn(CRASH_EVERY_S)
    return f"{one.name} has started {CRASHES} times"


# Calls


def _called_much(town: "Town") -> str:
    """Calls come while servers of some hang or stumble, or their nodes have just died."""
    if town.rng.random() > BURSTS:
        return "no burst"
    some, kind = town.some(), town.rng.choice(("hang", "die", "are well", "stumble", "answer late"))
    for one in some:
        one.server_hangs, one.stumbles = kind == "hang", kind == "stumble"
        if kind == "die":
            town.stop(one, "SIGKILL")
    for observer in town.living():
        match kind:
            case "are well":
                burst_around(observer)
            case "stumble":
                burst(observer, calls=STUMBLING_CALLS)
            case "answer late":
                late_failures(observer)
            case _:
                burst(observer)
    for one in some:
        one.server_hangs = one.stumbles = False
    if kind == "die" and town.rng.random() < 0.5:
        _come_back(town, some)
    return f"many calls, and {len(some)} {kind}"


def _come_back(town: "Town", some: list["NodeFacts"]) -> None:
    """Before their ejection is over."""
    town.turn(0.2)
    for one in some:
        town.stop(one, "starts")
    town.turn(2.0)


def _called_in_panic(town: "Town") -> str:
    """Servers of half hang and get no more calls; then most others die."""
    others = [one for one in town.others() if one.alive]
    if len(town.citizens) > 1 or len(others) < 4 or town.rng.random() > BURSTS:
        return "no panic"
    town.rng.shuffle(others)
    half = len(others) // 2
    for one in others[:half]:
        one.server_hangs = True
    for observer in town.living():
        burst(observer, calls=4 * BURST_CALLS, sessions=BURST_CALLS)
    for one in others[:half]:
        one.server_hangs = False
    for one in others[half + 1 :]:
        town.stop(one, "SIGKILL")
    town.turn(0.2)
    for observer in town.living():
        burst_in_panic(observer)
    return f"servers of {half} hang, and then {len(others) - half - 1} die"


# The network


def _cut(town: "Town") -> str:
    some, which = town.some(), town.rng.choice(("from", "to", "both"))
    other = town.citizen()[0]
    for one in some:
        ways = {"from": [(one.number, other)], "to": [(other, one.number)]}
        town.facts.cut.update(ways.get(which, [*ways["from"], *ways["to"]]))
    return f"{which} of {len(some)} nodes and n{other} lose their packets"


def _all_cut(town: "Town") -> str:
    if town.rng.random() < 0.5:
        town.facts.cut.clear()
        return "all packets arrive"
    number = town.citizen()[0]
    _cut_off(town, number)
    return f"n{number} is cut off"


def _cut_off(town: "Town", number: int) -> None:
    for one in town.facts.nodes:
        town.facts.cut |= {(one.number, number), (number, one.number)}


def _cut_twice(town: "Town") -> str:
    """A node among many is deaf twice, for a moment each: each of its silences begins anew."""
    if len(town.citizens) > 1 or not town.is_large:
        return "no silences"
    for _ in range(2):
        town.facts.cut.clear()
        began_s = town.facts.now_s
        while town.facts.now_s < began_s + SILENCES_APART_S:
            town.turn(30.0)
        _cut_off(town, 0)
        town.turn(2.0)
    return "n0 was cut off twice, for a moment"


def _lossy(town: "Town") -> str:
    some = town.some()
    town.facts.lossy |= {one.number for one in some}
    return f"of packets of {len(some)} one is lost now and then"


# Consul


def _lied(town: "Town") -> str:
    lie, everybody = town.rng.choice(_LIES), town.rng.random() < 0.5
    chosen = [*town.citizens.values()] if everybody else [town.citizen()[1]]
    for citizen in chosen:
        town.set_lie(citizen, lie)
    return f"Consul to {len(chosen)}: {lie}"


def _forgotten(town: "Town") -> str:
    some = town.some()
    if len(town.citizens) == 1 and town.rng.random() < 0.5:
        some.append(town.facts.nodes[0])
    town.facts.lose(some)
    return f"a script deregisters {len(some)}"


def _agent_stopped(town: "Town") -> str:
    """The catalog loses a node whose Consul agent is away: nothing brings it back until all heals."""
    one = town.other()
    one.agent_away = True
    town.facts.lose([one])
    return f"the agent of {one.name} is away, and its entry lost"


def _restored(town: "Town") -> str:
    """A snapshot from before anybody had registered; each registers again, when it notices."""
    if not town.facts.before:
        return "no snapshot"
    some, own = town.some(), town.facts.nodes[0]
    is_ours = len(town.citizens) == 1 and town.rng.random() < 0.7
    is_recent = is_ours and town.rng.random() < RECENT
    town.facts.restore([*some, own] if is_ours else some, is_recent=is_recent)
    return f"a {'recent ' * is_recent}snapshot without {len(some)}{' and us' * is_ours} is restored"


def _restored_for_long(town: "Town") -> str:
    """A snapshot is restored without a server whose agent is away for good: at last it is gone."""
    if not town.facts.before or town.rng.random() > LONG_TIMES:
        return "no snapshot"
    one = town.facts.nodes[-1]
    one.agent_away = True
    town.heal(but_agents=True)
    town.facts.restore([one])
    began_s = town.facts.now_s
    while town.facts.now_s < began_s + LONG_S:
        town.turn(30.0)
    return f"a snapshot without {one.name} was restored, for {LONG_S:.0f} s"


def _restarted(town: "Town") -> str:
    """Consul's agents restart together; what some of them have lost is back within a heartbeat."""
    if town.rng.random() > RESTARTS:
        return "no restart"
    for citizen in town.citizens.values():
        town.set_lie(citizen, Lie.AWAY)
    town.turn(town.rng.choice((2.0, 15.0)))
    some = [one for one in town.some() if one.alive and town.facts.takes(one)]
    town.facts.wipe(some)
    for citizen in town.citizens.values():
        town.set_lie(citizen, Lie.NONE)
    town.turn(0.2)
    for one in some:
        town.facts.register(one)
    return f"Consul's agents were away, and {len(some)} lost and back"


def _rotated(town: "Town") -> str:
    """The token is replaced and deleted; each node reads the new one at its own time."""
    town.facts.token += 1
    for one in town.facts.nodes:
        town.new_tokens[one.number] = town.facts.now_s + town.rng.choice(_TOKEN_LATE_S)
    return f"the token is rotated for the {town.facts.token}. time"


def _registered_again(town: "Town") -> str:
    town.register_all()
    return "all living are registered"


# Operators and clocks


def _ordered(town: "Town") -> str:
    one, word = town.other(), town.rng.choice(WORDS)
    number, citizen = town.citizen()
    if number == one.number or citizen.observer is None or (one.is_plain and "add" in word):
        return "no order"
    return f"an operator of n{number}: {word} {order(citizen.observer, word, one)}"


def _removed_unreached(town: "Town") -> str:
    """A node is away, is back in the catalog, and is removed before it is reached again; then it moves."""
    one, (number, citizen) = town.other(), town.citizen()
    if one.is_plain or not one.alive or number == one.number or town.rng.random() > RESTARTS:
        return "no removal"
    ways = {(one.number, number), (number, one.number)}
    town.facts.cut |= ways
    town.facts.lapse(one)
    town.turn(15.0)
    town.turn(2.0)
    town.facts.register(one)
    town.turn(2.0)
    if citizen.observer is not None:
        order(citizen.observer, "remove", one)
    town.turn(0.2)
    town.facts.cut -= ways
    town.stop(one, "moves")
    return f"{one.name} was away, removed by an operator of n{number}, and moves"


def _time_set(town: "Town") -> str:
    """Each machine has a time of day of its own."""
    ahead_s = town.rng.choice((-86_400.0, -3_600.0, 0.0, 3_600.0, 40 * 86_400.0))
    everybody = town.rng.random() < 0.5
    chosen = [*town.citizens.values()] if everybody else [town.citizen()[1]]
    for citizen in chosen:
        citizen.loop.set_time_of_day(ahead_s)
    return f"the time of day of {len(chosen)} is {ahead_s} s ahead"


def _jumped(town: "Town") -> str:
    seconds = town.rng.choice((20.0, 3600.0))
    for one in town.facts.nodes:  # What has just happened is news to those who slept.
        one.caused_at_s += seconds
        one.lost_at_s += seconds
        one.lapsed_at_s += seconds
    for observer in town.living():
        observer.words = {node_id: at_s + seconds for node_id, at_s in observer.words.items()}
        observer.turned_at_s += seconds  # Who slept has not dialled.
    town.facts.restored_at_s += seconds
    town.facts.now_s += seconds
    return f"the clocks jump {seconds} s ahead"


def _healed(town: "Town") -> str:
    town.heal()
    return "everything heals"


FAULTS: tuple[Callable[["Town"], str], ...] = (
    _stopped,
    _stopped,
    _stopped,
    _many_stopped,
    _crash_loops,
    _called_much,
    _called_in_panic,
    _lapsed,
    _cut,
    _cut,
    _all_cut,
    _cut_twice,
    _lossy,
    _lied,
    _lied,
    _forgotten,
    _agent_stopped,
    _restored,
    _restored_for_long,
    _restarted,
    _rotated,
    _rotated,
    _registered_again,
    _ordered,
    _ordered,
    _removed_unreached,
    _time_set,
    _jumped,
    _healed,
)
