"""Stateless requests of every kind, regular and not, and what a client gets for each, without what differs every time.

The answers that are expected stand in expected_stateless_answers.json, made once from FastMCP's own application. The
one rule: a request that is not here was never compared with what the SDK answers.
"""

import io
import json
import re
from pathlib import Path
from typing import Any, Final

import aiohttp
from multidict import CIMultiDict

from agent.client.http.sse import SseParser
from agent.identity.node_key import NodeKey
from agent.model import Json

EXPECTED: Final = Path(__file__).with_name("expected_stateless_answers.json")
VERSION: Final = "2026-07-28"
FUTURE: Final = "2027-01-01"
PREFIX: Final = "io.modelcontextprotocol/"
ENVELOPE: Final[Json] = {
    f"{PREFIX}protocolVersion": VERSION,
    f"{PREFIX}clientInfo": {"name": "test", "version": "1"},
    f"{PREFIX}clientCapabilities": {},
}
TAKES_TASKS: Final[Json] = {f"{PREFIX}clientCapabilities": {"extensions": {f"{PREFIX}tasks": {}}}}
BOTH: Final = "application/json, text/event-stream"
KEY: Final = NodeKey(bytes(32))

# HTTP method, headers, body as JSON or as it stands.
Sent = tuple[str, list[tuple[str, str]], Any]

# What no two nodes say alike, and what changes with a version of a library.
_VOLATILE: Final = re.compile(r'(?<="uptime_s":)\s*[0-9.]+|(?<=errors\.pydantic\.dev/)[0-9.]+')


def request(method: str, params: Any = None, **more: Any) -> Json:
    """A regular request of the stateless era; `params` that are an object get the envelope."""
    message: Json = {"jsonrpc": "2.0", "id": 1, "method": method} | more
    if isinstance(params, dict):
        params = {**params, "_meta": {**ENVELOPE, **params.get("_meta", {})}}
    if params is not None:
        message["params"] = params
    return message


def headers(method: str, name: str | None = None, **more: str) -> list[tuple[str, str]]:
    """The headers of such a request; of `more`, underscores stand for hyphens."""
    found = {"Accept": BOTH, "MCP-Protocol-Version": VERSION, "Mcp-Method": method}
    if name is not None:
        found["Mcp-Name"] = name
    found |= {key.replace("_", "-"): value for key, value in more.items()}
    return list(found.items())


def post(method: str, params: Any = None, name: str | None = None, **more: Any) -> Sent:
    """A regular request; `name` is for its header, `more` for its message."""
    return "POST", headers(method, name), request(method, {} if params is None else params, **more)


def call(name: str, arguments: Any = None, **more: Any) -> Sent:
    """A call of a tool; `more` for its params."""
    params = {"name": name, **more} | ({} if arguments is None else {"arguments": arguments})
    return post("tools/call", params, name)


def listen(wanted: Any, **more: Any) -> Sent:
    """A request for notifications; `more` for its params."""
    return post("subscriptions/listen", {"notifications": wanted, **more})


def bare(body: Any, method: str = "prompts/list", **more: str) -> Sent:
    """A body as it stands, under regular headers."""
    return "POST", headers(method, **more), body


_LIST: Final = request("prompts/list", {})
_ECHO: Final[Json] = {"name": "kit__echo", "arguments": {"text": "hi"}}

LISTS: Final[dict[str, Sent]] = {
    "tools": post("tools/list"),
    "prompts": post("prompts/list"),
    "resources": post("resources/list"),
    "templates": post("resources/templates/list"),
    "an unknown cursor": post("tools/list", {"cursor": "2"}),
    "a cursor that is a number": post("tools/list", {"cursor": 2}),
    "a list with a bad client info": post("prompts/list", {"_meta": {f"{PREFIX}clientInfo": "x"}}),
    "a list in search mode": ("POST", headers("tools/list", Mesh_Tools="search"), request("tools/list", {})),
}

