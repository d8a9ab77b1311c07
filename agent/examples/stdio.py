"""A small MCP server over stdin and stdout, on the standard library alone, for the three examples beside it.

Speaks the handshake era of MCP (`initialize`, 2025-11-25 and two before), which every client and the mesh understand.
Hand-written because the examples must be there at once: importing an MCP SDK takes about a second, this 40 ms. Write
your own servers with an SDK. The one rule: a request gets exactly one answer, and nothing else is written to stdout.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26")
METHOD_NOT_FOUND, INVALID_PARAMS, PARSE_ERROR, RESOURCE_NOT_FOUND = -32601, -32602, -32700, -32002
_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


class Refused(Exception):
    """A tool's arguments make no sense; the text is for the caller."""


class RpcFault(Exception):
    """A request that cannot be answered; becomes a JSON-RPC error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Tool:
    """A function that takes keyword arguments and returns a JSON object."""

    run: Callable[..., dict[str, Any]]
    schema: dict[str, Any]
    about: str
    read_only: bool = True


@dataclass
class Server:
    """What one example offers. `read` maps a URI to text, or raises KeyError; it serves resources and templates."""

    name: str
    tools: dict[str, Tool] = field(default_factory=dict)
    resources: list[dict[str, Any]] = field(default_factory=list)
    templates: list[dict[str, Any]] = field(default_factory=list)
    prompts: dict[str, tuple[dict[str, Any], Callable[..., str]]] = field(default_factory=dict)
    read: Callable[[str], str] | None = None

    def answer(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the result of one request. Raises `RpcFault`."""
        answers: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            "initialize": self._initialize,
            "ping": lambda _: {},
            "tools/list": lambda _: {"tools": [_tool_entry(name, tool) for name, tool in self.tools.items()]},
            "tools/call": self._call,
            "resources/list": lambda _: {"resources": self.resources},
            "resources/templates/list": lambda _: {"resourceTemplates": self.templates},
            "resources/read": self._read,
            "prompts/list": lambda _: {
                "prompts": [{"name": name, **about} for name, (about, _) in self.prompts.items()]
            },
            "prompts/get": self._prompt,
        }
        if method not in answers:
            raise RpcFault(METHOD_NOT_FOUND, f"unknown method {method!r}")
        return answers[method](params)

    def _initialize(self, params: Mapping[str, Any]) -> dict[str, Any]:
        wanted = params.get("protocolVersion")
        capabilities: dict[str, Any] = {"tools": {}}
        if self.read is not None:
            capabilities["resources"] = {}
        if self.prompts:
            capabilities["prompts"] = {}
        return {
            "protocolVersion": wanted if wanted in VERSIONS else VERSIONS[0],
            "capabilities": capabilities,
            "serverInfo": {"name": self.name, "version": "1.0.0"},
        }

    def _call(self, params: Mapping[str, Any]) -> dict[str, Any]:
        tool = self.tools.get(str(params.get("name")))
        if tool is None:
            raise RpcFault(INVALID_PARAMS, f"unknown tool {params.get('name')!r}")
        try:
            result = tool.run(**_checked(tool.schema, params.get("arguments") or {}))
        except Refused as exc:
            return {"content": [{"type": "text", "text": str(exc)}], "isError": True}
        text = json.dumps(result, ensure_ascii=False)
        return {"content": [{"type": "text", "text": text}], "structuredContent": result}

    def _read(self, params: Mapping[str, Any]) -> dict[str, Any]:
        uri = str(params.get("uri"))
        if self.read is None:
            raise RpcFault(METHOD_NOT_FOUND, "this server has no resources")
        try:
            text = self.read(uri)
        except KeyError:
            raise RpcFault(RESOURCE_NOT_FOUND, f"no resource {uri!r}") from None
        return {"contents": [{"uri": uri, "mimeType": "text/plain", "text": text}]}

    def _prompt(self, params: Mapping[str, Any]) -> dict[str, Any]:
        name = str(params.get("name"))
        if name not in self.prompts:
            raise RpcFault(INVALID_PARAMS, f"unknown prompt {name!r}")
        entry, write = self.prompts[name]
        given = params.get("arguments") or {}
        known = {
            argument["name"]: given[argument["name"]] for argument in entry["arguments"] if argument["name"] in given
        }
        if missing := [one["name"] for one in entry["arguments"] if one.get("required") and one["name"] not in known]:
            raise RpcFault(INVALID_PARAMS, f"missing argument {missing[0]!r}")
        return {"messages": [{"role": "user", "content": {"type": "text", "text": write(**known)}}]}


def schema_of(required: Mapping[str, type], optional: Mapping[str, type] | None = None) -> dict[str, Any]:
    """Make the JSON schema of a tool's arguments from their Python types."""
    types = {**required, **(optional or {})}
    properties = {name: {"type": _TYPES[kind]} for name, kind in types.items()}
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def serve(server: Server, source: TextIO | None = None, sink: TextIO | None = None) -> None:
    """Answer requests, one JSON object a line, until the input ends."""
    out = sys.stdout if sink is None else sink
    for line in sys.stdin if source is None else source:
        if line.strip() and (reply := reply_to(server, line)) is not None:
            out.write(json.dumps(reply, ensure_ascii=False) + "\n")
            out.flush()


def reply_to(server: Server, line: str) -> dict[str, Any] | None:
    """Answer one line; None for a notification or an answer, which get no reply."""
    try:
        message = json.loads(line)
    except ValueError:
        return _error(None, PARSE_ERROR, "not JSON")
    if not isinstance(message, dict) or "id" not in message or "method" not in message:
        return None
    params = message.get("params")
    try:
        result = server.answer(str(message["method"]), params if isinstance(params, dict) else {})
    except RpcFault as fault:
        return _error(message["id"], fault.code, str(fault))
    return {"jsonrpc": "2.0", "id": message["id"], "result": result}


def _tool_entry(name: str, tool: Tool) -> dict[str, Any]:
    annotations = {"readOnlyHint": tool.read_only}
    return {"name": name, "description": tool.about, "inputSchema": tool.schema, "annotations": annotations}


def _checked(schema: Mapping[str, Any], given: Any) -> dict[str, Any]:
    """Hold arguments to the few schema words that `schema_of` uses."""
    if not isinstance(given, dict):
        raise Refused("arguments must be an object")
    for name in schema["required"]:
        if name not in given:
            raise Refused(f"missing argument {name!r}")
    for name, value in given.items():
        wanted = schema["properties"].get(name)
        if wanted is None:
            raise Refused(f"unknown argument {name!r}")
        if not _fits(value, wanted["type"]):
            raise Refused(f"{name} must be of type {wanted['type']}")
    return given


def _fits(value: Any, kind: str) -> bool:
    match value:
        case bool():
            return kind == "boolean"
        case int():
            return kind in {"integer", "number"}
        case float():
            return kind == "number"
        case _:
            return isinstance(value, str) and kind == "string"


def _error(request_id: Any, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message}}
