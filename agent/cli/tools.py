"""`mesh-agent tools …` and `servers reload`: an MCP client for the terminal, on the client that nodes use.

Called by `agent.cli.parser`, which imports this module only for these commands. The one rule: a tool's own failure
(exit 5) is never confused with a node that cannot be reached (4) or refuses us (3).
"""

import asyncio
import json
from argparse import Namespace
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from agent.cli.client import Node, ask, node_of, refused, unreachable
from agent.cli.output import CliFailed, Exit, print_json, print_table
from agent.cli.status import SERVERS_PATH
from agent.client.connect import McpClient, open_client
from agent.client.protocol import Request
from agent.config.values import CALL_TIMEOUT_MAX_S
from agent.errors import (
    AuthRefused,
    CallFailed,
    CallNotSent,
    CallTimedOut,
    DialRefused,
    LinkFailed,
    ProtocolBroken,
    RpcError,
)
from agent.harmless_text import many_lines, one_line
from agent.lossless_json.exact import with_own_numbers
from agent.mcp_headers import param_header_map, param_headers
from agent.model import HttpTarget, Json, ServerScope
from agent.routing.origins import listed_origin
from agent.rpc_codes import HEADER_MISMATCH

CONNECT_TIMEOUT_S = 15.0
PAGE_TIMEOUT_S = 60.0  # A node answers with what it knows already.
PAGES_MAX = 1000
T = TypeVar("T")


def list_tools(args: Namespace) -> int:
    """Print the tools that the node offers, its mesh's tools among them."""
    tools = asyncio.run(_talk(node_of(args), _tools))
    if args.json:
        print_json(tools=[_plain(tool) for tool in tools])
    else:
        rows = [(tool.get("name"), ", ".join(_parameters(tool)), tool.get("description")) for tool in tools]
        print_table(["NAME", "ARGUMENTS", "DESCRIPTION"], rows)
    return Exit.OK


def call_tool(args: Namespace) -> int:
    """Call a tool and print what it says."""
    arguments = read_arguments(args.args, args.pairs)
    timeout_s = CALL_TIMEOUT_MAX_S if args.timeout is None else min(args.timeout, CALL_TIMEOUT_MAX_S)

    async def call(client: McpClient) -> Json:
        named = {} if args.node is None else await _node_argument(client, args.name, args.node)
        return await _call(client, args.name, arguments | named, timeout_s)

    result = asyncio.run(_talk(node_of(args), call))
    _show(args, result)
    return Exit.TOOL if result["isError"] else Exit.OK


def reload_servers(args: Namespace) -> int:
    """Reload one server, or all that are enabled; one that does not come back is a tool's failure."""
    name, arguments = ("reload_mcp_server", {"server_name": args.name}) if args.name else ("reload_all_mcp_servers", {})
    result = asyncio.run(_talk(node_of(args), lambda client: _call(client, name, arguments)))
    structured = result.get("structuredContent")
    content = structured if isinstance(structured, dict) else {}
    listed = content.get("servers", [content])
    rows = [row for row in listed if isinstance(row, dict) and "message" in row] if isinstance(listed, list) else []
    if args.json or result["isError"] or not rows:
        _show(args, result)
    else:
        reasons = {} if all(row.get("success", True) for row in rows) else _reasons(node_of(args))
        for row in rows:
            print(one_line(str(row["message"])))
            if not row.get("success", True) and (reason := reasons.get(row.get("server_name"))):
                print(f"  {one_line(reason)}")
    return Exit.TOOL if result["isError"] or not all(row.get("success", True) for row in rows) else Exit.OK


def _reasons(node: Node) -> dict[Any, str]:
    """Why servers are not connected, in the words for operators: a tool's are for clients, who read no output."""
    try:
        data, _ = ask(node, "GET", SERVERS_PATH)
    except CliFailed:
        return {}
    servers = data.get("servers") if isinstance(data, dict) else None
    known = [one for one in servers if isinstance(one, dict)] if isinstance(servers, list) else []
    return {one.get("name"): str(one["last_error"]) for one in known if one.get("last_error")}


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


def _show(args: Namespace, result: Json) -> None:
    if args.json:
        print_json(result=result)
        return
    structured = result.get("structuredContent")
    for block in result["content"]:
        kind, text = block.get("type"), block.get("text")
        is_text = kind == "text" and isinstance(text, str)
        print(many_lines(text, len(text)) if is_text else f"[{one_line(str(kind))}]")
    if not result["content"] and structured is not None:
        print(json.dumps(structured))


