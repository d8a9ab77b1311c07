"""No client learns a backend's address: whatever fails, it reads "server fx on front", and operators read the rest.

Real nodes in the test's own process, raw requests, one hop and two. The one rule: the whole answer is searched, its
`data` too, for the host, the port, the URL, and the command with its folder.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path

import aiohttp
import pytest

from agent.model import HttpTarget, Json, ServerScope, ServerSpec, StdioTarget
from tests.integration.servers.hops import front_of
from tests.integration.servers.hosting import (
    Script,
    Seen,
    discovered,
    http,
    initialized,
    rpc_error,
    rpc_result,
    scripted,
)
from tests.integration.servers.nodes import RunningNode
from tests.integration.stateless_requests import headers, request

TOOLS = {"tools": [{"name": "do", "inputSchema": {"type": "object"}}]}
HOPS = pytest.mark.parametrize("hops", [1, 2])

# How a server fails, and what of it a client reads.
FAILURES = {
    "reset": "cannot be reached",
    "closed": "closed the connection without an answer",
    "cut": "broke off in the middle of its answer",
    "silent": "did not answer tools/call within ",
    "401": "answered HTTP 401, the token is missing or wrong",
    "403": "answered HTTP 403, access is refused",
    "404": "answered HTTP 404",
    "429": "answered HTTP 429",
    "500": "answered HTTP 500",
    "503": "answered HTTP 503",
    "redirect": "answered HTTP 302, a redirect",
    "nothing": "answered a request with HTTP 204 and no content",
    "page": "answered HTTP 200 with something else than MCP",
    "no JSON": "gave an answer that is not JSON",
    "no message": "gave an answer that is JSON, but not a JSON-RPC message",
    "other ID": "answered another request than the one that was sent",
    "no HTTP": "does not speak HTTP",
    "compressed": "answers compressed in a way that it was not offered",
    "empty stream": "ended its stream without an answer",
    "bad state": "gave a requestState that is no text",
}


def failing(how: str, asked: Seen, url: str) -> tuple[bytes | None, bool]:
    """The answer of a server that fails so, and says its own address wherever it can."""
    says = json.dumps({"error": f"upstream {url} refused"}).encode()
    if how.isdecimal():
        return http(int(how), says), True
    questions = {"resultType": "input_required", "inputRequests": {}, "requestState": 5}
    answers: dict[str, tuple[bytes | None, bool]] = {
        "reset": (None, False),
        "closed": (b"", False),
        "cut": (http(200, b'{"jsonrpc": "2.0"')[:-4], False),
        "redirect": (http(302, Location=f"{url}/elsewhere"), True),
        "nothing": (http(204), True),
        "page": (http(200, says, kind="text/html"), True),
        "no JSON": (http(200, b'{"jsonrpc": "2.0", "id": %d, "result": NaN}' % asked.body["id"]), True),
        "no message": (http(200, b"[]"), True),
        "other ID": (http(200, b'{"jsonrpc": "2.0", "id": 1000000, "result": {}}'), True),
        "no HTTP": (f"hello from {url}\r\n\r\n".encode(), False),
        "compressed": (http(200, says, Content_Encoding="compress"), True),
        "empty stream": (http(200, b": nothing\n\n", kind="text/event-stream"), True),
        "bad state": (rpc_result(asked, questions), True),
    }
    return answers[how]


@asynccontextmanager
async def failing_server(silence: asyncio.Event) -> AsyncIterator[Script]:
    """A stateless server whose tool fails as its argument says; the silent one waits for the event."""

    async def answer(asked: Seen) -> tuple[bytes | None, bool]:
        match asked.body.get("method"):
            case "server/discover":
                return discovered(asked), True
            case "tools/list":
                return rpc_result(asked, TOOLS), True
            case "tools/call":
                how = asked.body["params"]["arguments"]["how"]
                if how == "silent":
                    await silence.wait()
                    return None, False
                return failing(how, asked, script.url)
            case _:
                return rpc_error(asked, 404, -32601, "Method not found"), True

    async with scripted(answer) as script:
        try:
            yield script
        finally:
            silence.set()


async def answered(node: RunningNode, tool: str, query: str = "", **arguments: object) -> str:
    """The whole answer to a call, as it came."""
    sent = BytesIO(json.dumps(request("tools/call", {"name": tool, "arguments": arguments})).encode())
    named = [*headers("tools/call", tool), ("Content-Type", "application/json")]
    async with (
        aiohttp.ClientSession() as http_client,
        http_client.post(f"{node.url}{query}", data=sent, headers=named) as response,
    ):
        return await response.text()


def said_of(answer: str) -> str:
    """The text of an error, or of a result that stands for one."""
    message: Json = json.loads(answer)
    if "error" in message:
        return str(message["error"]["message"])
    assert message["result"]["isError"] is True
    return str(message["result"]["content"][0]["text"])


def secrets_of(url: str) -> Sequence[str]:
    """What of a URL no client may see."""
    return "127.0.0.1", url.rpartition(":")[2].partition("/")[0], "://"


def node_of(hops: int) -> str:
    return "front" if hops == 1 else "n0"


@HOPS
@pytest.mark.parametrize("query", ["", "?errors=result"])
async def test_however_a_server_fails_its_client_reads_its_name_and_no_address(
    hops: int, query: str, tmp_path: Path
) -> None:
    silence = asyncio.Event()
    async with asyncio.timeout(60), failing_server(silence) as script:
        spec = ServerSpec("fx", HttpTarget(script.url), ServerScope.SERVICE, call_timeout_s=2.0)
        async with front_of(tmp_path, spec, hops=hops) as front:
            for how, words in FAILURES.items():
                answer = await answered(front, "fx__do", query, how=how)
                assert f"server fx on {node_of(hops)} {words}" in said_of(answer), how
                assert not [secret for secret in secrets_of(script.url) if secret in answer], how


@HOPS
async def test_a_server_that_is_gone_is_named_and_its_address_is_not(hops: int, tmp_path: Path) -> None:
    async with asyncio.timeout(30), failing_server(asyncio.Event()) as script:
        spec = ServerSpec("fx", HttpTarget(script.url), ServerScope.NODE)
        async with front_of(tmp_path, spec, hops=hops) as front:
            script.stop()
            tool = f"{node_of(hops)}__fx__do"
            answer = ""
            while "is away since" not in answer:  # While its link ends, and when it has ended.
                answer = await answered(front, tool, how="reset")
                assert f"server fx on {node_of(hops)} " in said_of(answer)
                assert not [secret for secret in secrets_of(script.url) if secret in answer]
            # As the call found it, or as the dial that it has caused did.
            reasons = (" s: it cannot be reached", " s: it refuses the connection")
            assert said_of(answer).endswith(reasons), "the reason reaches the caller as well"
            if hops == 1:
                assert script.url in front.view("fx").last_error, "operators read the address"


@HOPS
async def test_a_server_that_forgets_its_session_and_refuses_another_is_named(hops: int, tmp_path: Path) -> None:
    forgot = asyncio.Event()

    async def answer(asked: Seen) -> tuple[bytes | None, bool]:
        match asked.body.get("method"):
            case "initialize" if not forgot.is_set():
                return initialized(asked, **{"Mcp-Session-Id": "one"}), True
            case "notifications/initialized":
                return http(202), True
            case "tools/list":
                return rpc_result(asked, TOOLS), True
            case "tools/call":
                forgot.set()
                return http(404, b'{"error": "no session at %s"}' % script.url.encode()), True
            case "initialize":
                return http(500, b'{"error": "%s is full"}' % script.url.encode()), True
            case _:
                return http(405), True

    async with asyncio.timeout(30), scripted(answer) as script:
        spec = ServerSpec("fx", HttpTarget(script.url), ServerScope.SERVICE)
        async with front_of(tmp_path, spec, hops=hops) as front:
            told = await answered(front, "fx__do")
            assert f"server fx on {node_of(hops)} is away since " in said_of(told)
            if hops == 1:
                assert script.url in front.view("fx").last_error
            assert not [secret for secret in secrets_of(script.url) if secret in told]


CHILD = """
import json, sys, time
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    match message["method"]:
        case "initialize":
            capabilities = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}}
            result = capabilities | {"serverInfo": {"name": "fx", "version": "1"}}
        case "tools/list":
            result = {"tools": [{"name": "do", "inputSchema": {"type": "object"}}]}
        case "tools/call" if message["params"]["arguments"]["how"] == "dies":
            sys.exit(f"{__file__}: cannot open the database")
        case "tools/call":
            time.sleep(float(message["params"]["arguments"]["how"]))
            continue
        case _:
            result = {}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""


