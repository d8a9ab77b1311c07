"""Builds a route table on from the one before, for what has changed of the contributions alone.

Called by the mesh. What a name leads to depends on those who claim it and on the owner of its root, so the change of a
backend concerns the names that it claims or claimed, those of roots that get another owner by it, and those that
clients would see by the same name. These are decided again, by functions of `agent.routing.build` and of
`agent.routing.away`; all else is taken over, and not even copied (`agent.routing.chunked`).

The one rule: the outcome is that of `build_routes` and `with_away` on everything (`everything` decides all again).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType
from typing import Any, Final

from agent.model import NodeIdentity
from agent.routing.away import Absence, awaited_owners
from agent.routing.away_names import AwayNames, Step
from agent.routing.build import (
    KEPT_MAX,
    awaited_roots,
    conflict_order,
    handed_over,
    kept_roots,
    root_owner,
    settle,
    settled_on,
    share_roots,
    show,
)
from agent.routing.chunked import Chunked
from agent.routing.claimed import Claimed, Touched
from agent.routing.names import node_alias
from agent.routing.table import (
    NAME_MEMBER,
    Conflict,
    ConflictReason,
    ContributionKind,
    Imported,
    LeftOutEntry,
    Root,
    Route,
    RouteKind,
    RouteTable,
)

# Fewer claims to a name are settled again as quickly.
MANY: Final = 4


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A table, and the names that were decided again, by kind; what others lead to is the same as before.

    `tasks`: whether any backend has tasks, or had them before. `whole`: whether nearly all names were decided, or names
    that are away changed beside them.
    """

    table: RouteTable
    decided: Mapping[RouteKind, frozenset[str]]
    tasks: bool
    whole: bool


