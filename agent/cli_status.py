"""`mesh-agent status`: this node first, then every peer, then the names that two of them claim.

Called by `agent.cli`. The one rule: a field that an older or newer node does not send is a dash, not a traceback.
"""

import asyncio
from argparse import Namespace
from typing import Any

from agent.cli_client import ask, node_of
from agent.cli_output import Exit, as_duration, print_json, print_table
from agent.cli_peers import PEERS_PATH, print_suppressed, suppressed_names
from agent.text import one_line


def show_status(args: Namespace) -> int:
    """Ask the node for its status and print it."""
    node = node_of(args)
    data, _ = asyncio.run(ask(node, "GET", "/api/v1/mcp/status"))
    status = _table(data)
    if args.json:
        print_json(**status)
        return Exit.OK
    told, _ = asyncio.run(ask(node, "GET", PEERS_PATH))  # The status does not tell who is suppressed.
    itself = _table(status.get("self"))
    peers = [_table(peer) for peer in status.get("peers") or ()]
    _print_self(itself)
    print_table(
        ["NAME", "STATE", "SOURCE", "TOOLS", "LATENCY", "NEXT TRY", "URL", "LAST ERROR"],
        [_self_row(itself), *(_peer_row(peer) for peer in peers)],
    )
    conflicts = [_table(conflict) for conflict in status.get("conflicts") or ()]
    if conflicts:
        print("\nNames that more than one claims:")
        print_table(
            ["NAME", "HOLDER", "OTHERS", "REASON"],
            [(row.get("name"), row.get("holder"), _words(row.get("others")), row.get("reason")) for row in conflicts],
        )
    findings = [_table(finding) for finding in status.get("findings") or ()]
    if findings:
        print("\nWhat discovery and overrides could not agree on:")
        print_table(
            ["NAME", "KIND", "DETAIL"], [[row.get(key) for key in ("name", "kind", "detail")] for row in findings]
        )
    print_suppressed(suppressed_names(told))
    return Exit.OK


def _print_self(itself: dict[str, Any]) -> None:
    head = [f"{_text(itself.get('name'))} is {_text(itself.get('state'))}"]
    if up := as_duration(itself.get("uptime_s")):
        head.append(f"up {up}")
    head += [f"version {_text(itself.get('version'))}", f"node ID {_text(itself.get('node_id'))}"]
    print(", ".join(head))
    print(f"discovery: {discovery_line(_table(itself.get('discovery')))}")
    print(f"tools of all nodes: {_text(itself.get('tools'))}")
    servers = [_table(server) for server in itself.get("servers") or ()]
    if servers:
        names = [f"{_text(row.get('name'))} ({_server_state(row)})" for row in servers]
        print(f"servers: {', '.join(names)}")
    print()


def discovery_line(discovery: dict[str, Any]) -> str:
    """Say in one line where peers come from and how far that can be trusted."""
    mode = _text(discovery.get("mode"))
    parts = [f"{mode} ({_text(discovery['reason'])})" if discovery.get("reason") else mode]
    if mode == "off":
        return parts[0]
    parts.append("up" if discovery.get("up") else "down")
    parts.append("registered" if discovery.get("registered") else "not registered")
    if isinstance(instances := discovery.get("instances"), int):
        parts.append(f"{instances} instances")
    if age := as_duration(discovery.get("catalog_age_s")):
        parts.append(f"catalog {age} old")
    if discovery.get("last_error"):
        parts.append(f"last error: {_text(discovery['last_error'])}")
    return ", ".join(parts)


def _self_row(itself: dict[str, Any]) -> list[Any]:
    """TOOLS is what the node in the row serves itself, its management tools included; so it is for peers."""
    name = f"{_text(itself.get('name'))} (this node)"
    return [name, itself.get("state"), "self", itself.get("function_count"), None, None, itself.get("url"), None]


def _peer_row(peer: dict[str, Any]) -> list[Any]:
    latency_ms, wait = peer.get("latency_ms"), as_duration(peer.get("next_attempt_s"))
    return [
        peer.get("name"),
        peer.get("state"),
        peer.get("source"),
        peer.get("function_count"),
        f"{latency_ms:.1f} ms" if isinstance(latency_ms, int | float) else None,
        f"in {wait}" if wait else None,
        peer.get("url"),
        peer.get("last_error"),
    ]


def _server_state(server: dict[str, Any]) -> str:
    return _text(server.get("status") or server.get("state") or server.get("connected"))


def _words(value: Any) -> str:
    return ", ".join(str(part) for part in value) if isinstance(value, list) else str(value or "")


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return "-" if value in (None, "") else one_line(str(value), 300)
