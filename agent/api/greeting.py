"""How a node introduces itself: in `server/discover`, and in the answer to `initialize` of earlier clients.

Called by the ways into an endpoint. The one rule: what is announced is what the endpoint serves, with the node's card
where every version of the protocol lets it through.
"""

from typing import Any, Literal

from mcp.server.lowlevel import Server
from mcp_types import Implementation, InitializeResult
from mcp_types.methods import serialize_server_result
from mcp_types.version import LATEST_HANDSHAKE_VERSION

from agent.model import DRAINING, MESH_EXTENSION, TASKS_EXTENSION, Json, NodeIdentity


def with_card(
    result: Json,
    identity: NodeIdentity,
    slot: Literal["extensions", "experimental"],
    *,
    draining: bool = False,
    has_tasks: bool = False,
) -> Json:
    """The greeting `result` with who we are. Before 2026-07-28 there are no `extensions`, hence the other slot.

    `draining`: whether peers are to look for somebody else. `has_tasks`: whether calls may be answered with tasks.
    """
    capabilities = dict(result.get("capabilities") or {})
    card: Json = {"node_id": identity.node_id, "name": identity.name}
    if draining:
        card[DRAINING] = True
    capabilities[slot] = {**(capabilities.get(slot) or {}), MESH_EXTENSION: card}
    if has_tasks:
        capabilities[slot][TASKS_EXTENSION] = {}
    # Served in both eras, whatever the SDK makes of the handlers that it knows.
    capabilities["resources"] = {**(capabilities.get("resources") or {}), "subscribe": True}
    return {**result, "capabilities": capabilities}


def session_greeting(server: Server[Any], identity: NodeIdentity) -> Json:
    """The result of `initialize`; its `protocolVersion` is the one to offer, where another was not agreed."""
    options = server.create_initialization_options()
    result = InitializeResult(
        protocol_version=LATEST_HANDSHAKE_VERSION,
        capabilities=options.capabilities,
        server_info=Implementation(name=options.server_name, version=options.server_version),
        instructions=options.instructions,
    )
    raw = result.model_dump(by_alias=True, mode="json", exclude_none=True)
    return with_card(serialize_server_result("initialize", LATEST_HANDSHAKE_VERSION, raw), identity, "experimental")
