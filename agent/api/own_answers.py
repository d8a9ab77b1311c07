"""Answers of the node's own tools and resources, got from the management server within this process.

Called for clients with sessions; stateless requests for them come through ASGI. The one rule: a client finds the same
result as on the other way.
"""

import orjson
from fastmcp import FastMCP
from fastmcp.exceptions import FastMCPError, to_mcp_error
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolResult, ReadResourceResult, TextContent
from mcp_types.methods import serialize_server_result
from mcp_types.version import LATEST_HANDSHAKE_VERSION

from agent.core.exact_json import with_own_numbers
from agent.model import Json


async def own_answer(server: FastMCP, method: str, params: Json) -> Json:
    """The result of `tools/call` or `resources/read` for what the management server has, as sessions know it.

    A tool's failure is a result with `isError`; raises `MCPError` for a resource that cannot be read,
    and for arguments that nobody could write.
    """
    result: CallToolResult | ReadResourceResult
    match method:
        case "tools/call":
            result = await _called(server, params["name"], _plain(params.get("arguments") or {}))
        case "resources/read":
            try:
                read = await server.read_resource(params["uri"])
            except FastMCPError as exc:
                raise to_mcp_error(exc) from exc
            result = read.to_mcp_result(params["uri"])
        case _:
            raise AssertionError(method)
    raw = result.model_dump(by_alias=True, mode="json", exclude_none=True)
    return serialize_server_result(method, LATEST_HANDSHAKE_VERSION, raw)


def _plain(arguments: Json) -> Json:
    """What Python code can take: numbers that we pass on as text are numbers again."""
    try:
        plain: Json = with_own_numbers(arguments)
    except orjson.JSONEncodeError as exc:
        raise MCPError(code=INVALID_PARAMS, message="arguments: nested too deeply") from exc
    except ValueError as exc:  # Python reads no integer of more than 4,300 digits.
        raise MCPError(code=INVALID_PARAMS, message="arguments: a number has too many digits") from exc
    return plain


async def _called(server: FastMCP, name: str, arguments: Json) -> CallToolResult:
    try:
        result = (await server.call_tool(name, arguments)).to_mcp_result()
    except FastMCPError as exc:
        return CallToolResult(content=[TextContent(type="text", text=str(exc))], is_error=True)
    match result:
        case CallToolResult():
            return result
        case tuple():
            content, structured = result
            return CallToolResult(content=content, structured_content=structured)
        case _:
            return CallToolResult(content=result)
