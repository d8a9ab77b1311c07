"""`mesh-agent tools …` and `servers reload`: an MCP client for the terminal, on the client that nodes use.

Called by `agent.cli.parser`, which imports this module only for these commands. The one rule: a tool's own failure
(exit 5) is never confused with a node that cannot be reached (4) or refuses us (3).
"""

import json
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from agent.cli.client import Node, ask, node_of
from agent.cli.lists import listed
from agent.cli.mcp import Json, Talk, talk_with
from agent.cli.output import CliFailed, Exit, did_you_mean, print_json, rows_in
from agent.cli.status import SERVERS_PATH
from agent.cli.table import print_list
from agent.errors import RpcError
from agent.harmless_text import many_lines, one_line
from agent.mcp_headers import param_header_map, param_headers
from agent.rpc_codes import HEADER_MISMATCH, INVALID_PARAMS

CALL_TIMEOUT_MAX_S = 86_400.0  # As `agent.config.values` has it.
_FLEET = "fleet"  # As `agent.model.ServerScope` has it.


def list_tools(args: Namespace) -> int:
    """Print the tools that the node offers, its mesh's tools among them."""
    tools = talk_with(node_of(args), _tools)
    if args.json:
        print_json(tools=[plain(tool) for tool in tools])
        return Exit.OK
    heads, rows = ["NAME", "ARGUMENTS", "DESCRIPTION"], [_row(tool) for tool in tools]
    if args.output == "wide":
        heads, rows = [*heads, "SERVER", "NODE", "HINTS"], [[*_row(tool), *_more_of(tool)] for tool in tools]
    print_list(args.output, heads, rows, empty="no tools")
    return Exit.OK


def call_tool(args: Namespace) -> int:
    """Call a tool and print what it says."""
    arguments = read_arguments(args.args, args.pairs)
    timeout_s = CALL_TIMEOUT_MAX_S if args.timeout is None else min(args.timeout, CALL_TIMEOUT_MAX_S)

    async def call(client: Talk) -> Json:
        named = {} if args.node is None else await _node_argument(client, args.name, args.node)
        return await _call(client, args.name, arguments | named, timeout_s)

    result = talk_with(node_of(args), call)
    _show(args, result)
    return Exit.TOOL if result["isError"] else Exit.OK


def describe_tool(args: Namespace) -> int:
    """Print all that the list says of one tool. Raises `CliFailed`."""
    tools = talk_with(node_of(args), _tools)
    tool = next((tool for tool in tools if tool.get("name") == args.name), None)
    if tool is None:
        raise _unknown_tool(args.name, tools)
    if args.json:
        print_json(tool=plain(tool))
        return Exit.OK
    origin = _origin(tool)
    print(one_line(args.name))
    for label, value in (
        ("title", tool.get("title")),
        (
            "server",
            origin.get("server") and f"{origin['server']}, {origin.get('scope')}, as node {origin.get('node')} has it",
        ),
        ("hints", _hints(tool)),
    ):
        if value:
            print(f"  {label:<7} {one_line(str(value))}")
    print("\n" + many_lines(str(tool.get("description") or "(no description)")))
    for head, key in (("arguments", "inputSchema"), ("result", "outputSchema")):
        if isinstance(schema := tool.get(key), dict):
            print(f"\n{head}:")
            print("\n".join(_described(schema)) or "  none")
    needed = " ".join(f"{name}=…" for name in _required(tool))
    print(f"\nCall it: mesh-agent tools call {one_line(args.name)} {needed}".rstrip())
    return Exit.OK


def reload_servers(args: Namespace) -> int:
    """Reload one server, or all that are enabled; one that does not come back is a tool's failure."""
    name, arguments = ("reload_mcp_server", {"server_name": args.name}) if args.name else ("reload_all_mcp_servers", {})
    result = talk_with(node_of(args), lambda client: _call(client, name, arguments, CALL_TIMEOUT_MAX_S))
    structured = result.get("structuredContent")
    content = structured if isinstance(structured, dict) else {}
    listed_rows = content.get("servers", [content])
    rows = (
        [row for row in listed_rows if isinstance(row, dict) and "message" in row]
        if isinstance(listed_rows, list)
        else []
    )
    if result["isError"] and args.name and not args.json:
        _show(args, result)
        known = [row.get("name") for row in _servers(node_of(args))]
        if args.name not in known and (near := did_you_mean(args.name, known)):
            print(near.removeprefix("; "))
    elif args.json or result["isError"] or not rows:
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
    return {one.get("name"): str(one["last_error"]) for one in _servers(node) if one.get("last_error")}


def _servers(node: Node) -> list[dict[str, Any]]:
    try:
        return rows_in(ask(node, "GET", SERVERS_PATH)[0], "servers")
    except CliFailed:  # They are only to say more of a failure.
        return []


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


async def _tools(client: Talk) -> list[Json]:
    return await listed(client, "tools")


