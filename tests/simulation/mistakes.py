"""Mistakes that a change of the code could make, one text of a file in place of another, and what notices each of them.

`python -m tests.simulation --mistakes` tries all of them, or those whose names begin with its words, against many
seeds, each in a process of its own whose modules have the one mistake. The one rule: a mistake is in a decision of the
real code, and what notices it is no part of that code.
"""

import sys
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Mistake:
    """`right` stands once in `file`. `kinds`: the runs that are tried, in order, until one notices it.

    `first`: the first seed, of runs that cost much; `held_by`: the test that does where no run can; `why` not.
    """

    file: str
    right: str
    wrong: str
    kinds: tuple[str, ...] = ("decisions",)
    first: int = 0
    held_by: str = ""
    why: str = ""

    @property
    def module(self) -> str:
        """Its name."""
        return self.file.removesuffix(".py").replace("/", ".")

    def made(self) -> str:
        """The text of the file with the mistake."""
        text = (ROOT / self.file).read_text()
        assert text.count(self.right) == 1, f"{self.file} has it {text.count(self.right)} times: {self.right}"
        return text.replace(self.right, self.wrong)


MESH = ("mesh",)
CROWD = ("crowd",)
CITY = ("city",)

_CROWD, _STATE, _RECORD = "agent/links/crowd.py", "agent/links/state.py", "agent/links/record.py"
_LINK, _ACTIONS = "agent/links/link.py", "agent/links/actions.py"
_OUTLIER, _REPLICAS, _RETRY = "agent/dispatch/outlier.py", "agent/dispatch/replicas.py", "agent/dispatch/retry.py"
_SELECTION, _SELECTOR, _GROUPS = "agent/control/selection.py", "agent/control/selector.py", "agent/control/groups.py"
_NAMED, _ABSENCE = "agent/control/named_peers.py", "agent/control/absence.py"
_QUERY, _WATCH = "discovery/consul/blocking_query.py", "discovery/consul/watch.py"
_FORGOTTEN, _REGISTRATION = "discovery/consul/forgotten.py", "discovery/consul/registration.py"

LINKS = {
    "a node never doubts itself": Mistake(_CROWD, "if up < TOGETHER_MIN:", "if True:"),
    "a node with few links never doubts itself": Mistake(_CROWD, "TOGETHER_MIN: Final = 2", "TOGETHER_MIN: Final = 3"),
    "a node doubts itself for one link alone": Mistake(_CROWD, "if up < TOGETHER_MIN:", "if False:"),
    "a node doubts itself for ever": Mistake(
        _CROWD, "SELF_DOUBT_MAX_S: Final = 96.0", 'SELF_DOUBT_MAX_S: Final = float("inf")'
    ),
    "missed probes end no link": Mistake(_STATE, "event.ended or misses - excused >= MISSES_DOWN", "event.ended"),
    "a link ends with its second miss": Mistake(_STATE, "MISSES_DOWN: Final = 3", "MISSES_DOWN: Final = 2"),
    "missed probes stay counted when one is answered": Mistake(
        _STATE,
        "state=LinkState.READY, misses=0, excused=0, unheard=False)",
        "state=LinkState.READY, excused=0, unheard=False)",
    ),
    "a silence counts from the first one ever": Mistake(
        _RECORD, "if not self.standing.misses:", "if self._silence is NO_SILENCE:"
    ),
    "the count of links that are down only grows": Mistake(
        _CROWD,
        "self.down[kind] += (after.state is LinkState.BACKOFF) - (before.state is LinkState.BACKOFF)",
        "self.down[kind] += after.state is LinkState.BACKOFF",
    ),
    "links that are down count as up": Mistake(
        _CROWD, "return standing.state in (LinkState.READY, LinkState.SUSPECT)", "return standing.attempts == 0"
    ),
    "what flaps is not held down": Mistake(_STATE, "FLAPS_MIN: Final = 4", "FLAPS_MIN: Final = 10**9"),
    "a hold-down comes a session late": Mistake(_STATE, "flaps - FLAPS_MIN + 1", "flaps - FLAPS_MIN"),
    "a hold-down is cut short by a sighting": Mistake(
        _LINK, "return clock.now_s() < self._record.standing.held_until_s", "return False", CROWD
    ),
    "a hold-down never ends": Mistake(
        _STATE,
        "HOLD_DOWN: Final = Backoff(first_s=10.0, last_s=60.0)",
        "HOLD_DOWN: Final = Backoff(first_s=1e6, last_s=1e6)",
    ),
    "every session is a flap": Mistake(_STATE, "FLAP_S: Final = 10.0", "FLAP_S: Final = math.inf"),
    "a steady session ends no row of failures": Mistake(
        _STATE, "return replace(standing, attempts=0, hangs=0) if is_steady else standing", "return standing"
    ),
    "back-off has no limit": Mistake(
        _STATE,
        "\nDIALS: Final = Backoff(first_s=0.5, last_s=15.0)",
        "\nDIALS: Final = Backoff(first_s=0.5, last_s=1e6)",
        ("decisions", "mesh"),
    ),
    "nothing waits to dial": Mistake(
        _STATE, "max(asked_s, backoff.jittered_s(max(1, standing.attempts), rng.random()))", "asked_s"
    ),
    "any number of links dial at once": Mistake(
        "agent/links/supervisor.py", "asyncio.Semaphore(DIALS_MAX)", "asyncio.Semaphore(10**6)", MESH
    ),
    "a peer that has reached us cuts no back-off short": Mistake(
        _LINK, "state is LinkState.BACKOFF and due and not self._is_held_down", "False", MESH
    ),
    "what dead links dial together has no limit": Mistake(
        _STATE,
        "\nDIALS_PER_S_MAX: Final = 3",
        "\nDIALS_PER_S_MAX: Final = 10**6",
        CITY,
        first=6,
    ),
    "a probe at rest that the kernel gives up is a refusal": Mistake(
        "agent/links/probe.py",
        'Unreachable("no usual answer", silent=True)',
        'Unreachable("no usual answer")',
        CITY,
        first=14,
    ),
    "two links are of one place when their peer moves": Mistake(_ACTIONS, "return wanted == same", "return True"),
    "what has registered anew waits like others": Mistake(
        _ACTIONS, 'return wanted.sighting not in ("", present.sighting)', "return False"
    ),
    "what is no longer wanted is kept": Mistake(
        _ACTIONS,
        "closes = [CloseLink(key, NOT_WANTED) for key in sorted(actual.keys() - desired.keys())]",
        "closes: list[CloseLink] = []",
    ),
}

