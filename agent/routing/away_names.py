"""The names that are away in tables that are built on, by the backends that may bring them back.

Kept by `agent.routing.rebuild`. The one rule: the outcome is that of `agent.routing.away.with_away`; only what a change
concerns is looked at.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from types import MappingProxyType
from typing import TypeAlias, TypeVar

from agent.model import Json, NodeIdentity
from agent.routing.away import AWAY_FOR_S, AWAY_MAX, Absence, awaited_part, places_of, told
from agent.routing.table import ContributionKind, Imported, Root, Route, RouteKind, RouteTable

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
Named: TypeAlias = tuple[RouteKind, str]


@dataclass(frozen=True, slots=True)
class Step:
    """What a step has decided: these names, and what they lead to now; nothing, where they are not in `routes`.

    `kinds`: of the backends that are connected now, by key.
    """

    decided: Mapping[RouteKind, frozenset[str]]
    routes: Mapping[RouteKind, Mapping[str, Route]]
    kinds: Mapping[str, ContributionKind]
    absence: Absence
    now_s: float


class AwayNames:
    """See the module."""

    def __init__(self, own: NodeIdentity) -> None:
        self._own = own
        # In tuples, which are a sixth of sets: there may be thousands of backends with a few names each.
        self._by_backend: dict[str, tuple[Named, ...]] = {}
        self._opened: dict[str, dict[Named, None]] = {}
        self._telling: dict[str, Imported] = {}
        self._places: dict[str, tuple[object, tuple[Route, ...]]] = {}
        self.in_fleets: set[Named] = set()
        self.beyond = False  # Whether the last step changed names that it had not decided.

    def __repr__(self) -> str:
        return f"<AwayNames backends={len(self._by_backend)} places={len(self._places)}>"

    def begin(self, away: Mapping[Named, Route]) -> None:
        """Know these and no others."""
        self._by_backend.clear()
        self.in_fleets.clear()
        for named, route in away.items():
            self._note(named, route)
        self._close()

    def take(self, changed: Mapping[str, Imported | None]) -> None:
        """What backends say now of their own servers that are away."""
        for key, part in changed.items():
            self._telling.pop(key, None)
            if part is not None and part.away:
                self._telling[key] = part

    def names_of(self, key: str) -> Iterable[Named]:
        """What is away and may be brought back by this backend."""
        return self._by_backend.get(key, ())

    def freed_roots(self, changed: Mapping[str, Imported | None], before: RouteTable) -> set[Root]:
        """What was kept for backends that now list what they have: servers and plain peers, not other nodes."""
        keys = [key for key, part in changed.items() if part and part.source.kind is not ContributionKind.MESH_PEER]
        named = chain.from_iterable(self._by_backend.get(key, ()) for key in keys)
        owners = {before.away[one].owner for one in named}
        return {root for root in before.kept if before.roots[root] in owners} if owners else set()

    def away(
        self, before: RouteTable, changed: Mapping[str, Imported | None], step: Step, *, everything: bool
    ) -> Mapping[Named, Route]:
        """What is away after a step: what is there again, may not come back or was away for long enough goes."""
        found = {(kind, name): None for kind, names in step.decided.items() for name in names}
        looked_at = dict.fromkeys(one for one in (before.away if everything else found) if one in before.away)
        if not everything:
            for key in changed:
                looked_at |= dict.fromkeys(self._by_backend.get(key, ()))
        vanished = [
            (kind, name) for kind, name in found if name in before.of_kind(kind) and name not in step.routes[kind]
        ]
        self.beyond = len(before.away) + len(vanished) > AWAY_MAX or not looked_at.keys() <= found.keys()
        if not looked_at and not vanished:
            return before.away
        away, made = copy_of(before.away), dict[int, Json]()
        for named in vanished:
            away[named] = replace(before.of_kind(named[0])[named[1]], away_since_s=step.now_s)
        for named in (*looked_at, *(one for one in vanished if one not in looked_at)):
            route = away[named]
            kept = self._kept(named, route, step, made)
            if kept is not None and kept.replicas is route.replicas and named in before.away:
                away[named] = kept
                continue
            self._forget(named, route)
            if kept is None:
                del away[named]
            else:
                away[named] = kept
                self._note(named, kept)
        for named in list(islice(away, max(0, len(away) - AWAY_MAX))):
            self._forget(named, away.pop(named))
        self._close()
        return MappingProxyType(away)

    def unlisted(self, before: RouteTable, parts: Mapping[str, Imported], step: Step) -> tuple[Route, ...]:
        """Those of a backend are the same objects for as long as it is as it was."""
        places: dict[str, tuple[object, tuple[Route, ...]]] = {}
        for spec, since_s in step.absence.unlisted:
            known, asked = self._places.get(spec.key), (spec, since_s)
            if known is None or known[0] != asked:
                made = tuple(places_of(spec, since_s, self._own))
                known = asked, known[1] if known is not None and known[1] == made else made
            places[spec.key] = known
        self._places = places
        telling = dict(sorted(self._telling.items()))
        found = (
            *chain.from_iterable(routes for _, routes in places.values()),
            *told(before, telling, parts, step.absence.expected, step.now_s),
        )
        return before.unlisted if found == before.unlisted else found

    # Inside

    @staticmethod
    def _kept(named: Named, route: Route, step: Step, made: dict[int, Json]) -> Route | None:
        """The route with what may come back of it; None for nothing."""
        since_s = step.now_s if route.away_since_s is None else route.away_since_s
        if step.now_s - since_s >= AWAY_FOR_S or named[1] in step.routes.get(named[0], ()):
            return None
        return awaited_part(route, step.absence, step.kinds, made)

    def _note(self, named: Named, route: Route) -> None:
        if route.in_fleet:
            self.in_fleets.add(named)
        for replica in route.replicas:
            self._opened_of(replica.backend_key)[named] = None

    def _forget(self, named: Named, route: Route) -> None:
        self.in_fleets.discard(named)
        for replica in route.replicas:
            self._opened_of(replica.backend_key).pop(named, None)

    def _opened_of(self, key: str) -> dict[Named, None]:
        """The names of a backend, to be changed until `_close`."""
        if key not in self._opened:
            self._opened[key] = dict.fromkeys(self._by_backend.get(key, ()))
        return self._opened[key]

    def _close(self) -> None:
        for key, names in self._opened.items():
            if names:
                self._by_backend[key] = tuple(names)
            else:
                self._by_backend.pop(key, None)
        self._opened = {}


def copy_of(mapping: Mapping[_Key, _Value]) -> dict[_Key, _Value]:
    """A dictionary of the same; of a read-only view without a look at every key."""
    return mapping.copy() if isinstance(mapping, MappingProxyType) else dict(mapping)