async def _call(client: Talk, name: str, arguments: Json, timeout_s: float) -> Json:
    """Call a tool; returns its result with `content` and `isError` as they should be, whatever its server sent."""
    params = {"name": name, "arguments": arguments}
    try:
        result = await client.request("tools/call", params, timeout_s)
    except RpcError as exc:
        if exc.code == INVALID_PARAMS and exc.message.startswith("Unknown tool"):
            raise _unknown_tool(name, await _tools(client), exc.message) from exc
        if exc.code != HEADER_MISMATCH:
            raise
        # Not executed: the tool's schema wants arguments repeated in headers, and only the list has its schema.
        schema = next((tool.get("inputSchema") for tool in await _tools(client) if tool.get("name") == name), None)
        headers = param_headers(param_header_map(schema), arguments)
        result = await client.request("tools/call", params, timeout_s, headers)
    content, kind = result.get("content"), result.setdefault("resultType", "complete")
    if kind != "complete":
        raise CliFailed(Exit.TOOL, f"the tool did not complete, and the command line cannot go on with {kind!r}")
    blocks = [plain(block) for block in content if isinstance(block, dict)] if isinstance(content, list) else []
    return {**plain(result), "content": blocks, "isError": result.get("isError") is True}


def _unknown_tool(name: str, tools: Sequence[Json], said: str = "") -> CliFailed:
    said = said or f"Unknown tool: {name!r}"
    return CliFailed(Exit.TOOL, said + did_you_mean(name, [tool.get("name") for tool in tools]), error="unknown_tool")


async def _node_argument(client: Talk, name: str, nodes: str) -> Json:
    """The argument by which a fleet's tool names nodes. Raises `CliFailed`: the tool is of no fleet."""
    tool = next((tool for tool in await _tools(client) if tool.get("name") == name), {})
    origin = _origin(tool)
    if origin.get("scope") != _FLEET:
        raise CliFailed(Exit.USAGE, f"--node is for tools of a fleet, and {name!r} is none")
    return {str(origin.get("argument", "node")): nodes.split(",") if "," in nodes else nodes}


def plain(named: Json) -> Json:
    """Without members that are null, which some servers write for what is absent."""
    return {name: value for name, value in named.items() if value is not None}


def _row(tool: Json) -> list[Any]:
    required, properties = _required(tool), _properties(tool.get("inputSchema"))
    shown = ", ".join(name if name in required else f"{name}?" for name in properties)
    return [tool.get("name"), shown, tool.get("description")]


def _more_of(tool: Json) -> list[Any]:
    """What a wide list has beside the columns of any."""
    origin = _origin(tool)
    return [origin.get("server"), origin.get("node"), _hints(tool)]


def _origin(tool: Json) -> Json:
    """As `agent.routing.origins.listed_origin`, without its imports."""
    meta = tool.get("_meta")
    told = meta.get("mesh-agent/origin") if isinstance(meta, dict) else None
    return told if isinstance(told, dict) else {}


def _hints(tool: Json) -> str:
    """What its annotations say it does, in words."""
    told = tool.get("annotations")
    words = {"readOnlyHint": "only reads", "destructiveHint": "may destroy", "idempotentHint": "may be repeated"}
    return ", ".join(word for key, word in words.items() if isinstance(told, dict) and told.get(key) is True)


def _properties(schema: Any) -> Json:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return properties if isinstance(properties, dict) else {}


def _required(tool: Json) -> list[str]:
    schema = tool.get("inputSchema")
    required = schema.get("required") if isinstance(schema, dict) else None
    return [name for name in required if isinstance(name, str)] if isinstance(required, list) else []


def _described(schema: Json) -> list[str]:
    """A line for each property of an object's schema."""
    required = schema.get("required")
    must = required if isinstance(required, list) else []
    lines = []
    for name, one in _properties(schema).items():
        about = one if isinstance(one, dict) else {}
        notes = [_kind(about), *(["required"] if name in must else [])]
        notes += [f"default {json.dumps(about['default'])}"] if about.get("default") is not None else []
        said = f": {about['description']}" if about.get("description") else ""
        lines.append(one_line(f"{name} ({', '.join(notes)}){said}"))
    return [f"  {line}" for line in lines]


def _kind(schema: Json) -> str:
    """The type of a value, or the values that there are."""
    if isinstance(values := schema.get("enum"), list):
        return "one of " + ", ".join(json.dumps(value) for value in values)
    kind = schema.get("type")
    if isinstance(kind, list):
        return " or ".join(map(str, kind))
    either = schema.get("anyOf") or schema.get("oneOf")
    if kind is None and isinstance(either, list):
        return " or ".join(_kind(one) for one in either if isinstance(one, dict))
    return str(kind or "anything")


def _typed(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value
    except RecursionError:
        raise CliFailed(Exit.USAGE, "an argument is nested too deeply") from None
