"""The protocol's own names: its versions, the reserved keys of `_meta`, the levels of log messages.

Spelled here for the same reason as the codes in `agent.rpc_codes`, and held against the SDK's constants by
tests/unit/server/test_inbound.py. The one rule: no other module of the node
spells one of the reserved keys.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

# Versions with an `initialize` handshake and sessions, oldest first.
HANDSHAKE_PROTOCOL_VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
LATEST_HANDSHAKE_VERSION: Final = HANDSHAKE_PROTOCOL_VERSIONS[-1]
# Versions whose every request carries an envelope, oldest first.
MODERN_PROTOCOL_VERSIONS: Final = ("2026-07-28",)
LATEST_MODERN_VERSION: Final = MODERN_PROTOCOL_VERSIONS[-1]

# In a request's `_meta`: the envelope of 2026-07-28.
PROTOCOL_VERSION_META_KEY: Final = "io.modelcontextprotocol/protocolVersion"
CLIENT_INFO_META_KEY: Final = "io.modelcontextprotocol/clientInfo"
CLIENT_CAPABILITIES_META_KEY: Final = "io.modelcontextprotocol/clientCapabilities"
LOG_LEVEL_META_KEY: Final = "io.modelcontextprotocol/logLevel"
# In a result's `_meta`.
SERVER_INFO_META_KEY: Final = "io.modelcontextprotocol/serverInfo"

# The parameter that the header `Mcp-Name` repeats, by method.
NAME_BEARING_METHODS: Final[Mapping[str, str]] = MappingProxyType(
    {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
)
# Requests that the protocol itself defines as reads of one thing: executing them twice does no harm.
READS: Final = frozenset({"resources/read", "prompts/get", "completion/complete"})
# The methods of requests of 2026-07-28 that the protocol itself has; extensions add theirs.
MODERN_METHODS: Final = frozenset(
    {
        "completion/complete",
        "prompts/get",
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/templates/list",
        "server/discover",
        "subscriptions/listen",
        "tools/call",
        "tools/list",
    }
)
LOG_LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
