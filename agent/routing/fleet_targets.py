"""Which nodes a call of a fleet's tool is for: by the argument that the fleet adds, whose words are not the tool's.

Called by `agent.server.forward`. The one rule: a call that changes something goes to one node, unless the operator has
named its tool; and no node that was named is left out without a row that says why.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from agent.errors import MCPError
from agent.lossless_json.unread import taken_out
from agent.model import Json
from agent.routing.fleet import ALL, ANY
from agent.routing.table import Fleet, Route
from agent.rpc_codes import INVALID_PARAMS

# An error names so many nodes of those that there are.
_NAMES_SHOWN_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class OneNode:
    """The call goes to one node, or to any: as one of `route`, with `params`."""

    route: Route
    params: Json


@dataclass(frozen=True, slots=True)
class SeveralNodes:
    """The call goes to several. `calls`: a route by the name of its node; None for one that cannot be called now.

    `refusals`: why, for those. `params` are the same for all of them.
    """

    calls: Mapping[str, Route | None]
    refusals: Mapping[str, tuple[str, str]]
    params: Json


def targets_of(route: Route, params: Json) -> OneNode | SeveralNodes:
    """The nodes that a call names. Raises `MCPError`: it names none, unknown ones, or several where only one may be."""
    fleet = route.fleet
    assert fleet is not None
    named, rest = taken_out(params, fleet.argument)
    if isinstance(named, str) and named != ALL:
        if named == ANY:
            return OneNode(route, rest)
        one = _called(route, fleet, named)
        return OneNode(one, {**rest, "name": one.public_name})
    if named != ALL and not _are_names(named):
        raise _refused(fleet, f"the name of a node is required, or '{ANY}'{_and_several(fleet)}")
    if not fleet.several:
        words = "this tool is not read-only, and runs on one node at a time (MESH_FLEET_WRITES)"
        raise _refused(fleet, words)
    names = [*fleet.members, *fleet.others, *fleet.away] if named == ALL else list(dict.fromkeys(named or ()))
    if unknown := [name for name in names if not _knows(fleet, name)]:
        raise _refused(fleet, f"there is no node {', '.join(map(repr, unknown[:_NAMES_SHOWN_MAX]))}")
    calls = {name: _as_one(fleet.members[name], route) if name in fleet.members else None for name in sorted(names)}
    refusals = {name: _why_not(fleet, name) for name, one in calls.items() if one is None}
    return SeveralNodes(calls, refusals, rest)


def _called(route: Route, fleet: Fleet, name: str) -> Route:
    """The route of one node, which may be away."""
    known = fleet.members.get(name) or fleet.away.get(name)
    if known is None:
        raise _refused(fleet, _why_not(fleet, name)[1] if name in fleet.others else f"there is no node {name[:64]!r}")
    return _as_one(known, route)


def _as_one(member: Route, route: Route) -> Route:
    """A member whose calls count for the whole fleet, so that its least busy node is known."""
    return replace(member, owner=route.owner)


def _knows(fleet: Fleet, name: str) -> bool:
    return name in fleet.members or name in fleet.others or name in fleet.away


def _why_not(fleet: Fleet, name: str) -> tuple[str, str]:
    """The outcome of a node that is not called, and why."""
    if name in fleet.others:
        return "not_executed", f"on node {name} the tool has another definition; it is not called by this one"
    return "away", f"node {name} is away"


def _are_names(named: Any) -> bool:
    return isinstance(named, list) and bool(named) and all(isinstance(name, str) for name in named)


def _and_several(fleet: Fleet) -> str:
    return f", a list of names, or '{ALL}'" if fleet.several else ""


def _refused(fleet: Fleet, words: str) -> MCPError:
    names = sorted(fleet.members)
    shown = ", ".join(names[:_NAMES_SHOWN_MAX]) + (", ..." if len(names) > _NAMES_SHOWN_MAX else "")
    return MCPError(
        code=INVALID_PARAMS,
        message=f"arguments.{fleet.argument}: {words}; it runs on {shown or 'none'} now",
        data={"nodes": names[:_NAMES_SHOWN_MAX], "count": len(names)},
    )
