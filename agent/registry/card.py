"""PURE: the server card of a node (SEP-2127, a draft), and what agents read about it (`/llms.txt`).

Called by `agent.registry.routes`. A card has identity, way and protocol versions, and never tools: those are listed
over MCP. The one rule: a card says nothing that `server/discover` contradicts.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from agent.mcp_terms import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from agent.model import Json
from agent.registry.entries import WHOLE_NAME

CARD_SCHEMA: Final = "https://static.modelcontextprotocol.io/schemas/v2/server-card.schema.json"
CARD_TYPE: Final = "application/mcp-server-card+json"
# Of a text that models read whole.
SERVERS_MAX: Final = 200


def server_card(entries: Iterable[Json]) -> Json:
    """The card of the whole mesh, as this node shows it, from its entry in the registry."""
    whole = next(entry["server"] for entry in entries if entry["server"]["name"].endswith(f"/{WHOLE_NAME}"))
    versions = [*MODERN_PROTOCOL_VERSIONS, *reversed(HANDSHAKE_PROTOCOL_VERSIONS)]
    return {
        "$schema": CARD_SCHEMA,
        **{name: whole[name] for name in ("name", "title", "description", "version")},
        "remotes": [{**whole["remotes"][0], "supportedProtocolVersions": versions}],
        "_meta": {"mesh-agent/experimental": True},
    }


def llms_text(base: str, entries: Sequence[Json], *, node: str, version: str) -> str:
    """What an agent without a client of MCP has to know of this node, in the form of llmstxt.org."""
    servers = [entry["server"] for entry in entries if not entry["server"]["name"].endswith(f"/{WHOLE_NAME}")]
    lines = [
        "# MCP Mesh Agent",
        "",
        f"> A node ({node}, version {version}) of a mesh of MCP servers. One endpoint answers for all of them.",
        "",
        "## How to use it",
        "",
        f"- [The whole mesh]({base}/mcp): MCP over streamable HTTP; `?tools=search` shows three tools in place of all",
        f"- [Servers of the mesh, as a registry]({base}/v0.1/servers): MCP Registry API v0.1",
        f"- [REST API]({base}/api/openapi.json): OpenAPI 3.1; status, peers and servers",
        "- A token, where the node wants one: `Authorization: Bearer ...`",
        "",
        "## Servers",
        "",
    ]
    lines += [f"- [{one['name']}]({one['remotes'][0]['url']}): {one['description']}" for one in servers[:SERVERS_MAX]]
    if len(servers) > SERVERS_MAX:
        lines.append(f"- and {len(servers) - SERVERS_MAX} more, in the registry")
    return "\n".join(lines) + "\n"