CALLS = {
    "failures eject nothing": Mistake(_OUTLIER, "FAILURES_IN_ROW_MAX: Final = 5", "FAILURES_IN_ROW_MAX: Final = 10**9"),
    "refusals eject nothing": Mistake(_OUTLIER, "        return Cause.REFUSED\n", "        return None\n"),
    "an ejection never ends": Mistake(_OUTLIER, "if now_s < back_at_s:", "if True:"),
    "all of a group are ejected": Mistake(_OUTLIER, "return 2 * (ejected + 1) <= len(healths)", "return True"),
    "a group that has lost most of its members is not used whole": Mistake(
        _OUTLIER, "return frozenset() if 2 * (len(group) - len(ejected)) < len(group) else ejected", "return ejected"
    ),
    "an answer ends no row of failures": Mistake(
        _OUTLIER,
        "failures_in_row=health.failures_in_row + 1 if failed else 0",
        "failures_in_row=health.failures_in_row + failed",
    ),
    "calls of before an ejection judge again": Mistake(
        _OUTLIER,
        "health.is_ejected or (health.readmitted_at_s is not None and started_s < health.readmitted_at_s)",
        "health.is_ejected",
    ),
    "no connection disproves a refusal": Mistake(
        _OUTLIER, "if health.cause is Cause.REFUSED and up_since_s is not None and", "if False and up_since_s and"
    ),
    "a replica is tried again in one call": Mistake(
        _REPLICAS, "ejected_of(keys, group.healths).union(tried)", "ejected_of(keys, group.healths)"
    ),
    "maintenance is ignored": Mistake(_REPLICAS, "        if self.drained:\n", "        if False:\n"),
    "replicas of other datacentres go first": Mistake(
        "agent/dispatch/balance.py", "return home if home_cost <= OWN_SLOWER_BY * away_cost else away", "return away"
    ),
    "what is gone keeps its ejection": Mistake(
        _REPLICAS, "            group.healths.pop(backend_key, None)\n", "", ("decisions", "mesh")
    ),
    "dispatch forgets nothing that is gone": Mistake(
        "agent/dispatch/dispatcher.py",
        '"""Drop what is remembered of a backend that is gone."""\n        self._stats.forget(backend_key)',
        '"""Drop nothing."""',
        MESH,
    ),
    "what was sent is sent again": Mistake(
        _RETRY, "if fate_of(failure) is not Fate.NOT_EXECUTED and not repeatable:", "if False:"
    ),
    "an unknown outcome is taken for none": Mistake(
        _RETRY,
        "        case _:\n            return Fate.UNKNOWN",
        "        case _:\n            return Fate.NOT_EXECUTED",
    ),
    "every tool may be called twice": Mistake(
        _RETRY,
        'return isinstance(hints, dict) and (hints.get("readOnlyHint") is True or hints.get("idempotentHint") is True)',
        "return hints is not None",
    ),
    "a call has any number of attempts": Mistake(_RETRY, "ATTEMPTS_MAX: Final = 3", "ATTEMPTS_MAX: Final = 100"),
    "a call has an attempt more": Mistake(_RETRY, "ATTEMPTS_MAX: Final = 3", "ATTEMPTS_MAX: Final = 4"),
    "the budget of retries has no limit": Mistake(_RETRY, "BUDGET_RESERVE: Final = 3", "BUDGET_RESERVE: Final = 100"),
    "the budget of retries forgets earlier calls": Mistake(
        _RETRY, "kept = tuple([entry for entry in self.seconds if entry[0] > second - WINDOW_S])", "kept = ()"
    ),
}

