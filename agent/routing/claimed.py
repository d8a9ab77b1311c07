"""Who claims what, of all backends, by root and by name; and what the change of one backend's claims touches.

Kept by `agent.routing.rebuild`. The one rule: taking and forgetting cost what the backend claims, however many others
there are.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from agent.routing.table import Claims, Imported, Root, Route, RouteKind


@dataclass(slots=True)
class Touched:
    """What has to be decided again."""

    roots: set[Root] = field(default_factory=set)
    names: dict[RouteKind, set[str]] = field(default_factory=lambda: {kind: set() for kind in RouteKind})
    # The claims that made a name touched, by name and kind, where nothing else did.
    gone: dict[tuple[RouteKind, str], list[Route]] = field(default_factory=lambda: defaultdict(list))
    come: dict[tuple[RouteKind, str], list[Route]] = field(default_factory=lambda: defaultdict(list))
    anew: set[tuple[RouteKind, str]] = field(default_factory=set)

    def add(self, routes: Iterable[Route]) -> None:
        """The names of these, for another reason than that these claims came or went."""
        for route in routes:
            self.names[route.kind].add(route.public_name)
            self.anew.add((route.kind, route.public_name))


class Claimed:
    """See the module. `parts`: what was taken, by backend key.

    `in_fleets`: how many claims are to tools of fleets; `with_tasks`: how many backends have tasks.
    """

    def __init__(self) -> None:
        self.parts: dict[str, Imported] = {}
        self.in_fleets = self.with_tasks = 0
        # Who claims a root, whether as ours, and by how many backends. Hardly any root has several owners.
        self._owners: dict[Root, tuple[tuple[str, bool, int], ...]] = {}
        # The claim itself where there is one alone, as of nearly all names; else by their identities.
        self._claims: dict[RouteKind, dict[str, Route | dict[int, Route]]] = {kind: {} for kind in RouteKind}
        # What clients would see -> the names that would be seen so, one for each claim.
        self._seen_as: dict[RouteKind, dict[str, list[str]]] = {kind: defaultdict(list) for kind in RouteKind}

    def __repr__(self) -> str:
        return f"<Claimed backends={len(self.parts)} roots={len(self._owners)}>"

    def of_root(self, root: Root) -> list[Claims]:
        """One for each owner who claims it, and one more where also as ours; without routes."""
        return [Claims(root, owner, ours, ()) for owner, ours, _ in self._owners.get(root, ())]

    def of_name(self, kind: RouteKind, name: str) -> Collection[Route]:
        """All claims to it."""
        known = self._claims[kind].get(name, {})
        return known.values() if isinstance(known, dict) else (known,)

    def below(self, root: Root) -> Iterable[Route]:
        """All that is claimed below a root; looks at every claim."""
        every = (by for part in self.parts.values() for by in part.claims)
        return (route for by in every if by.root == root for route in by.routes)

    def touch_all(self, touched: Touched) -> None:
        """Everything that is claimed."""
        touched.roots |= self._owners.keys()
        for kind, names in self._claims.items():
            touched.names[kind] |= names.keys()

    def take(self, key: str, part: Imported, touched: Touched) -> None:
        """What a backend claims that is not known yet."""
        self.parts[key] = part
        self.with_tasks += part.source.has_tasks
        for by in part.claims:
            touched.roots.add(by.root)
            self._count(by, 1)
        for route in _routes_of(part):
            self.in_fleets += route.in_fleet
            touched.names[route.kind].add(route.public_name)
            touched.come[route.kind, route.public_name].append(route)
            _add(self._claims[route.kind], route)
            if (seen := seen_as(route)) is not None:
                self._seen_as[route.kind][seen].append(route.public_name)

    def forget(self, key: str, touched: Touched) -> None:
        """A backend, if it is known."""
        part = self.parts.pop(key, None)
        if part is None:
            return
        self.with_tasks -= part.source.has_tasks
        for by in part.claims:
            touched.roots.add(by.root)
            self._count(by, -1)
        for route in _routes_of(part):
            self.in_fleets -= route.in_fleet
            touched.names[route.kind].add(route.public_name)
            touched.gone[route.kind, route.public_name].append(route)
            _drop(self._claims[route.kind], route)
            if (seen := seen_as(route)) is not None:
                touched.names[route.kind].add(seen)
                names = self._seen_as[route.kind][seen]
                names.remove(route.public_name)
                if not names:
                    del self._seen_as[route.kind][seen]

    def closed(self, kind: RouteKind, names: Iterable[str]) -> frozenset[str]:
        """The names, and all that clients would see by the same ones."""
        found, left = set[str](), list(names)
        while left:
            name = left.pop()
            if name in found:
                continue
            found.add(name)
            if self._seen_as[kind]:
                left += self._seen_as[kind].get(name, ())
                left += {seen for one in self.of_name(kind, name) if (seen := seen_as(one)) is not None}
        return frozenset(found)

    def _count(self, by: Claims, more: int) -> None:
        """One backend more or less that claims a root."""
        owners = self._owners.get(by.root, ())
        count = more + sum(count for *who, count in owners if who == [by.owner, by.ours])
        others = tuple([one for one in owners if one[:2] != (by.owner, by.ours)])
        if count:
            self._owners[by.root] = (*others, (by.owner, by.ours, count))
        elif others:
            self._owners[by.root] = others
        else:
            del self._owners[by.root]


def seen_as(route: Route) -> str | None:
    """The name that clients would see in place of a claim's own."""
    return None if route.shown is None or route.shown[0] == route.public_name else route.shown[0]


def _routes_of(part: Imported) -> Iterator[Route]:
    return (route for by in part.claims for route in by.routes)


def _add(known: dict[str, Route | dict[int, Route]], route: Route) -> None:
    """Take in one more claim to a name."""
    there = known.setdefault(route.public_name, route)
    if isinstance(there, dict):
        there[id(route)] = route
    elif there is not route:
        known[route.public_name] = {id(there): there, id(route): route}


def _drop(known: dict[str, Route | dict[int, Route]], route: Route) -> None:
    """Take out one of the claims to a name."""
    there = known[route.public_name]
    if not isinstance(there, dict):
        del known[route.public_name]
        return
    del there[id(route)]
    if len(there) == 1:
        (known[route.public_name],) = there.values()