ROUTED: Final[dict[str, Sent]] = {
    "a call": call("kit__echo", {"text": "hi"}),
    "a call with a text for an id": (
        "POST",
        headers("tools/call", "kit__echo"),
        request("tools/call", _ECHO, id="x-1"),
    ),
    "a call with an id beyond 64 bits": (
        "POST",
        headers("tools/call", "kit__echo"),
        request("tools/call", _ECHO, id=10**25),
    ),
    "a call with an empty id": ("POST", headers("tools/call", "kit__echo"), request("tools/call", _ECHO, id="")),
    "a call through call_tool": call("call_tool", {"name": "kit__echo", "arguments": {"text": "hi"}}),
    "a call of nothing through call_tool": call("call_tool", {}),
    "a call of call_tool through call_tool": call("call_tool", {"name": "call_tool"}),
    "a call of an unknown tool through call_tool": call("call_tool", {"name": "kit__no"}),
    "a call with bad arguments through call_tool": call("call_tool", {"name": "kit__echo", "arguments": [1]}),
    "a tool that fails": call("kit__echo", {"wrong": 1}),
    "a call that tells progress": call("kit__count", {"to": 2}, _meta={"progressToken": "mine"}),
    "a call that may tell progress and is not asked to": call("kit__count", {"to": 2}),
    "a prompt": post("prompts/get", {"name": "kit__greet", "arguments": {"who": "you"}}, "kit__greet"),
    "a resource": post("resources/read", {"uri": "kit://kit/home"}, "kit://kit/home"),
    "an unknown tool": call("kit__no"),
    "an unknown prompt": post("prompts/get", {"name": "kit__no"}, "kit__no"),
    "an unknown resource": post("resources/read", {"uri": "a://b/c"}, "a://b/c"),
    "no name": post("tools/call", {"arguments": {}}),
    "a name of another type": post("tools/call", {"name": 7}, "7"),
    "arguments that are a list": call("kit__echo", []),
    "arguments that are null": post("tools/call", {"name": "kit__echo", "arguments": None}, "kit__echo"),
    "a completion of an unknown prompt": post(
        "completion/complete", {"ref": {"type": "ref/prompt", "name": "no"}, "argument": {"name": "a", "value": ""}}
    ),
    "a completion of nothing": post("completion/complete"),
    "a completion by a server that completes nothing": post(
        "completion/complete",
        {"ref": {"type": "ref/prompt", "name": "kit__greet"}, "argument": {"name": "who", "value": "x"}},
    ),
    "a header that repeats an argument": (
        "POST",
        headers("tools/call", "kit__where", Mcp_Param_Region="eu"),
        request("tools/call", {"name": "kit__where", "arguments": {"region": "eu"}}),
    ),
    "a header that contradicts an argument": (
        "POST",
        headers("tools/call", "kit__where", Mcp_Param_Region="us"),
        request("tools/call", {"name": "kit__where", "arguments": {"region": "eu"}}),
    ),
    "an argument without its header": call("kit__where", {"region": "eu"}),
    "a header without its argument": (
        "POST",
        headers("tools/call", "kit__where", Mcp_Param_Region="us"),
        request("tools/call", {"name": "kit__where", "arguments": {}}),
    ),
    "a doubled header that repeats an argument": (
        "POST",
        [*headers("tools/call", "kit__where", Mcp_Param_Region="eu"), ("Mcp-Param-Region", "eu")],
        request("tools/call", {"name": "kit__where", "arguments": {"region": "eu"}}),
    ),
    "a header that repeats no argument": (
        "POST",
        headers("tools/call", "kit__echo", Mcp_Param_Region="eu"),
        request("tools/call", _ECHO),
    ),
    "a doubled header that repeats no argument": (
        "POST",
        [*headers("tools/call", "kit__echo", Mcp_Param_Region="eu"), ("Mcp-Param-Region", "eu")],
        request("tools/call", _ECHO),
    ),
    "a name in base64": (
        "POST",
        headers("tools/call", "=?base64?a2l0X19lY2hv?="),
        request("tools/call", _ECHO),
    ),
}

