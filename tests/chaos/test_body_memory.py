"""What a legal body of 4 MB costs a real node where it has to look into the body, and where a crowd of members stands.

Beside `tests/chaos/test_memory.py`, whose bodies have all they have in a call's arguments. The one rule: each body is
answered with what its server got of it, so none is cheap because it went nowhere.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import orjson
import pytest

from agent.lossless_json.unread import LOOKED_AT_VALUES_MAX
from agent.model import Json
from bench.churn import BODY_BYTES, BODY_GOAL_MB
from bench.processes import node_process, resident_bytes
from tests.integration.servers.hosting import Seen, discovered, rpc_error, rpc_result, scripted
from tests.integration.stateless_requests import ENVELOPE, headers
from tests.measured import measured
from tests.waiting import eventually

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(240),
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]

PROPERTIES: Json = {
    "n": {"type": "integer", "x-mcp-header": "N"},
    "inner": {"type": "object", "properties": {"m": {"type": "string", "x-mcp-header": "M"}}},
}
TOOLS: Json = {
    "take": {"type": "object"},
    "headed": {"type": "object", "properties": PROPERTIES},
}
RECORD = b'{"id":123456,"name":"somebody 123456","value":1.5}'
# What fills a body, and what of it stands there once more for each so many bytes.
FILLINGS = {"records": RECORD, "lists": b"[]", "texts": b'""', "objects": b'{"a":1}'}
HALVES = {"records with half a pair each": RECORD[:-1] + b',"cut":"\\ud83d"}', "halves of pairs": b'"\\ud83d"'}


def filled(item: bytes, bytes_len: int = BODY_BYTES - 1_024) -> bytes:
    """A list of as many as fit."""
    return b"[%s]" % b",".join([item] * ((bytes_len - 2) // (len(item) + 1)))


def crowd(begin: str = "") -> bytes:
    """As many members as fit, without braces: some 380,000."""
    one = len(f'"{begin}00000":1,')
    return b",".join(b'"%s%05x":1' % (begin.encode(), number) for number in range((BODY_BYTES - 1_024) // one))


def bodies() -> dict[str, tuple[str, bytes, dict[str, str]]]:
    """The name in the header, the body and further headers of each."""
    meta = orjson.dumps(ENVELOPE)
    kinds: dict[str, tuple[str, bytes, dict[str, str]]] = {}

    def add(
        kind: str,
        name: str,
        arguments: bytes,
        *,
        beside: bytes = b"",
        in_meta: bytes = b"",
        on_top: bytes = b"",
        **told: str,
    ) -> None:
        params = b'{"name":"%s",%s"arguments":%s,"_meta":%s}' % (
            name.encode(),
            beside,
            arguments,
            meta[:-1] + in_meta + b"}",
        )
        body = b'{"jsonrpc":"2.0","id":1,%s"method":"tools/call","params":%s}' % (on_top, params)
        kinds[kind] = name, body, told

    for filling, item in FILLINGS.items():
        rows = filled(item)
        add(f"call_tool, {filling}", "call_tool", b'{"name":"kit__take","arguments":{"rows":%s}}' % rows)
        add(f"a fleet's node, {filling}", "disk__take", b'{"rows":%s,"node":"front"}' % rows)
        told = {"Mcp-Param-N": "7", "Mcp-Param-M": "x"}
        add(f"headers, {filling}", "kit__headed", b'{"rows":%s,"n":7,"inner":{"m":"x"}}' % rows, **told)
    for halves, item in HALVES.items():
        rows = filled(item)
        add(halves, "kit__take", b'{"rows":%s}' % rows)
        add(f"call_tool, {halves}", "call_tool", b'{"name":"kit__take","arguments":{"rows":%s}}' % rows)
        add(f"a fleet's node, {halves}", "disk__take", b'{"rows":%s,"node":"front"}' % rows)
    add("a text with half a pair", "kit__take", b'{"text":"%s\\ud83d"}' % (b"x" * (BODY_BYTES - 1_024)))
    add("a crowd in the arguments", "kit__take", b"{%s}" % crowd())
    add("a crowd in params", "kit__take", b"{}", beside=crowd() + b",")
    add("a crowd in _meta", "kit__take", b"{}", in_meta=b"," + crowd("a/"))
    add("a crowd on top", "kit__take", b"{}", on_top=crowd() + b",")
    add("a large value in params", "kit__take", b"{}", beside=b'"more":%s,' % filled(b"[]"))
    objects, text = b",".join([b'{"a":1}'] * (LOOKED_AT_VALUES_MAX // 2 - 100)), "x" * 350_000 + "\U0001f600"
    task = b'{"a":[%s],"b":"%s"}' % (objects, text.encode())
    # As much as a node looks at, and what it does not look at.
    add("a large task", "kit__take", b"{}", beside=b'"task":%s,"more":%s,' % (task, filled(b"[]", 3_600_000)))
    add("answers in params", "kit__take", b"{}", beside=b'"inputResponses":{"a":%s},' % filled(RECORD))
    return kinds


async def answer(request: Seen) -> tuple[bytes, bool]:
    """A server that tells how much it was sent."""
    match request.body.get("method"):
        case "server/discover":
            return discovered(request), True
        case "tools/list":
            hint = {"readOnlyHint": True}
            tools = [{"name": name, "inputSchema": schema, "annotations": hint} for name, schema in TOOLS.items()]
            return rpc_result(request, {"tools": tools}), True
        case "tools/call":
            return rpc_result(request, {"content": [], "structuredContent": {"bytes": len(request.raw)}}), True
        case _:
            return rpc_error(request, 404, -32601, "Method not found"), True


@asynccontextmanager
async def asked_node() -> AsyncIterator[tuple[aiohttp.ClientSession, str, int]]:
    """A client, the endpoint of a node that has these tools, of a server and of a fleet, and its process's id."""
    async with scripted(answer) as kit, scripted(answer) as disk, aiohttp.ClientSession() as http:
        servers = {"kit": {"url": kit.url}, "disk": {"url": disk.url, "mesh": {"scope": "fleet"}}}
        async with node_process("front", servers=servers, MESH_DISCOVERY="off") as (base, process_id):

            async def lists_all() -> bool:
                listed = await sent(http, f"{base}/mcp", "tools/list", "", b"")
                return {"kit__headed", "disk__take"} <= {tool["name"] for tool in listed["tools"]}

            await eventually(lists_all)
            yield http, f"{base}/mcp", process_id


