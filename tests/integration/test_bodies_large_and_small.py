"""A body is answered alike below and above the limit from which most of it stays unread, on every way through a node.

The one rule: what is compared is all that a client and a server see: status, error, the server's params and the headers
that repeat arguments; only where the whole body is read a server gets numbers and texts written anew.
"""

import io
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from agent.lossless_json import unread
from agent.lossless_json.exact import read_json
from agent.model import Era, HttpTarget, Json, ServerScope, ServerSpec
from tests.integration.servers.hosting import Seen, rpc_error, rpc_result, scripted
from tests.integration.servers.nodes import RunningNode, catalog, instance, running_node
from tests.integration.servers.raw_session import ACCEPT, initialize_request
from tests.integration.stateless_requests import ENVELOPE, headers
from tests.integration.test_param_headers import PROPERTIES

# A minute at a tenth of a core.
pytestmark = pytest.mark.timeout(180)

VERSION = "2025-11-25"
TOOLS: Json = {"take": {"type": "object"}, "headed": {"type": "object", "properties": PROPERTIES}}
SPACES = b" " * 300_000
ONLY_ENVELOPE = orjson.dumps(ENVELOPE)[1:-1]
# Where spaces make a body large: before all, among its params, and in its arguments.
AT = b"<spaces>"


@dataclass
class Scene:
    """A client of a node that has a server, and one of a fleet on two nodes; and what these were asked."""

    http: aiohttp.ClientSession
    url: str
    told: dict[str, str]
    era: Era
    node: RunningNode
    seen: list[Seen] = field(default_factory=list)

    def request(self, name: str, params: bytes, method: str, **more: str) -> tuple[bytes, dict[str, str]]:
        """A request with these members of params, and its headers."""
        told = self.told
        if self.era is Era.MODERN:
            told = dict(headers(method, name or None)) | more
            if b"_meta" not in params:
                params += b',"_meta":{%s}' % ONLY_ENVELOPE
        before = b"" if AT in params else AT
        body = b'%s{"jsonrpc":"2.0","id":1,"method":"%s","params":{%s}}' % (before, method.encode(), params)
        return body, {**told, "Content-Type": "application/json"}

    async def answer(self, body: bytes, told: dict[str, str]) -> Any:
        """The status, the answer, what the server was asked, and with which headers."""
        self.seen.clear()
        async with self.http.post(self.url, data=io.BytesIO(body), headers=told) as response:
            text, status = await response.read(), response.status
        answered = orjson.loads(text if text.startswith(b"{") else text.rpartition(b"data: ")[2])
        if isinstance(said := answered.get("error", {}).get("message"), str):
            answered["error"]["message"] = "Parse error" if said.startswith("Parse error: ") else said
        asked = []
        for seen in self.seen:
            params = read_json(seen.raw)["params"]
            asked.append((as_written(params), sorted(one for one in seen.headers.items() if one[0].startswith("mcp-"))))
        return status, as_written(answered), asked


