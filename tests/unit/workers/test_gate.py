"""What a worker may serve: plain calls of known tools, and nothing that could be refused or counted elsewhere."""

import hashlib
import time
from collections.abc import Mapping

import orjson
import pytest

from agent.authority.grant import Grant, NamedToken, Reach, Scope
from agent.rest.security import EdgePolicy
from agent.rest.tokens import TokenTable
from agent.server.fast_path.heads import Heads
from agent.workers.gate import Gate

TOOL = "kit__add"
OTHER = "back__add"  # Of a node, whose sessions may gain something.
SESSION = "mesh1-known"
MODERN = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": TOOL}
LEGACY = {"MCP-Protocol-Version": "2025-11-25", "Mcp-Session-Id": SESSION}
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": TOOL, "arguments": {}}}
GRANTS = {
    "clients": Grant("clients", frozenset({Scope.MCP})),
    "readers": Grant("readers", frozenset({Scope.READ})),
    "some-tools": Grant("some-tools", frozenset({Scope.MCP}), Reach(tools=("kit__*",))),
    "slow": Grant("slow", frozenset({Scope.MCP}), calls_per_s=2.0),
    "few": Grant("few", frozenset({Scope.MCP}), concurrent_calls=2),
    "over": Grant("over", frozenset({Scope.MCP}), until_s=time.time() - 1.0),
    "until-later": Grant("until-later", frozenset({Scope.MCP}), until_s=time.time() + 24 * 3_600.0),
}


def gate(*, with_tokens: bool = False) -> Gate:
    named = [
        NamedToken(grant, (hashlib.sha256(f"token-of-{name}".encode()).digest(),)) for name, grant in GRANTS.items()
    ]
    tokens = TokenTable(["token-of-all"], named) if with_tokens else TokenTable()
    policy = EdgePolicy(frozenset({"node.example"}), frozenset(), tokens, metrics_public=False)
    made = Gate(policy)
    made.tools, made.session_tools, made.sessions = {TOOL, OTHER}, {TOOL}, {SESSION}
    return made


def takes(judge: Gate, headers: Mapping[str, str], body: object = CALL, path: str = "/mcp") -> bool:
    written = orjson.dumps(body)
    given = {"Host": "node.example", **headers, "Content-Length": str(len(written))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items() if value)
    data = f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + written
    beginning = Heads("/mcp").read(data)
    return beginning is not None and judge.takes(beginning.head, data) != ""


async def test_plain_calls_of_either_era_are_taken() -> None:
    assert takes(gate(), MODERN)
    assert takes(gate(), LEGACY)
    assert takes(gate(), MODERN | {"Mcp-Name": OTHER})


@pytest.mark.parametrize(
    "headers",
    [
        {"Mcp-Name": "kit__other"},
        {"Mcp-Method": "tools/list"},
        {"Host": "evil.example"},
        {"Host": ""},
        {"Origin": "http://localhost"},
        {"Cookie": "mesh=1"},
        {"Mesh-Proof": "a.1.b"},
        {"Content-Encoding": "identity"},
        {"Mesh-Tools": "search"},
        {"Authorization": "Bearer anything", "authorization": "Bearer twice"},
    ],
)
async def test_stateless_request_that_is_more_than_a_plain_call_is_left(headers: dict[str, str]) -> None:
    assert not takes(gate(), MODERN | headers)


@pytest.mark.parametrize("path", ["/mcp/", "/mcp/local", "/mcp/s/kit", "/mcp/v/team", "/mcp?servers=kit"])
async def test_other_endpoints_and_views_are_left(path: str) -> None:
    assert not takes(gate(), MODERN, path=path)


@pytest.mark.parametrize(
    "body",
    [
        {**CALL, "method": "tools/list"},
        {**CALL, "params": {"name": "kit__other"}},
        {**CALL, "params": {"name": OTHER}},
        {**CALL, "params": {"name": TOOL, "task": {}}},
        {**CALL, "params": None},
        {key: value for key, value in CALL.items() if key != "id"},
        [CALL],
    ],
)
async def test_message_of_a_session_that_is_no_plain_call_is_left(body: object) -> None:
    assert not takes(gate(), LEGACY, body)


async def test_session_that_the_node_does_not_name_is_left() -> None:
    judge = gate()
    assert not takes(judge, LEGACY | {"Mcp-Session-Id": "mesh1-other"})
    assert not takes(judge, {"MCP-Protocol-Version": "2025-11-25"})
    judge.sessions = set()
    judge.forget()
    assert not takes(judge, LEGACY)


@pytest.mark.parametrize("name", ["all", "clients", "until-later"])
async def test_token_without_limits_is_taken(name: str) -> None:
    assert takes(gate(with_tokens=True), MODERN | {"Authorization": f"Bearer token-of-{name}"})


@pytest.mark.parametrize("name", ["readers", "some-tools", "slow", "few", "over", "strangers"])
async def test_token_that_may_be_refused_or_has_limits_is_left(name: str) -> None:
    assert not takes(gate(with_tokens=True), MODERN | {"Authorization": f"Bearer token-of-{name}"})


async def test_request_without_the_token_that_is_wanted_is_left() -> None:
    assert not takes(gate(with_tokens=True), MODERN)


async def test_verdict_over_a_head_lasts_until_it_is_forgotten() -> None:
    judge = gate()
    written = orjson.dumps(CALL)
    lines = "".join(f"{name}: {value}\r\n" for name, value in {"Host": "localhost", **MODERN}.items())
    data = f"POST /mcp HTTP/1.1\r\n{lines}Content-Length: {len(written)}\r\n\r\n".encode() + written
    beginning = Heads("/mcp").read(data)
    assert beginning is not None
    assert judge.takes(beginning.head, data) == TOOL
    judge.tools = frozenset()
    assert judge.takes(beginning.head, data) == TOOL
    judge.forget()
    assert not judge.takes(beginning.head, data)
