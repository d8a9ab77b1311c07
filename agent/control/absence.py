"""Which backends may come back, and whether this node has only begun: what makes a name away and not unknown.

Asked by the mesh once a step. The one rule: what an operator took away is expected no more; what the catalog took away
may be restarting, and is.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from agent.model import BackendSpec, LinkView, Offer, PeerSource, PeerSpec, ServerSpec, Suppression
from agent.routing.away import AWAY_FOR_S, AWAY_MAX, Absence

# A first dial has failed by then, or its server takes longer than anything should wait for.
START_S: Final = 10.0


class AbsenceTracker:
    """See the module. Sole writer: the mesh. `waits_for_catalog`: there is one, so that others are known only by it."""

    def __init__(self, *, waits_for_catalog: bool) -> None:
        self._waits_for_catalog = waits_for_catalog
        # Of those that left, by backend key: what an operator's word could mean, and since when.
        self._left: dict[str, tuple[str, str | None, float]] = {}
        self._before: dict[str, float] = {}
        self._wanted: set[str] = set()
        self._expected: frozenset[str] | None = None  # None: to be put together again.
        self._gone: frozenset[str] = frozenset()
        self._down_since_s: dict[str, float] = {}
        self._unlisted: dict[str, tuple[ServerSpec | PeerSpec, float]] = {}
        self._servers: dict[str, tuple[ServerSpec, float]] = {}
        self._first: set[str] | None = None
        self._start_until_s: float | None = None
        self.starting = True

    def __repr__(self) -> str:
        return f"<AbsenceTracker starting={self.starting} left={sorted(self._left)} down={sorted(self._down_since_s)}>"

    def remember(self, peers: Mapping[str, float]) -> None:
        """Take the backend keys whose names were known before this node restarted, and since when those are away.

        A catalog that no longer has them does not say whether they left for good. Without one, those that are wanted
        are the settings' and operators', and no other is expected.
        """
        if self._waits_for_catalog:
            self._before, self._expected = dict(peers), None

    def start_left_s(self, now_s: float) -> float | None:
        """Seconds until this node counts as started whatever is still open; None when it does already."""
        if not self.starting:
            return None
        if self._start_until_s is None:
            self._start_until_s = now_s + START_S
        return max(0.0, self._start_until_s - now_s)

    def caught_catalog(self) -> None:
        """The first catalog is there."""
        self._waits_for_catalog = False

    def note(
        self,
        desired: Mapping[str, BackendSpec],
        removed: Iterable[BackendSpec],
        suppressions: Sequence[Suppression],
        now_s: float,
        *,
        some: bool = False,
    ) -> None:
        """Take what is wanted now, and which links have just been closed. `some`: `desired` is what has changed of it.

        What time makes of it, and what an operator, waits for the next that has all.
        """
        self._expected = None
        for spec in removed:
            if isinstance(spec, PeerSpec) and spec.source is PeerSource.DISCOVERY:
                self._left[spec.key] = spec.name, spec.expected_node_id, now_s
        if some:
            for key in desired:
                self._left.pop(key, None)
                self._before.pop(key, None)
            return
        known = list(self._left.items())[-AWAY_MAX:]
        self._left = {
            key: (name, node_id, at_s)
            for key, (name, node_id, at_s) in known
            if key not in desired and now_s - at_s < AWAY_FOR_S and not is_suppressed(name, node_id, suppressions)
        }
        suppressed = {f"peer:{known.name}" for known in suppressions}
        self._before = {
            key: since_s
            for key, since_s in self._before.items()
            if key not in desired and now_s - since_s < AWAY_FOR_S and key not in suppressed
        }

    def absence(
        self, views: Sequence[LinkView], tried: Collection[str], now_s: float, *, gone: Iterable[str] | None = None
    ) -> Absence:
        """What may come back. `tried`: the keys of the links whose first attempt has an outcome.

        `views`: of all links; with `gone`, of those that have changed, and the keys of those that there are no more.
        """
        by_key = {view.key: view for view in views}
        keys = by_key.keys()
        for key in self._wanted - keys if gone is None else gone:
            self._wanted.discard(key)
            self._expected = None
            for known in (self._down_since_s, self._unlisted, self._servers):
                known.pop(key, None)
        if not keys <= self._wanted:
            self._wanted |= keys
            self._expected = None
        if self.starting:
            if self._first is None and not self._waits_for_catalog:
                self._first = set(self._wanted)
            pending = self._first is None or self._first & self._wanted - set(tried)
            self.starting = bool(pending) and self.start_left_s(now_s) != 0.0
        for key, view in by_key.items():
            self._note_view(key, view, now_s)
        if self._expected is None:
            left = self._left.keys() | self._before.keys()
            self._expected, self._gone = frozenset(self._wanted | left), frozenset(left - self._wanted)
        unlisted, servers = tuple(self._unlisted.values()), tuple(self._servers.values())
        return Absence(self._expected, unlisted, self.starting, down=servers, gone=self._gone)

    def _note_view(self, key: str, view: LinkView, now_s: float) -> None:
        fails = _fails_to_list(view)
        if view.connected and not fails:
            self._down_since_s.pop(key, None)
        else:
            since_s = self._down_since_s.setdefault(key, now_s)
            if now_s - since_s < AWAY_FOR_S:
                if fails or _was_never_listed(view):
                    self._unlisted[key] = view.spec, since_s
                else:
                    self._unlisted.pop(key, None)
                if isinstance(view.spec, ServerSpec):
                    self._servers[key] = view.spec, since_s
                return
        self._unlisted.pop(key, None)
        self._servers.pop(key, None)


def _was_never_listed(view: LinkView) -> bool:
    return not view.connected and _is_empty(view.offer)


def _is_empty(offer: Offer) -> bool:
    listed = offer.tools or offer.prompts or offer.resources or offer.templates
    return not (listed or offer.digest or offer.faults)


def _fails_to_list(view: LinkView) -> bool:
    """Whether it is connected, and its tools could not be listed yet."""
    return not view.offer.tools and any(fault.method == "tools/list" for fault in view.offer.faults)


def is_suppressed(name: str, expected_node_id: str | None, suppressions: Sequence[Suppression]) -> bool:
    """Whether an operator has removed this peer, by its name or its node."""
    return any(s.name == name or (s.node_id is not None and s.node_id == expected_node_id) for s in suppressions)
