"""How long the way to a name takes: each replica behind it is asked once, over the link that calls would use.

Called by `agent.rest.diagnosis`. What is measured is the way to the backend on the other side of the link: a server of
this node, or the node that serves it. The one rule: nothing is executed; the question is a probe's.
"""

import asyncio
from collections.abc import Iterable
from typing import Final

from agent import clock
from agent.client.protocol import Request
from agent.control.reconciler import Mesh
from agent.errors import MeshError, OverrideRefused, RpcError
from agent.model import PROBE_META_KEY, Era, Json, LinkView, PeerSpec
from agent.routing.table import Route, RouteKind

PING_TIMEOUT_S: Final = 5.0
# A name that more serve is asked of these alone.
WAYS_MAX: Final = 32
_PROBES_NODE: Final[Json] = {"_meta": {PROBE_META_KEY: True}}


async def ping(mesh: Mesh, name: str) -> Json:
    """Ask each replica of a peer, server or tool; `ways` has each with its nodes, `ms` and `error`.

    Raises `OverrideRefused` (404) for a name that is none.
    """
    kind, found = _found(mesh, name)
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(_asked(mesh, *one), name=f"ping {one[0]}") for one in found[:WAYS_MAX]]
    ways = sorted((task.result() for task in asked), key=lambda way: (way["ms"] is None, way["ms"] or 0.0))
    return {"name": name, "kind": kind, "ways": ways}


def _found(mesh: Mesh, name: str) -> tuple[str, list[tuple[str, list[str]]]]:
    """What the name is, and each link that leads to it with the names on the way, ours first."""
    served = [*mesh.node_routes.tools.values(), *_away_tools(mesh)]
    try:
        view = mesh.view_of(name)
    except MeshError:
        pass
    else:
        ours = (view.key, [mesh.own.name, view.spec.name])
        if isinstance(view.spec, PeerSpec):
            return "peer", [ours]
        # Replicas of the same service on other nodes; a server of this node alone has names of its own.
        others = _ways(mesh, [route for route in served if route.owner == f"service:{name}"])
        return "server", [ours, *(way for way in others if way[0] != view.key)]
    found = mesh.routes.find(RouteKind.TOOL, name)
    tool = found if found is not None and found.replicas and found.definition else None
    routes = [tool] if tool is not None else [route for route in served if _is_of(route, name)]
    if not routes:
        known = ", ".join(sorted(view.spec.name for view in mesh.views())) or "none"
        raise OverrideRefused(404, "unknown_name", f"There is no peer, server or tool named {name!r}. Known: {known}")
    return "server" if tool is None else "tool", _ways(mesh, routes)


def _away_tools(mesh: Mesh) -> list[Route]:
    return [route for (kind, _), route in mesh.node_routes.away.items() if kind is RouteKind.TOOL]


def _is_of(route: Route, server: str) -> bool:
    """Whether it is a tool of the server of that name in the mesh."""
    return route.public_name.startswith(f"{server}__")


def _ways(mesh: Mesh, routes: Iterable[Route]) -> list[tuple[str, list[str]]]:
    views = {view.key: view for view in mesh.views()}
    ways: dict[str, list[str]] = {}
    for route in routes:
        for replica in route.replicas:
            view = views.get(replica.backend_key)
            if view is None or replica.backend_key in ways:
                continue
            beyond = [replica.node_name] if replica.hops > 1 and replica.node_name else []
            way = [mesh.own.name, view.spec.name, *beyond]
            ways[replica.backend_key] = way
    return list(ways.items())


async def _asked(mesh: Mesh, key: str, way: list[str]) -> Json:
    link = mesh.link(key)
    told: Json = {"replica": key, "way": way, "ms": None, "error": None}
    if link is None:
        return {**told, "error": "it has just gone"}
    began_s = clock.now_s()
    try:
        await link.request(_question(link.view))
    except RpcError:
        pass  # An answer, too.
    except MeshError as exc:
        return {**told, "error": str(exc)}
    return {**told, "ms": round((clock.now_s() - began_s) * 1000, 2)}


def _question(view: LinkView) -> Request:
    if view.era is Era.MODERN:
        params = None if view.identity is None else _PROBES_NODE
        return Request.within("server/discover", params, timeout_s=PING_TIMEOUT_S)
    return Request.within("ping", None, timeout_s=PING_TIMEOUT_S)
