"""The error codes of JSON-RPC and MCP for rooms that must not know the SDK: its own constants under its own names.

Imported by dispatch, links, subscriptions and tasks; `server` and `client` know the SDK and take theirs from it. Not a
part of `agent.errors`, which quick commands of the command line import: `mcp_types` brings pydantic and costs them most
of a second. The one rule: no other module spells such a code as a number (ours are in `agent.errors`).
"""

from mcp_types.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
)

__all__ = ["INTERNAL_ERROR", "INVALID_PARAMS", "METHOD_NOT_FOUND", "MISSING_REQUIRED_CLIENT_CAPABILITY"]
