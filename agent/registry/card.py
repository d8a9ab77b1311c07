"""PURE: server cards (SEP-2127), the catalog of them, and what agents read about a node (`/llms.txt`).

Called by `agent.registry.routes`. A card has identity, way and protocol versions, and never tools: those are listed
over MCP. The one rule: a card says nothing that `server/discover` contradicts.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from agent.mcp_terms import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from agent.model import Json
from agent.registry.entries import WHOLE_NAME

CARD_SCHEMA: Final = "https://static.modelcontextprotocol.io/schemas/v1/server-card.schema.json"
CARD_TYPE: Final = "application/mcp-server-card+json"
CATALOG_TYPE: Final = "application/ai-catalog+json"
# Of a text that models read whole, and of a catalog, which has no pages.
SERVERS_MAX: Final = 200


def server_card(entries: Iterable[Json]) -> Json:
    """The card of the whole mesh, as this node shows it, from its entry in the registry."""
    return _card(next(entry["server"] for entry in entries if entry["server"]["name"].endswith(f"/{WHOLE_NAME}")))


def catalog(entries: Sequence[Json]) -> Json:
    """The cards of all servers, the mesh first, as an AI Catalog."""
    by_place = sorted(entries, key=lambda entry: not entry["server"]["name"].endswith(f"/{WHOLE_NAME}"))
    cards = [_card(entry["server"]) for entry in by_place[:SERVERS_MAX]]
    return {
        "specVersion": "1.0",
        "entries": [{"identifier": _urn(card["name"]), "type": CARD_TYPE, "data": card} for card in cards],
    }


def _card(server: Json) -> Json:
    versions = [*MODERN_PROTOCOL_VERSIONS, *reversed(HANDSHAKE_PROTOCOL_VERSIONS)]
    return {
        "$schema": CARD_SCHEMA,
        **{name: server[name] for name in ("name", "title", "description", "version") if name in server},
        "remotes": [{**server["remotes"][0], "supportedProtocolVersions": versions}],
        "_meta": {"mesh-agent/experimental": True},
    }


def _urn(name: str) -> str:
    """`com.example/weather` is `urn:air:example.com:mcp:weather` (experimental-ext-server-card)."""
    namespace, _, server = name.partition("/")
    return f"urn:air:{'.'.join(reversed(namespace.split('.')))}:mcp:{server}"


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