def as_written(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


@asynccontextmanager
async def scene(era: Era, folder: Path) -> AsyncIterator[Scene]:
    calls: list[Seen] = []

    async def answer(request: Seen) -> tuple[bytes, bool]:
        match request.body.get("method"):
            case "server/discover":
                capabilities = {"tools": {}, "prompts": {}, "resources": {}, "completions": {}}
                result = {"supportedVersions": ["2026-07-28"], "capabilities": capabilities, "resultType": "complete"}
                return rpc_result(request, result), True
            case "tools/list":
                hint = {"readOnlyHint": True}
                tools = [{"name": name, "inputSchema": schema, "annotations": hint} for name, schema in TOOLS.items()]
                return rpc_result(request, {"tools": tools}), True
            case "prompts/list":
                return rpc_result(request, {"prompts": [{"name": "ask"}]}), True
            case "resources/list":
                return rpc_result(request, {"resources": [{"uri": "a://b", "name": "b"}]}), True
            case "tools/call" | "prompts/get" | "resources/read" | "completion/complete":
                calls.append(request)
                return rpc_result(request, {"content": [], "messages": [], "contents": [], "completion": {}}), True
            case _:
                return rpc_error(request, 404, -32601, "Method not found"), True

    async with scripted(answer) as script, scripted(answer) as other:
        kit = ServerSpec("kit", HttpTarget(script.url), ServerScope.SERVICE)
        disks = [ServerSpec("disk", HttpTarget(one.url), ServerScope.FLEET) for one in (script, other)]
        async with (
            running_node("n0", folder / "n0", servers=[kit, disks[0]], search_mode=False) as node,
            running_node("n1", folder / "n1", servers=[disks[1]]) as second,
            aiohttp.ClientSession(headers=ACCEPT) as http,
        ):
            await node.connected("kit")
            await node.connected("disk")
            await second.connected("disk")
            node.mesh.take_catalog(catalog(instance(second)))
            await node.when(lambda: "disk__take" in node.mesh.routes.tools and _members(node) == ["n0", "n1"])
            told: dict[str, str] = {}
            if era is Era.LEGACY:
                async with http.post(node.url, json=initialize_request(VERSION)) as response:
                    told = {"Mcp-Session-Id": response.headers["Mcp-Session-Id"], "MCP-Protocol-Version": VERSION}
            yield Scene(http, node.url, told, era, node, calls)


def _members(node: RunningNode) -> list[str]:
    fleet = node.mesh.routes.tools["disk__take"].fleet
    return [] if fleet is None else sorted(fleet.members)


ODD = (
    b'"a" : 1.50,"b":12345678901234567890123,"c":1e400,"d":-0.0,"e":"\\u00e9 \\ud83d\\ude00 \\ud83d \\u0000",'
    b'"f":[{},[],null,{"g":{"g":1,"g":2}}],"":{"":[]},"a":2,"big":%s,"x\\ud83d\\ude00":9e15' % (b"7" * 400)
)
INNER = b'"n":1,"inner":{"m":5,"k":[%s],"m":8},"s":"x\\u00e9","n":7' % (b'{"n":9},' * 3 + b"1")
CASES: dict[str, tuple[str, bytes]] = {
    "plain": ("kit__take", b'"name":"kit__take","arguments":{%s<spaces>}' % ODD),
    "plain, before all": ("kit__take", b'"name":"kit__take","arguments":{%s}' % ODD),
    "others beside": ("kit__take", b'%s,"name":"kit__take",<spaces>"arguments":{},"z":{"arguments":1}' % ODD),
    "members twice": (
        "kit__take",
        b'"name":"x","arguments":{"a":1},"n\\u0061me":"kit__take","arguments":{"b":2}<spaces>',
    ),
    "a token": ("kit__take", b'"_meta":{"progressToken":1e400,%s,"x/y":[1.50]},"name":"kit__take"'),
    "a token twice": ("kit__take", b'"_meta":{"progressToken":1,"progressToken":"a",%s},"name":"kit__take"'),
    "no arguments": ("kit__take", b'"name":"kit__take"'),
    "null": ("kit__take", b'"name":"kit__take","arguments":null'),
    "a list": ("kit__take", b'"name":"kit__take","arguments":[<spaces>]'),
    "a text": ("kit__take", b'"name":"kit__take","arguments":"{}"'),
    "a name of another type": ("kit__take", b'"name":["kit__take"],"arguments":{}'),
    "no name": ("kit__take", b'"arguments":{<spaces>}'),
    "an unknown name": ("kit__none", b'"name":"kit__none","arguments":{<spaces>}'),
    "half a name": ("kit__take", b'"name":"kit\\ud83d","arguments":{<spaces>}'),
    "half a pair in a name": ("kit__take", b'"name":"kit__take","arguments":{"\\ud83d":1<spaces>}'),
    "half a pair beside": ("kit__take", b'"name":"kit__take","arguments":{},"z":["\\ud83d",1]'),
    "a state": ("kit__take", b'"name":"kit__take","arguments":{},"requestState":"x"'),
    "answers": ("kit__take", b'"name":"kit__take","arguments":{},"inputResponses":{"a":{"b":1.50}}'),
    "a task": ("kit__take", b'"name":"kit__take","arguments":{},"task":{"ttl":1}'),
    "no task": ("kit__take", b'"name":"kit__take","arguments":{},"task":null'),
    "headed": ("kit__headed", b'"name":"kit__headed","arguments":{%s<spaces>}' % INNER),
    "headed, before all": ("kit__headed", b'"name":"kit__headed","arguments":{%s}' % INNER),
    "headed otherwise": ("kit__headed", b'"name":"kit__headed","arguments":{%s,"n":8<spaces>}' % INNER),
    "headed by a list": ("kit__headed", b'"name":"kit__headed","arguments":{"n":[7],"inner":[],"s":{}<spaces>}'),
    "headed by nothing": ("kit__headed", b'"name":"kit__headed","arguments":{"n":null<spaces>}'),
    "call_tool": ("call_tool", b'"name":"call_tool","arguments":{"name":"kit__take","arguments":{%s<spaces>}}' % ODD),
    "call_tool, beside": (
        "call_tool",
        b'"name":"call_tool","z":1,"arguments":{"arguments":{"y":[1.50]},"n\\u0061me":"kit__take","q":[<spaces>1]}',
    ),
    "call_tool, headed": (
        "call_tool",
        b'"name":"call_tool","arguments":{"name":"kit__headed","arguments":{%s<spaces>}}' % INNER,
    ),
    "call_tool of itself": ("call_tool", b'"name":"call_tool","arguments":{"name":"call_tool"<spaces>}'),
    "call_tool of nothing": ("call_tool", b'"name":"call_tool","arguments":{"arguments":{}<spaces>}'),
    "call_tool of what is unknown": ("call_tool", b'"name":"call_tool","arguments":{"name":"kit__no"<spaces>}'),
    "call_tool of the node's": (
        "call_tool",
        b'"name":"call_tool","arguments":{"name":"describe_tool","arguments":{"name":"zz"}<spaces>}',
    ),
    "call_tool with a list": (
        "call_tool",
        b'"name":"call_tool","arguments":{"name":"kit__take","arguments":[<spaces>1]}',
    ),
    "call_tool of a fleet": (
        "call_tool",
        b'"name":"call_tool","arguments":{"name":"disk__take","arguments":{"node":"n0",%s<spaces>}}' % ODD,
    ),
    "a fleet": ("disk__take", b'"name":"disk__take","arguments":{"node":"n0",%s<spaces>}' % ODD),
    "a fleet, last": ("disk__take", b'"name":"disk__take","arguments":{%s,"node" :\t"n1" <spaces>}' % ODD),
    "a fleet, twice": ("disk__take", b'"name":"disk__take","arguments":{"node":"n0",%s,"n\\u006fde":"n1"}' % ODD),
    "a fleet, nothing else": ("disk__take", b'"name":"disk__take","arguments":{<spaces>"node":"n0"}'),
    "a fleet, one of a list": ("disk__take", b'"name":"disk__take","arguments":{"node":["n1"],"a":1.50<spaces>}'),
    "a fleet, unknown": ("disk__take", b'"name":"disk__take","arguments":{"node":"n9"<spaces>}'),
    "a fleet, no node": ("disk__take", b'"name":"disk__take","arguments":{"a":"node"<spaces>}'),
    "a fleet, no name": ("disk__take", b'"name":"disk__take","arguments":{"node":{"node":"n0"}<spaces>}'),
    "a fleet, headed": ("disk__headed", b'"name":"disk__headed","arguments":{"node":"n0",%s<spaces>}' % INNER),
    "the node's own": ("describe_tool", b'"name":"describe_tool","arguments":{"name":"zz"<spaces>}'),
    "the node's own, others beside": (
        "describe_tool",
        b'"name":"describe_tool","z":[1],"arguments":{"name":"zz"<spaces>}',
    ),
    "the node's own, wrong": ("describe_tool", b'"name":"describe_tool","arguments":{"zz":[<spaces>1]}'),
    "a prompt": ("kit__ask", b'"name":"kit__ask","arguments":{"a":"b"<spaces>}'),
    "a resource": ("a://kit/b", b'"uri":"a://kit/b",%s' % ODD),
    "no resource": ("a://c", b'"uri":"a://c",%s' % ODD),
    "a completion": (
        "",
        b'"ref":{"type":"ref/prompt","name":"kit__ask"},"argument":{"name":"a","value":"<spaces>"},"context":{"q":1.50}',
    ),
    "a list of tools": ("", b'"cursor":"x",%s' % ODD),
    "an unknown method": ("", b"%s" % ODD),
}
METHODS = {
    "a prompt": "prompts/get",
    "a resource": "resources/read",
    "no resource": "resources/read",
    "a completion": "completion/complete",
    "a list of tools": "tools/list",
    "an unknown method": "odd/method",
}


@pytest.mark.parametrize("era", Era)
async def test_a_body_is_answered_alike_whatever_its_size(era: Era, tmp_path: Path) -> None:
    differ = {}
    async with scene(era, tmp_path) as now:
        for case, (name, params) in CASES.items():
            given = (
                params.replace(b"%s", ONLY_ENVELOPE if era is Era.MODERN else b'"q":1')
                if b"_meta" in params
                else params
            )
            more = {"Mcp-Param-N": "7", "Mcp-Param-M": "8", "Mcp-Param-S": "=?base64?eMOp?="}
            more = more if case.startswith("headed") and "list" not in case and "nothing" not in case else {}
            body, told = now.request(name, given, METHODS.get(case, "tools/call"), **more)
            small = await now.answer(body.replace(AT, b""), told)
            large = await now.answer(body.replace(AT, SPACES if b'"<spaces>"' not in body else b"x" * 300_000), told)
            if case == "a completion":  # It is the value itself that is long.
                small, large = (part[:2] for part in (small, large))
            if small != large:
                differ[case] = small, large
    assert differ == {}


@pytest.mark.parametrize("era", Era)
async def test_others_have_their_turn_whatever_looks_into_large_arguments(
    era: Era, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once, of_once = list[int](), unread._done

    def counted(steps: Generator[None, None, unread.Members]) -> unread.Members:
        def all_steps() -> Generator[None, None, unread.Members]:
            at_once.append(0)
            while True:
                try:
                    next(steps)
                except StopIteration as end:
                    members: unread.Members = end.value
                    return members
                at_once[-1] += 1
                yield

        return of_once(all_steps())

    monkeypatch.setattr(unread, "_done", counted)
    rows = b"[%s1]" % ((b"[" * 40 + b"]" * 40 + b",") * 6_000)
    inner = b'{"n":7,"inner":{"m":8,"rows":%s},"s":"x\\u00e9","node":"n0"}' % rows
    calls = (b'"name":"%s","arguments":%s' % (name, inner) for name in (b"kit__headed", b"disk__headed"))
    wrapped = b'"name":"call_tool","arguments":{"name":"disk__headed","arguments":%s}' % inner
    async with scene(era, tmp_path) as now:
        for params in (*calls, wrapped):
            more = {"Mcp-Param-N": "7", "Mcp-Param-M": "8", "Mcp-Param-S": "=?base64?eMOp?="}
            name = params.split(b'"')[3].decode()
            body, told = now.request(name, params, "tools/call", **(more if name != "call_tool" else {}))
            status, said, asked = await now.answer(body.replace(AT, b""), told)
            assert (status, len(asked)) == (200, 1), said
    assert at_once
    assert set(at_once) == {0}