class RouteBuilder:
    """See the module. Sole writer: the mesh, one call after the other.

    Each call gets the table that the last one made, `everything` where names that are away are other ones. The first
    one decides all, and learns from `before` who had which name.
    """

    def __init__(self, own: NodeIdentity, *, for_clients: bool = True, many: int = MANY) -> None:
        self._own, self._for_clients, self._many = own, for_clients, many
        self._own_roots = {Root(name, of_node=True) for name in (own.name, node_alias(own.name, own.node_id))}
        self._claimed, self._away = Claimed(), AwayNames(own)
        self._parts = Chunked[str, Imported]()
        # Of a root, a name with its kind, or a backend.
        self._conflicts: dict[object, tuple[Conflict, ...]] = {}
        self._left_out: dict[str, tuple[LeftOutEntry, ...]] = {}
        self._expected: frozenset[str] = frozenset()
        self._gone: frozenset[str] = frozenset()
        self._is_new = True

    def __repr__(self) -> str:
        return f"<RouteBuilder {self._claimed!r} {self._away!r} conflicts={len(self._conflicts)}>"

    @property
    def has_fleets(self) -> bool:
        """Whether any tool, also of those that are away, is one of a fleet."""
        return self._claimed.in_fleets > 0 or bool(self._away.in_fleets)

    def rebuilt(
        self,
        before: RouteTable,
        changed: Mapping[str, Imported | None],
        absence: Absence,
        now_s: float,
        *,
        everything: bool = False,
    ) -> Rebuilt:
        """The table after `before`. `changed`: what backends claim now, by key; None for one that is not connected."""
        had_tasks, touched = self._claimed.with_tasks > 0, self._taken(changed, before)
        # What is expected no more frees names; of too many kept ones the first give way.
        is_less = absence.expected is not self._expected and not self._expected <= absence.expected
        everything |= self._is_new or is_less or len(before.kept) + len(touched.roots) > KEPT_MAX
        for key in absence.gone - self._gone:
            for kind, name in self._away.names_of(key):  # No more is kept of these than whose they are.
                touched.names[kind].add(name)
        self._expected, self._gone, self._is_new = absence.expected, absence.gone, False
        if everything:
            self._claimed.touch_all(touched)
            touched.roots |= before.roots.keys() | self._own_roots
            for kind in RouteKind:
                touched.names[kind] |= before.of_kind(kind).keys()
            touched.gone.clear()
            touched.come.clear()
            self._away.begin(before.away)
        kinds = _Kinds(self._claimed.parts)
        roots, kept, handed = self._shared(before, touched, kinds, absence, now_s)
        decided = {kind: self._claimed.closed(kind, names) for kind, names in touched.names.items()}
        routes = {
            kind: self._decided(kind, names, roots, before.of_kind(kind), touched) for kind, names in decided.items()
        }
        handed += handed_over(routes, _only(before, decided), handed)
        step = Step(decided, routes, kinds, absence, now_s)
        tables: dict[str, Any] = {
            field: _with(before.of_kind(kind), decided[kind], routes[kind]) for kind, field in _FIELDS.items()
        }
        table = RouteTable(
            **tables,
            conflicts=self._said(before, handed),
            left_out=tuple(left for key in sorted(self._left_out) for left in self._left_out[key]),
            roots=roots,
            kept=kept,
            parts=self._parts,
            away=self._away.away(before, changed, step, everything=everything),
            unlisted=self._away.unlisted(before, self._parts, step),
            starting=absence.starting,
        )
        return Rebuilt(table, decided, had_tasks or self._claimed.with_tasks > 0, everything or self._away.beyond)

    def _taken(self, changed: Mapping[str, Imported | None], before: RouteTable) -> Touched:
        touched = Touched()
        self._parts = self._parts.changed(changed)
        for key, part in changed.items():
            self._claimed.forget(key, touched)
            self._conflicts.pop(key, None)
            self._left_out.pop(key, None)
            if part is None:
                continue
            self._claimed.take(key, part, touched)
            if part.refused:
                self._conflicts[key] = part.refused
            if part.left_out:
                self._left_out[key] = part.left_out
        self._away.take(changed)
        if not self._is_new:
            touched.roots |= self._away.freed_roots(changed, before)
        return touched

    def _shared(
        self,
        before: RouteTable,
        touched: Touched,
        kinds: Mapping[str, ContributionKind],
        absence: Absence,
        now_s: float,
    ) -> tuple[Mapping[Root, str], Mapping[Root, float], list[Conflict]]:
        """Every root with its owner, those that are kept, and what was handed over; touches names of new owners."""
        owned = {root: before.roots[root] for root in touched.roots if root in before.roots}
        claims = {root: self._claimed.of_root(root) for root in touched.roots}
        present = list(chain.from_iterable(claims.values()))
        some = RouteTable(
            roots=owned,
            kept={root: before.kept[root] for root in owned if root in before.kept},
            conflicts=tuple(one for root in owned for one in self._conflicts.get(root, ())),
        )
        away = {owner for root, owner in owned.items() if not root.of_node} - {by.owner for by in present}
        awaited = _awaited(before, touched, away, kinds, absence, now_s=now_s) if away else {}
        kept = kept_roots(present, self._own, some, now_s) | awaited_roots(present, some, awaited)
        roots, handed = dict[Root, str | None](), list[Conflict]()
        for root in touched.roots:
            self._conflicts.pop(root, None)
            if not claims[root] and root not in kept and root not in self._own_roots:
                roots[root] = None
                continue
            was = {root: owned[root]} if root in owned else {}
            holders, found = share_roots(claims[root], self._own, was, [root] if root in kept else [])
            roots[root] = holders[root]
            handed += (one for one in found if one.reason is ConflictReason.HANDED_OVER)
            if lasting := tuple(one for one in found if one.reason is not ConflictReason.HANDED_OVER):
                self._conflicts[root] = lasting
            if owned.get(root, holders[root]) != holders[root]:
                touched.add(self._claimed.below(root))
        kept |= {root: until_s for root, until_s in before.kept.items() if root not in touched.roots}
        return Chunked.of(before.roots).changed(roots), MappingProxyType(kept), handed

    def _decided(
        self,
        kind: RouteKind,
        names: Iterable[str],
        roots: Mapping[Root, str],
        known: Mapping[str, Route],
        touched: Touched,
    ) -> dict[str, Route]:
        """What these names lead to, which are all that concern each other. `known`: what they led to before."""
        table = dict[str, Route]()
        for name in names:
            if (route := self._settled_on(kind, name, roots, known.get(name), touched)) is not None:
                table[name] = route
                continue
            self._conflicts.pop((kind, name), None)
            held = [one for one in self._claimed.of_name(kind, name) if _is_held(one, roots)]
            if len(held) == 1:
                table[name] = held[0]
            elif held:
                table[name], found = settle(held, known.get(name))
                self._note(kind, found)
        if self._for_clients and kind in NAME_MEMBER:
            self._note(kind, show(kind, table))
        return table

    def _settled_on(
        self, kind: RouteKind, name: str, roots: Mapping[Root, str], known: Route | None, touched: Touched
    ) -> Route | None:
        """The route of a name that many claim, where a few claims came or went; None: it has to be decided again."""
        named, rest = (kind, name), self._claimed.of_name(kind, name)
        if known is None or len(rest) < self._many or named in touched.anew or named in self._conflicts:
            return None
        gone, come = touched.gone.get(named, ()), touched.come.get(named, ())
        if not (gone or come) or any(not _is_held(one, roots) for one in (*gone, *come)):
            return None
        return settled_on(known, gone, come, (one for one in rest if _is_held(one, roots)))

    def _note(self, kind: RouteKind, conflicts: Iterable[Conflict]) -> None:
        for one in conflicts:
            self._conflicts[kind, one.name] = (*self._conflicts.get((kind, one.name), ()), one)

    def _said(self, before: RouteTable, handed: Iterable[Conflict]) -> tuple[Conflict, ...]:
        found = {*chain.from_iterable(self._conflicts.values()), *handed}
        conflicts = tuple(sorted(found, key=conflict_order))
        return before.conflicts if conflicts == before.conflicts else conflicts