WORDS = {
    "added peers are left out": Mistake(_NAMED, "if not overrides and not statics:", "if True:"),
    "removals are forgotten": Mistake(
        _SELECTION,
        "return {c.key for c in candidates if c.node_id in nodes or c.name in names or c.service_id in service_ids}",
        "return set()",
    ),
    "removals count by name and service ID alone": Mistake(
        _SELECTION, "nodes = {s.node_id for s in suppressions if s.node_id is not None}", "nodes = set[str]()"
    ),
    "what an operator removes is kept away by its name alone": Mistake(
        _SELECTION,
        "return candidate.hidden_by if name == candidate.name else Suppression(name, node_id, service_id)",
        "return Suppression(name)",
    ),
    "what an operator removes is kept away at its place alone": Mistake(
        _SELECTION, "if node_id is not None and learned.get(candidate.url) != node_id:", "if node_id is not None:"
    ),
    "who answered at a URL is not kept": Mistake(
        _SELECTOR, "learned = None if view.connected else known", "learned = None"
    ),
    "orders of one node are not merged": Mistake(
        _NAMED, 'twin = by_url.get(place) or by_node.get(builder.identity or "")', "twin = None"
    ),
    "what is added has a second link": Mistake(_NAMED, "        if builder is None:\n", "        if True:\n"),
    "the entries of one node are not merged": Mistake(
        _SELECTION, "        if len(group) == 1:\n", "        if True:\n"
    ),
    "the first entry of a node in the catalog counts": Mistake(
        _SELECTION,
        "best, *others = sorted(group, key=lambda c: (not is_proven(c), *_preference(c, last, is_up)))",
        "best, *others = group",
    ),
    "a selection misses what the catalog has lost": Mistake(
        _GROUPS,
        "lost = () if items is None else [item for key, item in self._items.items() if key not in items]",
        "lost = ()",
    ),
    "groups are not selected to their end": Mistake(
        _GROUPS,
        "if not group.settled:",
        "if False:",
        held_by="tests/unit/control/test_groups.py",
        why="the next change of the group, or of its links, brings it there",
    ),
    "a selection does not hear which links are up": Mistake(
        _SELECTOR, "                touched.add(spec.name)\n", "                pass\n"
    ),
    "names of what is away are forgotten": Mistake(
        _ABSENCE, "now_s - at_s < AWAY_FOR_S and not is_suppressed(name, node_id, suppressions)", "False"
    ),
    "names of what an operator removed are kept": Mistake(
        _ABSENCE,
        "now_s - at_s < AWAY_FOR_S and not is_suppressed(name, node_id, suppressions)",
        "now_s - at_s < AWAY_FOR_S",
    ),
    "our own entry is a peer": Mistake(
        "agent/control/candidates.py",
        'if instance.meta.get("node_id") != own_node_id:',
        "if True:",
        held_by="tests/unit/control/test_selection.py",
        why="it is refused a second time when entries are chosen",
    ),
    "our own entry is chosen": Mistake(
        _SELECTION,
        "elif entry.identity == own.node_id:",
        "elif False:",
        held_by="tests/unit/control/test_selection.py",
        why="it was refused a first time when the catalog was read",
    ),
}