OWN: Final[dict[str, Sent]] = {
    "our own tool": call("get_available_mcp_servers", {}),
    "our own tool without arguments": call("get_available_mcp_servers"),
    "our own tool with an argument": call("get_mcp_server_functions", {"server_name": "kit"}),
    "our own tool without its argument": call("get_mcp_server_functions", {}),
    "our own tool with an argument of another type": call("get_mcp_server_functions", {"server_name": 7}),
    "our own tool with one argument too many": call("get_available_mcp_servers", {"more": 1}),
    "our own tool with arguments that are a list": call("get_available_mcp_servers", [1]),
    "our own tool about an unknown server": call("get_mcp_server_functions", {"server_name": "nobody"}),
    "our own tool about an unknown node": call("list_mcp_servers", {"node": "nobody"}),
    "our own tool with a number beyond 64 bits": call("get_mcp_server_functions", {"server_name": 10**30}),
    "our own tool as a task": call("get_available_mcp_servers", {}, task={"ttl": 60000}),
    "our own tool of a client that takes tasks": call("get_available_mcp_servers", {}, _meta=TAKES_TASKS),
    "our own tool with a progress token": call("get_available_mcp_servers", {}, _meta={"progressToken": 1}),
    "our own tool with an unknown state": call("get_available_mcp_servers", {}, requestState="x"),
    "our own tool with a state of another type": call("get_available_mcp_servers", {}, requestState=1),
    "our own tool with a null state": call("get_available_mcp_servers", {}, requestState=None),
    "our own tool with answers to no questions": call("get_available_mcp_servers", {}, inputResponses={}),
    "our own tool with a bad client info": call("get_available_mcp_servers", {}, _meta={f"{PREFIX}clientInfo": "x"}),
    "our own tool with bad capabilities": call(
        "get_available_mcp_servers", {}, _meta={f"{PREFIX}clientCapabilities": 7}
    ),
    "our own tool with a bad log level": call("get_available_mcp_servers", {}, _meta={f"{PREFIX}logLevel": "loud"}),
    "our own tool under another name in the header": (
        "POST",
        headers("tools/call", "list_mcp_servers"),
        request("tools/call", {"name": "get_available_mcp_servers"}),
    ),
    "our own resource": post("resources/read", {"uri": "health://system"}, "health://system"),
    "our own configuration": post("resources/read", {"uri": "config://app"}, "config://app"),
    "an unknown resource under our own scheme": post("resources/read", {"uri": "health://x"}, "health://x"),
    "our own resource with an unknown state": post(
        "resources/read", {"uri": "config://app", "requestState": "x"}, "config://app"
    ),
    "a search": call("search_tools", {"query": "echo"}),
    "a search without a query": call("search_tools", {}),
    "a search with a limit beyond its bounds": call("search_tools", {"query": "", "limit": 1000}),
    "a description of a tool": call("describe_tool", {"name": "kit__echo"}),
    "a description of our own tool": call("describe_tool", {"name": "list_mcp_servers"}),
    "a description of no tool": call("describe_tool", {"name": "kit__no"}),
}

