"""PURE: nodes, servers and their tools as the REST API, the management tools and the command line show them.

Called by `agent.rest.status` and `agent.rest.peers`. The one rule: everything shown comes from snapshots, and no secret
is in any of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

import orjson

from agent.config.servers_file import LeftOut
from agent.control.candidates import Finding, FindingKind
from agent.control.departures import Departed
from agent.control.membership import MembershipView
from agent.control.pinning import Pinning
from agent.control.reconciler import Mesh
from agent.lossless_json.exact import as_text
from agent.model import Json, LinkView, PeerSpec, ServerSpec, Sessions, StdioTarget, masked_url
from agent.routing.about import about_in
from agent.routing.names import node_alias
from agent.routing.origins import listed_origin
from agent.routing.table import LeftOutEntry, RouteTable
from agent.routing.view import find_server
from discovery.model import is_listed

# Of what servers of other nodes say, too long for a list that models read, where there are many of them.
_LONG: Final = frozenset({"instructions", "icons"})
_RIGHT_MISSING: Final = (
    "the catalog shows this node no entry of its own, which Consul's agent has, or not all entries: does its ACL token"
    ' lack node:read (node_prefix "" { policy = "read" }) or service:read? Until it has them, peers and their'
    " maintenance are as they were known last; that of this node's own entry counts"
)
# What a list for models has of that, as JSON; `get_mcp_server_functions` shows what has no room.
TEXTS_BYTES_MAX: Final = 32_768
# (backend key, the name as the backend itself knows it) -> name in the mesh
PublicNames: TypeAlias = Mapping[tuple[str, str], str]


def said(view: LinkView) -> LinkView:
    """The view with its failures in the words for clients: those of operators may hold addresses and commands."""
    offer = view.offer
    faults = tuple(replace(fault, reason=fault.said or fault.reason) for fault in offer.faults)
    return replace(view, last_error=view.said_error, offer=replace(offer, faults=faults) if faults else offer)


def public_names(table: RouteTable) -> PublicNames:
    """Index the listed tools by the backend that serves them."""
    return {
        (replica.backend_key, replica.remote_name): route.public_name
        for route in table.tools.values()
        if route.listed
        for replica in route.replicas
    }


def names_behind(table: RouteTable) -> dict[str, list[str]]:
    """The names of the servers of peers, by the peer's backend key."""
    found: dict[str, list[str]] = {}
    for route in sorted(table.servers.values(), key=lambda route: route.public_name):
        for replica in route.replicas:
            if route.listed and not replica.ours:
                found.setdefault(replica.backend_key, []).append(route.public_name)
    return found


def servers_behind(table: RouteTable, *, texts_bytes_max: int | None = None) -> dict[str, list[Json]]:
    """What the servers of peers say of themselves, by the peer's backend key.

    `texts_bytes_max`: of all instructions and icons together, as JSON; None: any number.
    """
    found: dict[str, list[Json]] = {}
    room = texts_bytes_max
    for route in sorted(table.servers.values(), key=lambda route: route.public_name):
        whole = about_in(route.definition)
        short = {name: value for name, value in whole.items() if name not in _LONG}
        # Read with bounds, so it can be written (`agent.routing.about`).
        cost = 0 if room is None else len(orjson.dumps(whole)) - len(orjson.dumps(short))
        for replica in route.replicas:
            if route.listed and not replica.ours:
                fits = room is None or cost <= room
                room = room - cost if room is not None and fits else room
                entry = {"name": route.public_name, "about": whole if fits else short}
                found.setdefault(replica.backend_key, []).append(entry)
    return found


def describe_found(table: RouteTable, name: str) -> Json | None:
    """A server of any node by the name that the mesh knows it by, as `functions` of a link; None for none."""
    server = find_server(table, name)
    if server is None or not server.listed:
        return None
    tools = [route for route in table.listed_tools() if route.owner == server.owner]
    functions = [
        {
            "name": _own_name(route.definition),
            "mesh_name": route.public_name,
            "description": text if as_text(text := route.definition.get("description")) else "",
        }
        for route in tools
    ]
    return {
        "server_name": server.public_name,
        "status": "connected" if server.away_since_s is None else "away",
        "about": dict(about_in(server.definition)),
        "functions": functions,
        "function_count": len(functions),
    }