CATALOG = {
    "a catalog without ourselves is believed": Mistake(
        _QUERY, "if canary is not None and not any(is_canary(", "if False and not any(is_canary("
    ),
    "a restored state is believed": Mistake(_QUERY, "    if restored:\n", "    if False:\n"),
    "nothing settles after an outage": Mistake(_QUERY, "    if settling:\n", "    if False:\n"),
    "settling never ends": Mistake(
        _WATCH, "self._settle_until_s is not None and now_s < self._settle_until_s", "self._settle_until_s is not None"
    ),
    "doubt after a restore never ends": Mistake(
        _WATCH, "restored = now_s < self._restored_until_s", "restored = self._restored_until_s > 0"
    ),
    "several are gone at once without a second look": Mistake(_QUERY, "bool(hidden) or is_mass or", "bool(hidden) or"),
    "a second look is never enough": Mistake(
        _QUERY, "if in_doubt and not (confirming and rest <= suspects):", "if in_doubt:"
    ),
    "an index never goes back": Mistake(
        _QUERY, "return 0 if answered < previous else max(1, answered)", "return max(previous, answered)"
    ),
    "an index that goes back is no restored state": Mistake(
        _WATCH, "went_back = answered_index < self._last_index", "went_back = False"
    ),
    "our own entry made anew is no restored state": Mistake(
        _WATCH, "if self._own_created not in (None, created):", "if False:"
    ),
    "rows that access control hides are taken for gone": Mistake(
        _QUERY, "if filtered or (tells and waited):", "if False:"
    ),
    "rows that may be hidden are gone at a second look": Mistake(_QUERY, "if hidden and confirming:", "if False:"),
    "what the catalog forgets is gone": Mistake(
        _FORGOTTEN, "since_s in self._since_s.items() if now_s - since_s < FORGOTTEN_S)", "since_s in ())"
    ),
    "what the catalog has long forgotten is kept": Mistake(
        _FORGOTTEN,
        "since_s in self._since_s.items() if now_s - since_s < FORGOTTEN_S)",
        "since_s in self._since_s.items())",
    ),
    "critical peers are dropped": Mistake(_SELECTION, "for c in rest if c.up or is_up(c)]", "for c in rest if c.up]"),
    "critical peers are dialled": Mistake(_SELECTION, "for c in rest if c.up or is_up(c)]", "for c in rest]"),
    "an entry of ours that is lost is not registered again": Mistake(
        _WATCH, "_DISTRUSTS_OF_LOSS = 2", "_DISTRUSTS_OF_LOSS = 10**9"
    ),
    "a server that is behind is taken for a restored state": Mistake(
        _QUERY,
        "if not (confirming or vanished <= _doubted_of(shown)):",
        "if False:",
        held_by="tests/simulation/test_stories.py -k behind",
        why="it takes a server that is behind, a restored state and lost packets in this order",
    ),
}

REGISTRATION = {
    "a node that leaves does not deregister": Mistake(
        "discovery/consul/leaving.py", "await self._client.deregister(self._service_id)", "pass", MESH
    ),
    "no heartbeat is sent": Mistake(
        "discovery/consul/heartbeats.py", "await self._client.pass_check(self._check_id)", "pass", MESH
    ),
    "a rotated token is not registered with": Mistake(
        _REGISTRATION, "if self._sent is not None and self._held_token != self._client.token:", "if False:", MESH
    ),
    "a node leaves with the token of before": Mistake(
        _REGISTRATION,
        "            if self._held_token != self._client.token:\n",
        "            if False:\n",
        MESH,
    ),
    "clocks go by the time of day": Mistake(
        "discovery/clock.py",
        "    return asyncio.get_running_loop().time()",
        "    import time\n\n    return time.time()",
        ("decisions", "mesh"),
    ),
}

MISTAKES = LINKS | CALLS | WORDS | CATALOG | REGISTRATION


def make(name: str) -> None:
    """Let the module of a mistake have it, when it is imported; to be called before that."""
    mistake = MISTAKES[name]
    assert mistake.module not in sys.modules, f"{mistake.module} is imported already"
    sys.meta_path.insert(0, _Finder(mistake))


class _Finder(MetaPathFinder):
    def __init__(self, mistake: Mistake) -> None:
        self._mistake = mistake

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The spec of the one module."""
        if fullname != self._mistake.module or (spec := PathFinder.find_spec(fullname, path, target)) is None:
            return None
        assert spec.origin is not None
        spec.loader = _Loader(fullname, spec.origin, self._mistake)
        return spec


class _Loader(SourceFileLoader):
    def __init__(self, fullname: str, path: str, mistake: Mistake) -> None:
        super().__init__(fullname, path)
        self._mistake = mistake

    def get_code(self, fullname: str) -> CodeType | None:
        """Compiled anew, and kept nowhere."""
        assert fullname == self._mistake.module
        code: CodeType = compile(self._mistake.made(), self.path, "exec", dont_inherit=True)
        return code