METHODS: Final[dict[str, Sent]] = {
    "a discovery": post("server/discover"),
    "a discovery with a bad client info": post("server/discover", {"_meta": {f"{PREFIX}clientInfo": "x"}}),
    "a discovery without client info": bare(
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "server/discover",
            "params": {"_meta": {key: ENVELOPE[key] for key in ENVELOPE if not key.endswith("clientInfo")}},
        },
        "server/discover",
    ),
    "an unknown method": post("tools/nothing"),
    "a method without a name": post(""),
    "a ping": post("ping"),
    "an initialize": post(
        "initialize",
        {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
    ),
    "a log level": post("logging/setLevel", {"level": "info"}),
    "a subscription of old": post("resources/subscribe", {"uri": "kit://kit/home"}),
    "an unsubscription of old": post("resources/unsubscribe", {"uri": "kit://kit/home"}),
    "a list of tasks of old": post("tasks/list"),
    "a result of a task of old": post("tasks/result", {"taskId": "1"}),
    "roots, which clients list": post("roots/list"),
    "an unknown task": post("tasks/get", {"taskId": "1", "_meta": TAKES_TASKS}, "1"),
    "a task that is gone": post("tasks/get", {"taskId": "mesh1/peer/x/1", "_meta": TAKES_TASKS}, "mesh1/peer/x/1"),
    "another task in the header": post(
        "tasks/get", {"taskId": "mesh1/peer/x/2", "_meta": TAKES_TASKS}, "mesh1/peer/x/1"
    ),
    "no task": post("tasks/cancel", {"_meta": TAKES_TASKS}),
    "a task of a client that takes none": post("tasks/update", {"taskId": "1"}, "1"),
    "an event of a client to no server": post("mesh/nothing"),
}

LISTENING: Final[dict[str, Sent]] = {
    "listening to a list": listen({"toolsListChanged": True}),
    "listening to all lists": listen(
        {"toolsListChanged": True, "promptsListChanged": True, "resourcesListChanged": True}
    ),
    "listening to a list or not": listen({"toolsListChanged": False, "promptsListChanged": None}),
    "listening to nothing": listen({}),
    "listening under a text for an id": (
        "POST",
        headers("subscriptions/listen"),
        request("subscriptions/listen", {"notifications": {"toolsListChanged": True}}, id="x-1"),
    ),
    "listening to an unknown kind": listen({"dreamsListChanged": True}),
    "listening to our own resource": listen({"resourceSubscriptions": ["health://system"]}),
    "listening to an unknown resource": listen({"resourceSubscriptions": ["a://b/c"]}),
    "listening to a resource that tells nothing": listen({"resourceSubscriptions": ["kit://kit/home"]}),
    "listening to a number": listen({"resourceSubscriptions": [1]}),
    "listening to a text": listen({"resourceSubscriptions": "a://b/c"}),
    "listening to too many": listen({"resourceSubscriptions": [f"a://b/{number}" for number in range(20_000)]}),
    "listening to a task without the extension": listen({"taskIds": ["1"]}),
    "listening to an unknown task": listen({"taskIds": ["1"]}, _meta=TAKES_TASKS),
    "listening to a task that is a number": listen({"taskIds": [1]}, _meta=TAKES_TASKS),
    "listening to a kind that is a text": listen({"toolsListChanged": "sometimes"}),
    "listening to what is no object": listen([1]),
    "listening without a filter": post("subscriptions/listen"),
    "listening with a bad client info": listen({"toolsListChanged": True}, _meta={f"{PREFIX}clientInfo": "x"}),
    "listening without events": (
        "POST",
        headers("subscriptions/listen", Accept="application/json"),
        request("subscriptions/listen", {"notifications": {}}),
    ),
}