def describe_peer(view: LinkView, now_s: float) -> Json:
    """One element of `data.peers`; times are seconds from now, latency is in milliseconds."""
    spec = view.spec
    assert isinstance(spec, PeerSpec)
    return {
        "name": spec.name,
        "url": spec.target.shown,
        "description": f"Peer node at {spec.target.shown}",
        "connected": view.connected,
        "function_count": len(view.offer.tools) if view.connected else 0,
        "source": spec.source.value,
        "scope": spec.scope.value,
        "kind": None if spec.kind is None else spec.kind.value,
        "aliases": list(spec.aliases),
        "weight": spec.weight,
        "maintenance": spec.maintenance,
        "datacenter": spec.datacenter,
        "node_id": view.identity.node_id if view.identity else spec.expected_node_id,
        **_standing(view, now_s),
    }


def describe_departed(one: Departed, now_s: float) -> Json:
    """One element of `data.departed`."""
    return {
        "name": one.name,
        "url": masked_url(one.url),
        "node_id": one.node_id,
        "state": "failed" if one.failed else "left",
        "since_s": round(now_s - one.since_s, 1),
        "last_error": one.last_error or None,
    }


def describe_server(
    view: LinkView, names: PublicNames, now_s: float, left_out: Iterable[LeftOutEntry] = (), *, with_url: bool = True
) -> Json:
    """One element of `data.servers`: a local server or a peer, with its functions and its entries in `left_out`.

    `with_url`: addresses of peers are for operators.
    """
    spec = view.spec
    if isinstance(spec, ServerSpec):
        kind = {**_configuration(spec), "hints": hints_of(view, spec)}
    else:
        kind = {"kind": "peer", "transport": "http", "scope": spec.scope.value, "enabled": True}
        kind |= {"maintenance": spec.maintenance}
        kind |= {"url": spec.target.shown} if with_url else {}
    return {
        "name": spec.name,
        "status": "connected" if view.connected else view.state.value,
        "connected": view.connected,
        **kind,
        "about": dict(view.about) if view.connected and isinstance(spec, ServerSpec) else {},
        "function_count": len(view.offer.tools) if view.connected else 0,
        "functions": describe_functions(view, names) if view.connected else [],
        "left_out": [
            {"kind": left.kind, "name": left.name, "why": left.why} for left in left_out if left.backend == view.key
        ],
        **_standing(view, now_s),
    }


def hints_of(view: LinkView, spec: ServerSpec) -> list[str]:
    """What an operator may have to set for a server, and why."""
    if view.connected and view.lists_may_differ and spec.sessions is Sessions.SHARED:
        why = 'its lists may differ between sessions (it gives them IDs and declares "listChanged")'
        so = "and all clients share one, so that what a call adds for its session does not show"
        return [f'{why}, {so}; "mesh": {{"sessions": "auto"}} gives each client with a session one there']
    return []


def describe_functions(view: LinkView, names: PublicNames) -> list[Json]:
    """The tools of one backend: `name` as its server calls it, `mesh_name` as the mesh does (None: not routed)."""
    return [
        {
            "name": _own_name(tool),
            "mesh_name": names.get((view.key, str(tool.get("name")))),
            "description": text if as_text(text := tool.get("description")) else "",
        }
        for tool in view.offer.tools
        if isinstance(tool, dict)
    ]


def describe_link(view: LinkView, names: PublicNames) -> Json:
    """The functions of one server or peer, and what it says of itself, unless it is a node."""
    functions = describe_functions(view, names) if view.connected else []
    return {
        "status": "connected" if view.connected else view.state.value,
        "about": dict(view.about) if view.connected and view.identity is None else {},
        "functions": functions,
        "function_count": len(functions),
    }


def _configuration(spec: ServerSpec) -> Json:
    return {
        "kind": "server",
        "transport": "stdio" if isinstance(spec.target, StdioTarget) else "http",
        "scope": spec.scope.value,
        "sticky": spec.sticky,
        "sessions": spec.sessions.value,
        "protocol": spec.protocol,
        "tags": list(spec.tags),
        "enabled": spec.enabled,
        **_configured_name(spec),
    }


def describe_disabled(spec: ServerSpec) -> Json:
    """A server that the configuration names and switches off: it has no link."""
    return {
        "name": spec.name,
        "status": "disabled",
        "connected": False,
        **_configuration(spec),
        "function_count": 0,
        "functions": [],
    }


def describe_unused_entry(entry: LeftOut) -> Json:
    """An entry of the servers file that is not used, with every reason."""
    return {
        "name": entry.name,
        "configured_name": entry.configured_name,
        "reasons": list(entry.reasons),
        "enabled": entry.enabled,
        "keeps_running": entry.keeps_running,
    }


def unused_server(entry: LeftOut) -> Json:
    """Its place in `data.servers`, as that of a server without a link."""
    return {
        "name": entry.name,
        "status": "left_out",
        "connected": False,
        "kind": "server",
        "enabled": entry.enabled,
        "configured_name": entry.configured_name,
        "last_error": "; ".join(entry.reasons),
        "function_count": 0,
        "functions": [],
    }


