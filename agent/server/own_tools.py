"""The node's own tools and resources as its servers know them, and the node's introduction.

`OwnTools` is made once per endpoint by the wiring. It has the definitions and the results of `initialize` and
`server/discover`, with the node's identity in them (`with_card`), and answers calls through `agent.server.management`.
The one rule: FastMCP is imported at the first such call, not before; a node that is never asked starts without it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import orjson

from agent.errors import MCPError
from agent.late import Late
from agent.lossless_json.exact import with_own_numbers
from agent.lossless_json.unread import all_read
from agent.mcp_terms import (
    LATEST_HANDSHAKE_VERSION,
    MODERN_PROTOCOL_VERSIONS,
    SERVER_INFO_META_KEY,
)
from agent.model import DRAINING, MESH_EXTENSION, TASKS_EXTENSION, UI_EXTENSION, Json, NodeIdentity
from agent.rpc_codes import INVALID_PARAMS
from agent.server.introduction import NO_SERVERS, Introduction
from agent.server.lists import Definitions
from agent.server.node_operations import NodeOperations, WithoutPrivate
from agent.server.overview import PAGE_URI, SHOW_MESH
from agent.server.search import SEARCH_TOOLS, ToolSearch

if TYPE_CHECKING:
    from agent.server.management import Management

# The tools that every node lists beside those of its servers.
MANAGEMENT_TOOLS: Final = 5
# Those of them that wait until a server has started.
RELOADS: Final = frozenset({"reload_mcp_server", "reload_all_mcp_servers"})
# Written by `make definitions`.
DEFINITIONS: Final = Path(__file__).with_name("own_definitions.json")
_INSTRUCTIONS: Final = (
    "This is a node of an MCP mesh. Its tools are those of every MCP server in the mesh, named server__tool or "
    "node__server__tool. list_mcp_servers tells where they live and whether they are reachable."
)
CAPABILITIES: Final[Json] = {
    "logging": {},
    "prompts": {"listChanged": True},
    "resources": {"subscribe": True, "listChanged": True},
    "tools": {"listChanged": True},
    "completions": {},
}


class OwnTools:
    """The node's own tools and resources at one endpoint.

    `search`: None where there are no search tools. `asks_others`: whether the tools may name another node; `/mcp/local`
    answers for its own alone, and not for private ones.
    """

    def __init__(
        self,
        name: str,
        version: str,
        node_status: NodeOperations,
        *,
        search: ToolSearch | None = None,
        asks_others: bool = True,
    ) -> None:
        self._name = name
        self._node_status = node_status if asks_others else WithoutPrivate(node_status)
        self._search = search
        self._asks_others = asks_others
        # Some hosts look for pages only where the extension is announced (SEP-1865); other nodes show none.
        self.extensions: Json = {UI_EXTENSION: {}} if asks_others else {}
        self._management = Late(self._build)
        # What 2026-07-28 requires in each of our own results.
        self.server_info: Json = {"name": name, "version": version}

    def __repr__(self) -> str:
        return f"<OwnTools {self._name} {self._management!r}>"

    def definitions(self) -> Definitions:
        """What the endpoint has of its own."""
        kinds: dict[str, list[Json]] = orjson.loads(DEFINITIONS.read_bytes())
        tools, resources = kinds["tools"], kinds["resources"]
        of_apps = [tool for tool in tools if tool["name"] == SHOW_MESH]
        pages = [resource for resource in resources if resource["uri"] == PAGE_URI]
        listed = [tool for tool in tools if tool not in of_apps and tool["name"] not in SEARCH_TOOLS]
        return Definitions(
            {"tools": listed, "resources": [resource for resource in resources if resource not in pages]},
            [] if self._search is None else search_definitions(),
            {"tools": of_apps, "resources": pages},
        )

    async def answer(self, method: str, params: Json, version: str) -> Json:
        """The result of `tools/call` or `resources/read` of one of them, in the shape of that version.

        `params` hold Python's own numbers (`plain`). A tool's failure, and arguments that it does not take, are a
        result with `isError`; raises `MCPError` for a resource that cannot be read, and for a `requestState`, since
        none is ever given here.
        """
        return await answered(self._management, method, params, version, self.server_info)

    def discovery(
        self,
        identity: NodeIdentity,
        servers: Introduction = NO_SERVERS,
        *,
        draining: bool = False,
        has_tasks: bool = False,
    ) -> Json:
        """The result of `server/discover`; `servers`: those behind the endpoint. The rest: see `with_card`."""
        result = {
            "resultType": "complete",
            "supportedVersions": list(MODERN_PROTOCOL_VERSIONS),
            "capabilities": self._capabilities(servers),
            "instructions": _instructions(servers),
            "cacheScope": "private",
            "ttlMs": 0,
            "_meta": {SERVER_INFO_META_KEY: self.server_info},
        }
        return with_card(result, identity, "extensions", draining=draining, has_tasks=has_tasks)

    def initialize_result(self, identity: NodeIdentity, servers: Introduction = NO_SERVERS) -> Json:
        """The result of `initialize`; its `protocolVersion` is the one to offer, unless another was agreed."""
        result = {
            "protocolVersion": LATEST_HANDSHAKE_VERSION,
            "capabilities": self._capabilities(servers),
            "serverInfo": self.server_info,
            "instructions": _instructions(servers),
        }
        return with_card(result, identity, "experimental")

    def _capabilities(self, servers: Introduction) -> Json:
        extensions = {**self.extensions, **servers.extensions}
        return {**CAPABILITIES, "extensions": extensions} if extensions else CAPABILITIES

    def _build(self) -> "Management":
        from agent.server.management import Management  # noqa: PLC0415 - imports FastMCP

        return Management(self._name, self._node_status, self._search, asks_others=self._asks_others)


async def answered(management: "Late[Management]", method: str, params: Json, version: str, server_info: Json) -> Json:
    """See `OwnTools.answer`. `server_info`: what 2026-07-28 requires in each result."""
    modern = version in MODERN_PROTOCOL_VERSIONS
    if modern and params.get("requestState") is not None:
        message, why = "requestState: nothing here has given it", {"reason": "invalid_request_state"}
        raise MCPError(code=INVALID_PARAMS, message=message, data=why)
    shaped = await (await management.get()).answer(method, params, version)
    if modern:
        shaped["_meta"] = {SERVER_INFO_META_KEY: server_info, **shaped.get("_meta", {})}
    return shaped


def search_definitions() -> list[Json]:
    """The search tools as clients see them."""
    kinds: dict[str, list[Json]] = orjson.loads(DEFINITIONS.read_bytes())
    return [tool for tool in kinds["tools"] if tool["name"] in SEARCH_TOOLS]


def _instructions(servers: Introduction) -> str:
    return f"{_INSTRUCTIONS}\n\n{servers.instructions}" if servers.instructions else _INSTRUCTIONS


def plain(params: Json) -> Json:
    """Params for Python code: numbers that are passed on as text are numbers again. Raises `MCPError`."""
    try:
        own_numbers: Json = with_own_numbers(all_read(params))
    except orjson.JSONEncodeError as exc:
        raise MCPError(code=INVALID_PARAMS, message="params: nested too deeply") from exc
    except ValueError as exc:  # Python reads no integer of more than 4,300 digits.
        raise MCPError(code=INVALID_PARAMS, message="params: a number has too many digits") from exc
    return own_numbers


def with_card(
    result: Json,
    identity: NodeIdentity,
    slot: Literal["extensions", "experimental"],
    *,
    draining: bool = False,
    has_tasks: bool = False,
) -> Json:
    """`result` with the node's identity. Before 2026-07-28 there are no `extensions`, hence the other slot.

    `draining`: whether peers are to use another node. `has_tasks`: whether calls may be answered with tasks.
    """
    capabilities = dict(result.get("capabilities") or {})
    card: Json = {"node_id": identity.node_id, "name": identity.name}
    if draining:
        card[DRAINING] = True
    capabilities[slot] = {**(capabilities.get(slot) or {}), MESH_EXTENSION: card}
    if has_tasks:
        capabilities[slot][TASKS_EXTENSION] = {}
    return {**result, "capabilities": capabilities}