SHAPES: Final[dict[str, Sent]] = {
    "another name in the header": ("POST", headers("tools/call", "kit__fill"), request("tools/call", _ECHO)),
    "no name in the header": ("POST", headers("tools/call"), request("tools/call", _ECHO)),
    "a name in broken base64": (
        "POST",
        headers("tools/call", "=?base64?kit?="),
        request("tools/call", _ECHO),
    ),
    "another method in the header": ("POST", headers("prompts/list"), request("tools/call", _ECHO)),
    "no method in the header": ("POST", headers("prompts/list")[:-1], _LIST),
    "another version in the header": bare(_LIST, MCP_Protocol_Version=FUTURE),
    "a version from the future": bare(
        request("prompts/list", {"_meta": {f"{PREFIX}protocolVersion": FUTURE}}), MCP_Protocol_Version=FUTURE
    ),
    "a version that is a number": bare(request("prompts/list", {"_meta": {f"{PREFIX}protocolVersion": 1}})),
    "no envelope": bare({"jsonrpc": "2.0", "id": 1, "method": "prompts/list", "params": {}}),
    "half an envelope": bare(
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "prompts/list",
            "params": {"_meta": {f"{PREFIX}protocolVersion": VERSION}},
        }
    ),
    "an envelope of nonsense": bare({"jsonrpc": "2.0", "id": 1, "method": "prompts/list", "params": {"_meta": "x"}}),
    "no params": bare(request("prompts/list")),
    "null params": bare({"jsonrpc": "2.0", "id": 1, "method": "prompts/list", "params": None}),
    "params that are a list": bare(request("prompts/list", [1])),
    "a null id": bare(request("prompts/list", {}, id=None)),
    "a fractional id": bare(request("prompts/list", {}, id=1.5)),
    "a whole number as a fraction for an id": bare(request("prompts/list", {}, id=1.0)),
    "a true id": bare(request("prompts/list", {}, id=True)),
    "an id that is an object": bare(request("prompts/list", {}, id={})),
    "no method": bare({"jsonrpc": "2.0", "id": 1, "params": {}}),
    "a method that is a number": bare({**_LIST, "method": 7}),
    "another JSON-RPC": bare(request("prompts/list", {}, jsonrpc="1.0")),
    "no JSON-RPC": bare({"id": 1, "method": "prompts/list", "params": {"_meta": ENVELOPE}}),
    "a posted result": bare({"jsonrpc": "2.0", "id": 1, "result": {}}),
    "a posted error": bare({"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "no"}}),
    "an unknown member": bare(request("prompts/list", {}, more=1)),
    "a batch": bare([_LIST]),
    "an empty batch": bare([]),
    "a text": bare("prompts/list"),
    "null": bare(b"null"),
    "no JSON": bare(b"{"),
    "two messages": bare(json.dumps(_LIST).encode() * 2),
    "a number that is none": bare(b'{"jsonrpc":"2.0","id":NaN,"method":"prompts/list"}'),
    "an empty body": bare(b""),
    "a text that UTF-8 cannot carry": bare(b'{"jsonrpc":"2.0","id":1,"method":"\xff"}'),
    "a very deep body": bare(b"[" * 5000 + b"]" * 5000),
    "a doubled method": ("POST", [*headers("prompts/list"), ("Mcp-Method", "prompts/list")], _LIST),
    "a doubled version": ("POST", [*headers("prompts/list"), ("MCP-Protocol-Version", VERSION)], _LIST),
    "a doubled name": (
        "POST",
        [*headers("tools/call", "kit__echo"), ("Mcp-Name", "kit__echo")],
        request("tools/call", _ECHO),
    ),
    "a doubled method without an envelope": (
        "POST",
        [*headers("prompts/list"), ("Mcp-Method", "prompts/list")],
        {"jsonrpc": "2.0", "id": 1, "method": "prompts/list"},
    ),
}

NOTES: Final[dict[str, Sent]] = {
    "a notification": bare({"jsonrpc": "2.0", "method": "notifications/initialized"}, "notifications/initialized"),
    "a cancellation": bare(
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}, "notifications/cancelled"
    ),
    "an unknown notification": bare({"jsonrpc": "2.0", "method": "notifications/dreams"}, "x"),
    "a notification without a header of its method": (
        "POST",
        headers("x")[:-1],
        {"jsonrpc": "2.0", "method": "notifications/cancelled"},
    ),
    "a notification with params that are a list": bare(
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": [1]}
    ),
    "a notification of another JSON-RPC": bare({"jsonrpc": "1.0", "method": "notifications/cancelled"}),
    "a notification without a method": bare({"jsonrpc": "2.0"}),
    "a notification of a version from the future": bare(
        {"jsonrpc": "2.0", "method": "notifications/cancelled"}, MCP_Protocol_Version=FUTURE
    ),
    "a request without an id": bare({"jsonrpc": "2.0", "method": "prompts/list", "params": {"_meta": ENVELOPE}}),
}

