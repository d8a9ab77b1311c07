"""Turns snapshots into the JSON that operators read: peers, servers, status. Pure; no token ever enters.

Called by the REST handlers and by the management tools, so that both say the same. The one rule: the seed's fields
keep their names and meaning; ours are added beside them.
"""

from collections.abc import Iterable, Mapping, Sequence

from agent.core.route_table import RouteTable
from agent.model import ORIGIN_META_KEY, Json, LinkView, PeerSpec, ServerSpec, StdioTarget

# (backend key, the name as the backend itself knows it) -> name in the mesh
PublicNames = Mapping[tuple[str, str], str]


def public_names(table: RouteTable) -> PublicNames:
    """Index the listed tools by who serves them."""
    return {
        (replica.backend_key, replica.remote_name): route.public_name
        for route in table.tools.values()
        if route.listed
        for replica in route.replicas
    }


def describe_peer(view: LinkView, now_s: float) -> Json:
    """One element of `data.peers`; times are seconds from now, latency is in milliseconds."""
    spec = view.spec
    assert isinstance(spec, PeerSpec)
    return {
        "name": spec.name,
        "url": spec.target.url,
        "description": f"Peer node at {spec.target.url}",
        "connected": view.connected,
        "function_count": view.function_count if view.connected else 0,
        "source": spec.source.value,
        "scope": spec.scope.value,
        "aliases": list(spec.aliases),
        "weight": spec.weight,
        "node_id": view.identity.node_id if view.identity else spec.expected_node_id,
        **_standing(view, now_s),
    }


def describe_server(view: LinkView, names: PublicNames, now_s: float) -> Json:
    """One element of `data.servers`: a local server or a peer, with its functions."""
    spec = view.spec
    if isinstance(spec, ServerSpec):
        kind: Json = {
            "kind": "server",
            "transport": "stdio" if isinstance(spec.target, StdioTarget) else "http",
            "scope": spec.scope.value,
            "sticky": spec.sticky,
            "sessions": _sessions(spec),
            "enabled": spec.enabled,
        }
    else:
        kind = {"kind": "peer", "transport": "http", "scope": spec.scope.value, "enabled": True, "url": spec.target.url}
    return {
        "name": spec.name,
        "status": "connected" if view.connected else view.state.value,
        "connected": view.connected,
        **kind,
        "function_count": view.function_count if view.connected else 0,
        "functions": describe_functions(view, names) if view.connected else [],
        **_standing(view, now_s),
    }


def describe_functions(view: LinkView, names: PublicNames) -> list[Json]:
    """The tools of one backend: `name` as its server calls it, `mesh_name` as the mesh does (None: not routed)."""
    return [
        {
            "name": _own_name(tool),
            "mesh_name": names.get((view.key, str(tool.get("name")))),
            "description": tool.get("description", ""),
        }
        for tool in view.offer.tools
    ]


def describe_disabled(spec: ServerSpec) -> Json:
    """A server that the configuration names and switches off: it has no link."""
    return {
        "name": spec.name,
        "status": "disabled",
        "connected": False,
        "kind": "server",
        "transport": "stdio" if isinstance(spec.target, StdioTarget) else "http",
        "scope": spec.scope.value,
        "sticky": spec.sticky,
        "sessions": _sessions(spec),
        "enabled": False,
        "function_count": 0,
        "functions": [],
    }


def _sessions(spec: ServerSpec) -> str:
    """As the servers file says it."""
    return "own" if spec.own_sessions else "shared"


def describe_conflicts(tables: Iterable[RouteTable]) -> list[Json]:
    """Every name that more than one backend claims, once."""
    # Of what nobody holds, each backend's fault is its own: two servers may list the same nonsense.
    seen = {
        (c.name, c.reason, () if c.holder else c.others): {
            "name": c.name,
            "holder": c.holder,
            "others": list(c.others),
            "reason": c.reason,
        }
        for table in tables
        for c in table.conflicts
    }
    return [seen[key] for key in sorted(seen)]


def split_views(views: Sequence[LinkView]) -> tuple[list[LinkView], list[LinkView]]:
    """Servers and peers, each sorted by name."""
    ordered = sorted(views, key=lambda view: view.spec.name)
    servers = [view for view in ordered if isinstance(view.spec, ServerSpec)]
    peers = [view for view in ordered if isinstance(view.spec, PeerSpec)]
    return servers, peers


def _standing(view: LinkView, now_s: float) -> Json:
    return {
        "state": view.state.value,
        "last_error": view.last_error,
        "attempts": view.attempts,
        "reconnects": view.reconnects,
        "next_attempt_s": None
        if view.next_attempt_at_s is None
        else round(max(0.0, view.next_attempt_at_s - now_s), 3),
        "latency_ms": None if view.latency_s is None else round(view.latency_s * 1000, 3),
        "protocol_era": view.era.value if view.era else None,
    }


def _own_name(tool: Json) -> str:
    meta = tool.get("_meta")
    origin = meta.get(ORIGIN_META_KEY) if isinstance(meta, dict) else None
    own = origin.get("tool") if isinstance(origin, dict) else None
    return own if isinstance(own, str) else str(tool.get("name"))