def _configured_name(spec: ServerSpec) -> Json:
    """What the servers file calls it, where that is another name."""
    return {"configured_name": spec.configured_name} if spec.configured_name else {}


def describe_conflicts(tables: Iterable[RouteTable]) -> list[Json]:
    """Every name that more than one backend claims, once."""
    # Without a holder, each backend's fault is its own: two servers may list the same nonsense.
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


def describe_left_out(table: RouteTable) -> list[Json]:
    """Every entry of a list that is left out because strict clients could not read the list with it."""
    return [{"backend": left.backend, "kind": left.kind, "name": left.name, "why": left.why} for left in table.left_out]


def describe_notes(mesh: Mesh, pinning: Pinning | None, view: MembershipView) -> Json:
    """What an operator may have to look at: conflicts, entries left out, findings."""
    own = own_findings(node_alias(mesh.own.name, mesh.own.node_id), view)
    return {
        "conflicts": describe_conflicts([mesh.routes, mesh.local_routes]),
        "left_out": describe_left_out(mesh.routes),
        "findings": [
            *({"name": f.name, "kind": f.kind.value, "detail": f.detail} for f in (*mesh.selection.findings, *own)),
            *(() if pinning is None else describe_definitions(pinning)),
        ],
    }


def own_findings(service_id: str, view: MembershipView) -> list[Finding]:
    """What is to be said of our own entry in the catalog."""
    registrar, source, own = view.registrar, view.source, list[Finding]()
    if registrar.rival:
        own.append(Finding(service_id, FindingKind.OWN_ID_ELSEWHERE, registrar.rival))
    if source.filtered or (registrar.registered and source.lists_us is False):
        own.append(Finding(service_id, FindingKind.RIGHT_MISSING, _RIGHT_MISSING))
    if registrar.resumed:
        end = f"of before, and taken up again; `consul maint -disable -service={service_id}` ends it"
        own.append(Finding(service_id, FindingKind.RESUMED, f"{registrar.resumed} ({end})"))
    if registrar.unkept:
        own.append(Finding(service_id, FindingKind.UNKEPT, registrar.unkept))
    return own


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
        "protocol_version": view.protocol_version,
        "failed_lists": [{"list": fault.method, "reason": fault.reason} for fault in view.offer.faults]
        if view.connected
        else [],
    }


def _own_name(tool: Json) -> str:
    own = listed_origin(tool).get("tool")
    return own if isinstance(own, str) else str(tool.get("name"))


def describe_definitions(pinning: Pinning) -> list[Json]:
    """The findings about definitions: those not as they were pinned, those that look suspicious; pins not read yet."""
    ways = {True: "left out until it is approved", False: "listed all the same"}
    changed = [
        (one, "definition_changed", f"since {one['since']} other than pinned, {ways[one['blocked']]}")
        for one in pinning.changed()
    ]
    suspected = [(one, "definition_suspected", "; ".join(one["why"])) for one in pinning.suspected()]
    unread = f"{pinning.saved.refusal}; no change is known; the file stays as it is and is read again"
    return [
        *([{"name": "pins.json", "kind": "pins_not_read", "detail": unread}] if pinning.saved.refusal else ()),
        *(
            {"name": f"{one['server']} {one['name']}", "kind": kind, "detail": detail}
            for one, kind, detail in (*changed, *suspected)
        ),
    ]


def describe_discovery(view: MembershipView, instances: int, now_s: float) -> Json:
    """Which catalog, how far it can be trusted, and the other sources of peers; `instances`: of all together."""
    answered, confirmed = view.source.last_answer_at_s, view.source.confirmed_at_s
    return {
        "mode": view.mode,
        "reason": view.reason,
        "url": view.url,
        "up": view.source.up,
        "registered": is_listed(view.source, view.registrar),
        "last_error": view.source.last_error or view.registrar.last_error,
        "catalog_age_s": None if answered is None else round(now_s - answered, 1),
        "backend": view.source.backend,
        "confirmed_s": None if confirmed is None else round(now_s - confirmed, 1),
        "holding_removals": view.source.holding_removals,
        "filtered_by_acls": view.source.filtered,
        "instances": instances,
        "sources": [
            {
                "name": name,
                "up": status.up,
                "last_error": status.last_error,
                "instances": held,
                "confirmed_s": None if status.confirmed_at_s is None else round(now_s - status.confirmed_at_s, 1),
                "holding_removals": status.holding_removals,
                "filtered_by_acls": status.filtered,
            }
            for name, (status, held) in view.others.items()
        ],
    }
