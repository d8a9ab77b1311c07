"""The mesh as an MCP App of the node (SEP-1865): the tool `show_mesh`, what it answers, and in which words.

Used by `agent.server.management`, which has the tool, and by `agent.server.own_tools`, which lists it for clients that
show pages. PURE. The one rule: nothing is shown here that `list_mcp_servers` would not show the same client.
"""

from collections.abc import Sequence
from typing import Final

from agent.harmless_text import one_line
from agent.model import Json

SHOW_MESH: Final = "show_mesh"
PAGE_URI: Final = "ui://mesh/overview"
# The picture has room for many more; a text that a model reads has not.
_NAMED_MAX: Final = 100
_ERROR_CHARS_MAX: Final = 200


def overview(name: str, state: str, servers: Sequence[Json]) -> Json:
    """What the page draws. `servers`: as of `NodeOperations.servers` for clients."""
    return {
        "node": {"name": name, "state": state},
        "links": [_link(entry) for entry in servers],
    }


def as_text(seen: Json) -> str:
    """The same in words, for hosts that show no pages, and for models."""
    node, links = seen["node"], seen["links"]
    up = sum(link["connected"] for link in links)
    lines = [f"Node {node['name']} is {node['state']}: {up} of {len(links)} servers and peers are connected."]
    lines += [_line(link) for link in sorted(links, key=lambda link: link["connected"])[:_NAMED_MAX]]
    if len(links) > _NAMED_MAX:
        lines.append(f"and {len(links) - _NAMED_MAX} more; list_mcp_servers has all of them")
    return "\n".join(lines)


def _link(entry: Json) -> Json:
    """One server or peer, in the members that the node's own page has for a link (`agent.page.rows`)."""
    is_gateway = entry["kind"] == "peer" and entry.get("scope") == "mesh"
    return {
        "key": f"{entry['kind']}:{entry['name']}",
        "name": entry["name"],
        "kind": "gateway" if is_gateway else entry["kind"],
        "state": entry["status"],
        "connected": entry["connected"],
        "functions": entry["function_count"],
        "latency_ms": entry.get("latency_ms"),
        "last_error": entry.get("last_error"),
        "maintenance": entry.get("maintenance") or "",
        "servers": [behind["name"] for behind in entry.get("servers", ())],
    }


def _line(link: Json) -> str:
    line = f"- {link['kind']} {one_line(link['name'], 80)}: {link['state']}"
    if link["maintenance"]:
        line += f", in maintenance: {one_line(link['maintenance'], _ERROR_CHARS_MAX)}"
    if link["connected"]:
        return f"{line}, {link['functions']} tools"
    return f"{line}, {one_line(link['last_error'], _ERROR_CHARS_MAX)}" if link["last_error"] else line