@HOPS
async def test_a_child_that_is_silent_deaf_or_dies_is_named_without_its_command(hops: int, tmp_path: Path) -> None:
    script = tmp_path / "opt" / "child.py"
    script.parent.mkdir()
    script.write_text(CHILD)
    spec = ServerSpec("fx", StdioTarget(sys.executable, (str(script),)), ServerScope.SERVICE, call_timeout_s=1.0)
    secrets = ("child.py", str(tmp_path), Path(sys.executable).name, "database")
    deaf = "x" * (1 << 20)  # More than the pipe holds.
    calls: list[tuple[str, Json]] = [
        ("did not answer tools/call within ", {"how": "5"}),
        ("did not answer tools/call within ", {"how": "0", "more": deaf}),
        ("does not read its input; tools/call was not sent", {"how": "0"}),
    ]
    async with asyncio.timeout(60), front_of(tmp_path, spec, hops=hops) as front:
        for words, arguments in calls:
            answer = await answered(front, "fx__do", **arguments)
            assert f"server fx on {node_of(hops)} {words}" in said_of(answer)
            assert not [secret for secret in secrets if secret in answer]
        told = ""
        while "exited with code 1" not in told:
            told = await answered(front, "fx__do", how="dies")
            assert not [secret for secret in secrets if secret in told]
            assert f"server fx on {node_of(hops)} " in said_of(told)
            assert "away" not in told or "s: it exited with code 1" in said_of(told), "the reason is there as well"
