"""`mesh-agent tools …` and `servers reload`: an MCP client for the terminal.

Called by `agent.cli.parser`, which imports this module only for these commands: FastMCP takes a second to import. The
one rule: a tool's own failure (exit 5) is never confused with a node that cannot be reached (4) or refuses us (3).
"""

import asyncio
import json
from argparse import Namespace
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import httpx2
from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport
from fastmcp.exceptions import McpError

from agent.cli.client import Node, node_of, refused, unreachable
from agent.cli.output import CliFailed, Exit, print_json, print_table
from agent.logs import many_lines, one_line, quiet_vendors

CONNECT_TIMEOUT_S = 15.0
_AUTH_STATUSES = (401, 403)
_SERVER_ERROR = 500
Talk: TypeAlias = Callable[["Client[StreamableHttpTransport]"], Awaitable[Any]]


def list_tools(args: Namespace) -> int:
    """Print the tools that the node offers, its mesh's tools among them."""
    tools = asyncio.run(_talk(node_of(args), lambda client: client.list_tools()))
    if args.json:
        print_json(tools=[_plain(tool) for tool in tools])
    else:
        rows = [(tool.name, ", ".join(_parameters(tool.input_schema)), tool.description) for tool in tools]
        print_table(["NAME", "ARGUMENTS", "DESCRIPTION"], rows)
    return Exit.OK


def call_tool(args: Namespace) -> int:
    """Call a tool and print what it says."""
    arguments = read_arguments(args.args, args.pairs)
    result = asyncio.run(
        _talk(node_of(args), lambda client: client.call_tool_mcp(args.name, arguments, timeout=args.timeout))
    )
    _show(args, result)
    return Exit.TOOL if result.is_error else Exit.OK


def reload_servers(args: Namespace) -> int:
    """Reload one server, or all that are enabled; one that does not come back is a tool's failure."""
    name, arguments = ("reload_mcp_server", {"server_name": args.name}) if args.name else ("reload_all_mcp_servers", {})
    result = asyncio.run(_talk(node_of(args), lambda client: client.call_tool_mcp(name, arguments)))
    content = result.structured_content if isinstance(result.structured_content, dict) else {}
    rows = [row for row in content.get("servers", [content]) if isinstance(row, dict) and "message" in row]
    if args.json or result.is_error or not rows:
        _show(args, result)
    else:
        for row in rows:
            print(one_line(str(row["message"])))
    return Exit.TOOL if result.is_error or not all(row.get("success", True) for row in rows) else Exit.OK


def read_arguments(text: str | None, pairs: Sequence[str]) -> dict[str, Any]:
    """Read a tool's arguments from `--args` JSON and from `key=value` pairs; a value that is JSON is taken as such.

    Raises `CliFailed`.
    """
    try:
        arguments = json.loads(text) if text else {}
    except ValueError as exc:
        raise CliFailed(Exit.USAGE, f"--args is not JSON: {exc}") from None
    except RecursionError:
        raise CliFailed(Exit.USAGE, "--args is nested too deeply") from None
    if not isinstance(arguments, dict):
        raise CliFailed(Exit.USAGE, '--args must be an object, like {"sides": 6}')
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise CliFailed(Exit.USAGE, f"{pair!r} is not key=value")
        arguments[key] = _typed(value)
    return arguments


def _show(args: Namespace, result: Any) -> None:
    if args.json:
        print_json(result=_plain(result))
        return
    for block in result.content:
        print(many_lines(block.text) if block.type == "text" else f"[{one_line(block.type)}]")
    if not result.content and result.structured_content is not None:
        print(json.dumps(result.structured_content))


async def _talk(node: Node, talk: Talk) -> Any:
    quiet_vendors()
    # The SDK hides the HTTP status behind "an error response", so it is noted where it passes.
    faults: list[int] = []
    transport = StreamableHttpTransport(f"{node.url}/mcp", auth=node.token, httpx_client_factory=_noting(faults))
    try:
        async with Client(transport, init_timeout=CONNECT_TIMEOUT_S) as client:
            return await talk(client)
    except (McpError, RuntimeError, OSError, TimeoutError, httpx2.HTTPError) as exc:
        if faults:
            raise _status_fault(node, faults[0]) from exc
        if isinstance(exc, McpError):
            raise CliFailed(Exit.TOOL, str(exc) or "the node answered with an error that has no message") from exc
        # FastMCP wraps what goes wrong below it in a RuntimeError.
        cause = exc.__cause__ if isinstance(exc, RuntimeError) and exc.__cause__ else exc
        raise unreachable(node, str(cause) or type(cause).__name__) from exc


def _noting(faults: list[int]) -> Any:
    """Make a factory of HTTP clients that note refusals and failures of the server.

    They send the token to the URL that the user gave, and nowhere that a redirect or a proxy points.
    """

    async def note(response: httpx2.Response) -> None:
        if response.status_code in _AUTH_STATUSES or response.status_code >= _SERVER_ERROR:
            faults.append(response.status_code)

    def make_client(
        headers: dict[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,
        auth: httpx2.Auth | None = None,
        **_: Any,
    ) -> httpx2.AsyncClient:
        hooks: Any = {"response": [note]}
        return httpx2.AsyncClient(
            headers=headers, timeout=timeout, auth=auth, follow_redirects=False, trust_env=False, event_hooks=hooks
        )

    return make_client


def _status_fault(node: Node, status: int) -> CliFailed:
    if status in _AUTH_STATUSES:
        return refused(node, status)
    return CliFailed(Exit.UNREACHABLE, f"{node.url}/mcp answered {status}; check the URL")


def _plain(model: Any) -> Any:
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def _parameters(schema: Any) -> list[str]:
    properties = schema.get("properties", {}) if isinstance(schema, dict) else {}
    required = schema.get("required", []) if isinstance(schema, dict) else []
    return [name if name in required else f"{name}?" for name in properties]


def _typed(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value
    except RecursionError:
        raise CliFailed(Exit.USAGE, "an argument is nested too deeply") from None
