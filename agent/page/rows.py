"""PURE: what the page shows of a link, and the events that follow from two looks at it.

Called by `agent.page.feed` for links that have changed. The one rule: a row has no secret and nothing that changes by
itself as time goes on (moments, not durations), so that an equal row is an unchanged link.
"""

from collections.abc import Mapping, Sequence

from agent.dispatch.replicas import GroupView
from agent.model import Json, LinkView, PeerScope, PeerSpec, StdioTarget


def link_row(view: LinkView, servers: Sequence[str], epoch_s: float) -> Json:
    """One link. `servers`: of a peer, by their names in the mesh. `epoch_s`: what loop time 0 is since the epoch.

    `next_at`: when it is tried again, seconds since the epoch, or None; `latency_ms`: of a probe of the last half
    minute, or None.
    """
    spec = view.spec
    if isinstance(spec, PeerSpec):
        kind = "gateway" if spec.scope is PeerScope.MESH else "peer"
        url, source, aliases = spec.target.shown, spec.source.value, list(spec.aliases)
        maintenance, weight, datacenter = spec.maintenance, spec.weight, spec.datacenter
    else:
        kind = "server"
        url = "a child process" if isinstance(spec.target, StdioTarget) else spec.target.shown
        source, aliases = "file", list[str]()
        maintenance, weight, datacenter = "", 1, ""
    next_at = None if view.next_attempt_at_s is None else round(view.next_attempt_at_s + epoch_s, 1)
    return {
        "key": view.key,
        "name": spec.name,
        "kind": kind,
        "url": url,
        "source": source,
        "aliases": aliases,
        "scope": spec.scope.value,
        "state": view.state.value,
        "connected": view.connected,
        "maintenance": maintenance,
        "weight": weight,
        "datacenter": datacenter,
        "functions": len(view.offer.tools) if view.connected else 0,
        "latency_ms": None if view.latency_s is None else round(view.latency_s * 1000, 1),
        "last_error": view.last_error,
        "attempts": view.attempts,
        "next_at": next_at,
        "reconnects": view.reconnects,
        "era": view.era.value if view.era else None,
        "node_id": view.identity.node_id if view.identity else None,
        "failed_lists": [{"list": fault.method, "reason": fault.reason} for fault in view.offer.faults],
        "servers": list(servers),
    }


def group_row(group: GroupView, links: Mapping[str, Json], epoch_s: float) -> Json:
    """One group of replicas. `links`: their rows, by key. `epoch_s`: as of `link_row`; `out_until`: so, too."""
    return {
        "name": group.owner,
        "retries_left": group.retries_left,
        "replicas": [
            {
                "key": member.backend,
                "name": links.get(member.backend, {}).get("name", member.backend),
                "latency_ms": None if member.latency_s is None else round(member.latency_s * 1000, 1),
                "share": None if member.share is None else round(member.share, 2),
                "out_until": None if member.out_until_s is None else round(member.out_until_s + epoch_s, 1),
            }
            for member in group.members
        ],
    }


def link_events(before: Json | None, after: Json | None) -> list[str]:
    """What happened to a link between two looks, as sentences."""
    if after is None:
        return [] if before is None else [f"{_named(before)} is gone"]
    named = _named(after)
    if before is None:
        return [f"{named} is new: {after['state']}"]
    told = []
    if before["connected"] and not after["connected"]:
        told.append(f"{named} was lost: {after['last_error'] or after['state']}")
    elif not before["connected"] and after["connected"]:
        told.append(f"{named} is connected")
    elif before["last_error"] != after["last_error"] and after["last_error"] and not after["connected"]:
        told.append(f"{named} cannot be reached: {after['last_error']}")
    if before["functions"] != after["functions"] and before["connected"] and after["connected"]:
        told.append(f"{named} has {after['functions']} tools, {before['functions']} before")
    if before["maintenance"] != after["maintenance"]:
        reason = after["maintenance"]
        told.append(f"{named} is in maintenance: {reason}" if reason else f"{named} is out of maintenance")
    return told


def note_events(before: Json, after: Json) -> list[str]:
    """What is new among findings, conflicts and definitions left out."""
    new = {kind: [one for one in after.get(kind, []) if one not in before.get(kind, [])] for kind in after}
    return [
        *(f"finding: {one['name']}: {one['detail']}" for one in new.get("findings", [])),
        *(f"conflict over {one['name']}: {one['reason']}" for one in new.get("conflicts", [])),
        *(
            f"{one['backend']}: {one['kind']} {one['name']} is left out: {one['why']}"
            for one in new.get("left_out", [])
        ),
    ]


def _named(row: Json) -> str:
    return f"{row['kind']} {row['name']}"