async def sent(http: aiohttp.ClientSession, url: str, method: str, name: str, body: bytes, **told: str) -> Json:
    """The result of a request."""
    given = dict(headers(method, name or None)) | told | {"Content-Type": "application/json"}
    body = body or orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"_meta": ENVELOPE}})
    async with http.post(url, data=body, headers=given) as response:
        text = await response.read()
    found = text if text.startswith(b"{") else text.rpartition(b"data: ")[2]
    message: Json = orjson.loads(found)
    assert "result" in message, message
    result: Json = message["result"]
    return result


def let_peak_begin(process_id: int) -> None:
    Path(f"/proc/{process_id}/clear_refs").write_text("5")


def peak_bytes(process_id: int) -> int:
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # The client's own care.
async def test_a_legal_body_that_a_node_looks_into_costs_less_than_sixteen_megabytes() -> None:
    peaks: dict[str, float] = {}
    async with asked_node() as (http, url, process_id):
        warm = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"kit__take","arguments":{},"_meta":%s}}'
        await sent(http, url, "tools/call", "kit__take", warm % orjson.dumps(ENVELOPE))
        before = resident_bytes(process_id)
        for kind, (name, body, told) in bodies().items():
            assert 2**22 - 2**17 < len(body) <= 2**22, (kind, len(body))
            let_peak_begin(process_id)
            result = await sent(http, url, "tools/call", name, body, **told)
            peaks[kind] = (peak_bytes(process_id) - before) / 2**20
            got = result["structuredContent"]["bytes"]
            went_nowhere = kind in ("a crowd on top", "a large task")  # A server that has no tasks gets none.
            assert went_nowhere or got > 2**22 - 2**17, (kind, got)
    said = ", ".join(f"{mb:.1f} MB for {name}" for name, mb in peaks.items())
    measured(f"bodies of 4 MB that a node looks into, peak above what the node held: {said}")
    assert {kind: mb for kind, mb in peaks.items() if mb >= BODY_GOAL_MB} == {}