HTTP: Final[dict[str, Sent]] = {
    "GET": ("GET", headers("prompts/list"), b""),
    "GET for events": ("GET", headers("prompts/list", Accept="text/event-stream"), b""),
    "DELETE": ("DELETE", headers("prompts/list"), b""),
    "PUT": ("PUT", headers("prompts/list"), _LIST),
    "HEAD": ("HEAD", headers("prompts/list"), b""),
    "OPTIONS": ("OPTIONS", headers("prompts/list"), b""),
    "PATCH": ("PATCH", headers("prompts/list"), _LIST),
    "only JSON accepted": bare(_LIST, Accept="application/json"),
    "only events accepted": bare(_LIST, Accept="text/event-stream"),
    "everything accepted": bare(_LIST, Accept="*/*"),
    "kinds accepted": bare(_LIST, Accept="application/*, text/*"),
    "accepted with weights": bare(_LIST, Accept="application/json;q=0.9, Text/Event-Stream; q=0.1"),
    "nothing acceptable": bare(_LIST, Accept="image/png"),
    "nothing accepted": bare(_LIST, Accept=""),
    "a wrong content type": bare(_LIST, Content_Type="text/plain"),
    "a content type with a character set": bare(_LIST, Content_Type="application/json; charset=utf-8"),
    "a content type in capitals": bare(_LIST, Content_Type="Application/JSON"),
    "a content type that only begins alike": bare(_LIST, Content_Type="application/json-seq"),
    "a wrong content type and nothing acceptable": bare(_LIST, Content_Type="text/plain", Accept="image/png"),
    "nothing acceptable and no JSON": bare(b"{", Accept="image/png"),
    "a session": bare(_LIST, Mcp_Session_Id="x"),
    "a body of 5 MiB": bare(b" " * (5 << 20)),
    "a note of 5 MiB": bare(b" " * (5 << 20), "notifications/initialized"),
}

ALL: Final[dict[str, Sent]] = LISTS | ROUTED | OWN | METHODS | LISTENING | SHAPES | NOTES | HTTP


async def answer(http: aiohttp.ClientSession, url: str, sent: Sent) -> Json:
    """What a client gets: status, content type and messages; of a stream of notifications, what it begins with."""
    method, sent_headers, body = sent
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    if method == "POST" and "Content-Type" not in dict(sent_headers):
        sent_headers = [*sent_headers, ("Content-Type", "application/json")]
    async with http.request(
        method, url, data=io.BytesIO(data) if data else None, headers=CIMultiDict(sent_headers)
    ) as response:
        got: Json = {"status": response.status, "type": response.headers.get("Content-Type")}
        if "Allow" in response.headers:
            got["allow"] = response.headers["Allow"]
        if response.content_type == "text/event-stream":
            parser, events = SseParser(1 << 20), list[bytes]()
            only_begins = dict(sent_headers).get("Mcp-Method") == "subscriptions/listen"
            async for chunk in response.content.iter_any():
                events += parser.feed(chunk)
                if events and only_begins:
                    break
            return got | {"events": [_steady(event.decode()) for event in events]}
        text = (await response.read()).decode()
        if response.content_type == "application/json" and text:
            return got | {"message": _steady(text)}
        return got | ({"text": text} if text else {})


def _steady(text: str) -> Any:
    return json.loads(text, object_hook=_without_volatile)


def _without_volatile(value: Json) -> Json:
    if value.keys() == {"name", "version"}:  # A serverInfo.
        return {"name": value["name"]}
    return {key: _VOLATILE.sub("0", part) if isinstance(part, str) else part for key, part in value.items()}