async def _talk(node: Node, talk: Callable[[McpClient], Awaitable[T]]) -> T:
    """Open a client to the node for `talk`. Raises `CliFailed`."""
    target = HttpTarget(f"{node.url}/mcp", token=node.token, tls=node.tls)
    try:
        # Half of the time for a node that never answers `server/discover`, as some gateways do not.
        async with open_client(
            target,
            connect_timeout_s=CONNECT_TIMEOUT_S / 2,
            start_timeout_s=CONNECT_TIMEOUT_S,
            client_name="mesh-agent",
        ) as client:
            return await talk(client)
    except RpcError as exc:
        raise CliFailed(Exit.TOOL, exc.message or "the node answered with an error that has no message") from exc
    except AuthRefused as exc:
        raise refused(node, exc.status) from exc
    except (ProtocolBroken, DialRefused) as exc:
        raise CliFailed(Exit.UNREACHABLE, f"{exc}; check the URL") from exc
    except (LinkFailed, CallFailed) as exc:
        told, named = str(exc), f"{target.url} "
        raise unreachable(node, f"it {told.removeprefix(named)}" if told.startswith(named) else told) from exc


async def _tools(client: McpClient) -> list[Json]:
    """Every page of the list of tools."""
    tools: list[Json] = []
    seen: set[str] = set()
    params: Json = {}
    while len(seen) < PAGES_MAX:
        page = await _request(client, "tools/list", params, PAGE_TIMEOUT_S)
        listed, cursor = page.get("tools"), page.get("nextCursor")
        tools += [tool for tool in listed if isinstance(tool, dict)] if isinstance(listed, list) else []
        if not isinstance(cursor, str) or cursor in seen:
            return tools
        seen.add(cursor)
        params = {"cursor": cursor}
    raise CliFailed(Exit.TOOL, f"the node's list of tools has more than {PAGES_MAX} pages")


async def _call(client: McpClient, name: str, arguments: Json, timeout_s: float = CALL_TIMEOUT_MAX_S) -> Json:
    """Call a tool; returns its result with `content` and `isError` as they should be, whatever its server sent."""
    params = {"name": name, "arguments": arguments}
    try:
        result = await _request(client, "tools/call", params, timeout_s)
    except RpcError as exc:
        if exc.code != HEADER_MISMATCH:
            raise
        # Not executed: the tool's schema wants arguments repeated in headers, and only the list has its schema.
        schema = next((tool.get("inputSchema") for tool in await _tools(client) if tool.get("name") == name), None)
        headers = param_headers(param_header_map(schema), arguments)
        result = await _request(client, "tools/call", params, timeout_s, headers)
    content, kind = result.get("content"), result.setdefault("resultType", "complete")
    if kind != "complete":
        raise CliFailed(Exit.TOOL, f"the tool did not complete, and the command line cannot go on with {kind!r}")
    blocks = [_plain(block) for block in content if isinstance(block, dict)] if isinstance(content, list) else []
    return {**_plain(result), "content": blocks, "isError": result.get("isError") is True}


async def _node_argument(client: McpClient, name: str, nodes: str) -> Json:
    """The argument by which a fleet's tool names nodes. Raises `CliFailed`: the tool is of no fleet."""
    tool = next((tool for tool in await _tools(client) if tool.get("name") == name), {})
    origin = listed_origin(tool)
    if origin.get("scope") != ServerScope.FLEET:
        raise CliFailed(Exit.USAGE, f"--node is for tools of a fleet, and {name!r} is none")
    return {str(origin.get("argument", "node")): nodes.split(",") if "," in nodes else nodes}


async def _request(
    client: McpClient, method: str, params: Json, timeout_s: float, headers: Mapping[str, str] | None = None
) -> Json:
    """The result, with Python's numbers. Raises as `McpClient.request`, `CliFailed`."""
    request = Request.within(method, params, timeout_s=timeout_s, headers=headers)
    try:
        result = await client.request(request)
    except (CallNotSent, CallTimedOut) as exc:
        if request.left_s() > 0:
            raise
        raise CliFailed(Exit.TOOL, f"Request {method!r} timed out") from exc
    try:
        own: Json = with_own_numbers(result)
    except (TypeError, ValueError) as exc:
        raise CliFailed(Exit.TOOL, f"the answer to {method!r} cannot be shown: {exc}") from exc
    return own


def _plain(named: Json) -> Json:
    """Without members that are null, which some servers write for what is absent."""
    return {name: value for name, value in named.items() if value is not None}


def _parameters(tool: Json) -> list[str]:
    schema = tool.get("inputSchema")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    required = schema.get("required") if isinstance(schema, dict) else None
    names = list(properties) if isinstance(properties, dict) else []
    return [name if isinstance(required, list) and name in required else f"{name}?" for name in names]


def _typed(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value
    except RecursionError:
        raise CliFailed(Exit.USAGE, "an argument is nested too deeply") from None
