"""What clients of a limited token see at an endpoint, and what they are answered beyond that.

Used by `agent.server.endpoint` where the endpoint is for such a reach (`agent.authority.grant`). Tables are cut by
`agent.server.views`; here are the node's own tools, and the words of a refusal. The one rule: what is not listed is not
called, and the refusal names the token and what it lacks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from agent.authority.caller import caller
from agent.authority.grant import WHOLE, Reach
from agent.errors import FORBIDDEN, MCPError
from agent.model import PUBLIC_NAME_LEN_MAX, Json, ViewSpec
from agent.routing.table import RouteKind, RouteTable
from agent.server.lists import Definitions
from agent.server.overview import SHOW_MESH
from agent.server.own_tools import RELOADS, OwnTools
from agent.server.search import SEARCH_TOOLS

# Twice as long as a public name is.
NAME_LEN_MAX: Final = 2 * PUBLIC_NAME_LEN_MAX


def part_of(reach: Reach) -> ViewSpec:
    """What a reach shows of the mesh."""
    return ViewSpec(tools=reach.tools, read_only=reach.read_only)


def shows_own_tool(reach: Reach, name: str) -> bool:
    """Whether one of the node's own tools may be called. The search tools find what is shown, and nothing else."""
    if name in SEARCH_TOOLS:
        return True
    if name in RELOADS and (reach.read_only or not reach.reloads):
        return False
    return reach.has_name(name)


class LimitedOwnTools(OwnTools):
    """The node's own tools and resources for clients of a reach."""

    def __init__(self, reach: Reach, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._reach = reach
        if not shows_own_tool(reach, SHOW_MESH):
            self.extensions = {}

    def definitions(self) -> Definitions:
        """As `OwnTools.definitions`."""
        whole = super().definitions()
        resources = whole.listed["resources"] if self._reach.reads_node else []
        apps = self._shown(whole.apps["tools"])
        return Definitions(
            {"tools": self._shown(whole.listed["tools"]), "resources": resources},
            whole.search_tools,
            {"tools": apps, "resources": whole.apps["resources"] if apps else []},
        )

    def _shown(self, tools: list[Json]) -> list[Json]:
        return [tool for tool in tools if shows_own_tool(self._reach, tool["name"])]

    async def answer(self, method: str, params: Json, version: str) -> Json:
        """As `OwnTools.answer`. Raises `MCPError` where a definition is asked for that is not shown."""
        arguments = params.get("arguments")
        if method == "tools/call" and params["name"] == "describe_tool" and isinstance(arguments, dict):
            name = arguments.get("name")
            if isinstance(name, str) and name in self.all_names() and not shows_own_tool(self._reach, name):
                raise forbidden(name, _lacks(self._reach, name))
        return await super().answer(method, params, version)

    def all_names(self) -> frozenset[str]:
        """The names and URIs of all that the node has itself, shown or not."""
        whole = super().definitions()
        uris = (resource["uri"] for resource in whole.all("resources"))
        return frozenset([*(tool["name"] for tool in whole.all("tools")), *uris])


def own_tools(reach: Reach, *args: Any, **more: Any) -> OwnTools:
    """The node's own tools for clients of a reach; the other arguments are those of `OwnTools`."""
    return OwnTools(*args, **more) if reach == WHOLE else LimitedOwnTools(reach, *args, **more)


@dataclass(frozen=True, slots=True)
class Limit:
    """The reach of the tokens that an endpoint is for. `whole`: its table without that."""

    reach: Reach
    whole: Callable[[], RouteTable]


UNLIMITED: Final = Limit(WHOLE, RouteTable)


def refusals(limit: Limit, said: object) -> "Refusals | None":
    """Why names that are not shown may not be used at an endpoint; None where all there is, is shown.

    `said`: what it has of its own.
    """
    if limit is UNLIMITED:
        return None
    if isinstance(said, LimitedOwnTools):
        return Refusals(limit.reach, limit.whole, said.all_names())
    return Refusals(limit.reach, limit.whole, by_public_names=False)


@dataclass(frozen=True, slots=True)
class Refusals:
    """Why a name that is not in a limited table may not be used; `own`: names of the node's own.

    `whole`: the table that it is a part of. `by_public_names`: whether clients know tools by these.
    """

    reach: Reach
    whole: Callable[[], RouteTable]
    own: frozenset[str] = frozenset()
    by_public_names: bool = True

    def __call__(self, kind: RouteKind, name: str) -> MCPError | None:
        """The refusal; None for what is unknown to all.

        A name that no pattern of the token has is refused whether or not there is such a tool.
        """
        if len(name) > NAME_LEN_MAX and kind is not RouteKind.RESOURCE:
            return None  # No tool has such a name, and patterns would take long over it.
        if name in self.own:
            return forbidden(name, _lacks(self.reach, name))
        if kind is RouteKind.TOOL and self.by_public_names and not self.reach.has_name(name):
            return forbidden(name, _lacks(self.reach, name))
        whole = self.whole()
        route = whole.find_uri(name) if kind is RouteKind.RESOURCE else whole.find(kind, name)
        if route is None or not route.replicas:
            return None
        return forbidden(name, _lacks(self.reach, route.public_name if kind is RouteKind.TOOL else ""))


def forbidden(name: str, lacks: str) -> MCPError:
    """The error of a call that the present caller's token does not allow; it went nowhere."""
    grant = caller().grant
    return MCPError(
        code=FORBIDDEN,
        message=f"Token {grant.name!r} may not use {name[:128]!r}: {lacks}",
        data={"outcome": "not_executed", "token": grant.name, "lacks": lacks},
    )


def check_is_node(method: str) -> None:
    """Raise `MCPError` where the present caller sends what only nodes say to each other."""
    if not caller().grant.is_of_node:
        raise forbidden(method, "it has no scope peer")


_SHOWN_MAX: Final = 20


def _lacks(reach: Reach, name: str) -> str:
    """What the token lacks for a tool of that public name, or one of the node's own; empty for other things."""
    if name in RELOADS and not reach.reloads:
        return "it has no scope admin"
    if ":" in name and not reach.reads_node:
        return "it has no scope read"
    if reach.read_only and reach.has_name(name):
        return "it is for tools that say that they only read (readOnlyHint)"
    shown = ", ".join(reach.tools[:_SHOWN_MAX])
    return f"its tools are {shown}" if reach.tools else "it is for tools that say that they only read (readOnlyHint)"