_FIELDS = {
    RouteKind.TOOL: "tools",
    RouteKind.PROMPT: "prompts",
    RouteKind.RESOURCE: "resources",
    RouteKind.TEMPLATE: "templates",
    RouteKind.NAMESPACE: "namespaces",
    RouteKind.SERVER: "servers",
}


class _Kinds(Mapping[str, ContributionKind]):
    """Of each connected backend."""

    def __init__(self, parts: Mapping[str, Imported]) -> None:
        self._parts = parts

    def __getitem__(self, key: str) -> ContributionKind:
        return self._parts[key].source.kind

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


def _awaited(
    before: RouteTable,
    touched: Touched,
    owners: set[str],
    kinds: Mapping[str, ContributionKind],
    absence: Absence,
    *,
    now_s: float,
) -> dict[str, float]:
    """As `awaited_owners`, of these alone, whose names are all touched or away."""
    spaces = (before.namespaces.get(name) for name in touched.names[RouteKind.NAMESPACE])
    some = {route.public_name: route for route in spaces if route is not None and route.owner in owners}
    awaited = awaited_owners(RouteTable(namespaces=some), kinds, absence, now_s)
    if missing := owners - awaited.keys():
        away = {named: route for named, route in before.away.items() if route.owner in missing}
        awaited |= awaited_owners(RouteTable(away=away), kinds, absence, now_s)
    return awaited


def _is_held(claim: Route, roots: Mapping[Root, str]) -> bool:
    """Whether who claims a name is the owner of its root."""
    return claim.root is not None and roots.get(claim.root) == root_owner(claim.owner)


def _with(known: Mapping[str, Route], decided: Iterable[str], routes: Mapping[str, Route]) -> Mapping[str, Route]:
    """A table with these names as they are now."""
    if not decided:
        return known
    return Chunked.of(known).changed({name: routes.get(name) for name in decided})


def _only(table: RouteTable, decided: Mapping[RouteKind, Iterable[str]]) -> RouteTable:
    """These names of a table."""
    some: dict[str, Any] = {
        _FIELDS[kind]: {name: route for name in names if (route := table.of_kind(kind).get(name)) is not None}
        for kind, names in decided.items()
    }
    return RouteTable(**some)
