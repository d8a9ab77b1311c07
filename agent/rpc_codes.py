"""The error codes of JSON-RPC and MCP, and the HTTP status that goes with each.

Spelled here, since the SDK's own constants cost an import of a second and 60 MB; tests/unit/server/test_inbound.py
holds each against them. The one rule: no other module spells such a code as a number (ours are in `agent.errors`).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
HEADER_MISMATCH: Final = -32020
MISSING_REQUIRED_CLIENT_CAPABILITY: Final = -32021
UNSUPPORTED_PROTOCOL_VERSION: Final = -32022
# No code of the protocol: the SDK's, for a request whose connection has gone.
CONNECTION_CLOSED: Final = -32000

# Every other error comes with 200: the protocol assigns it no status.
ERROR_CODE_HTTP_STATUS: Final[Mapping[int, int]] = MappingProxyType(
    {
        PARSE_ERROR: 400,
        INVALID_REQUEST: 400,
        INVALID_PARAMS: 400,
        HEADER_MISMATCH: 400,
        MISSING_REQUIRED_CLIENT_CAPABILITY: 400,
        UNSUPPORTED_PROTOCOL_VERSION: 400,
        METHOD_NOT_FOUND: 404,
    }
)
