"""Holders of narrow tokens against a running node: every route, both eras, lists, calls, sessions, ends and limits."""

import asyncio
import os
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import aiohttp
import pytest

from tests.attacks.clients import ERAS, Holder, entry, token_of, write_tokens
from tests.e2e.running import RunningNode, nodes_below, start_node
from tests.e2e.servers_files import example
from tests.waiting import PATIENCE_S, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
eras = pytest.mark.parametrize("era", ERAS)

SHORT = "short-form-canary-0123456789abcdef"
NOTES = ["notes__add", "notes__list", "notes__read"]
LISTINGS = ["get_available_mcp_servers", "get_mcp_server_functions", "list_mcp_servers"]
RELOADS = ["reload_all_mcp_servers", "reload_mcp_server"]
TOKENS: dict[str, Any] = {
    "client": entry("client", "mcp"),
    "reader": entry("reader", "read"),
    "operator": entry("operator", "admin"),
    "scraper": entry("scraper", "metrics"),
    "node": entry("node", "peer"),
    "everything": entry("everything", "mcp", "read", "admin", "metrics", "peer"),
    "narrow": entry("narrow", "mcp", tools=["notes__l*"]),
    "looker": entry("looker", "mcp", read_only=True),
    "twin": entry("twin", "mcp"),
    "slow": entry("slow", "mcp", "admin", calls_per_s=0.01),
    "expired": entry("expired", "mcp", expires="2020-01-01T00:00:00Z"),
}


@dataclass
class Guarded:
    """The node, and its tokens file."""

    node: RunningNode
    file: Path

    def holder(self, name: str | None) -> Holder:
        return Holder(self.node.base, None if name is None else SHORT if name == "MESH_TOKEN" else token_of(name))

    async def write(self, tokens: dict[str, Any]) -> None:
        """Replace the tokens, and wait until the node has them."""
        before = len(self.node.events("tokens file read again"))
        write_tokens(self.file, tokens)

        async def has_read() -> bool:
            return len(self.node.events("tokens file read again")) > before

        await eventually(has_read)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """One node with notes, and these tokens."""
    folder = tmp_path_factory.mktemp("authority")
    file = write_tokens(folder / "tokens.json", TOKENS)
    settings = {"MESH_TOKEN": SHORT, "MESH_TOKENS_FILE": str(file), "MESH_DISCOVERY": "off"}
    servers = {"notes": example("notes", "service")}

    async def start() -> RunningNode:
        node = await start_node("front", folder, servers=servers, **settings)
        await eventually(partial(node.offers, *NOTES))
        return node

    with nodes_below(folder):
        yield Guarded(asyncio.run(start()), file)


ROUTES = [
    ("GET", "/metrics"),
    ("GET", "/api/v1/mcp/status"),
    ("HEAD", "/api/v1/mcp/servers"),
    ("GET", "/api/v1/mcp/peers"),
    ("POST", "/api/v1/mcp/peers"),
    ("DELETE", "/api/v1/mcp/peers/none"),
    ("GET", "/no/such/page"),
    ("PUT", "/no/such/page"),
    ("POST", "/mcp"),
    ("POST", "/mcp/"),
    ("GET", "/mcp"),
    ("POST", "/mcp?servers=notes"),
    ("POST", "/mcp/s/notes"),
    ("POST", "/mcp/v/none"),
    ("POST", "/mcp/local"),
    ("DELETE", "/mcp/local/"),
    # As the router reads them.
    ("POST", "/mcp/%6cocal"),
    ("POST", "/%6dcp/local"),
    ("POST", "/%6Dcp"),
    ("GET", "/m%65trics"),
    ("DELETE", "/%61pi/v1/mcp/peers/none"),
]
# Written down a second time, by name: what opens which routes.
OPENS = {
    "client": ("/mcp",),
    "narrow": ("/mcp",),
    "looker": ("/mcp",),
    "node": ("/mcp/local",),
    "scraper": ("/metrics",),
    "reader": ("GET /api", "HEAD /api", "GET /no", "/metrics"),
    "operator": ("/api", "/no", "/metrics"),
    "everything": ("/",),
    "MESH_TOKEN": ("/",),
}


def is_open(name: str, method: str, path: str) -> bool:
    path = unquote(path)
    if path.startswith("/mcp/local") and name not in ("node", "everything", "MESH_TOKEN"):
        return False
    return any(
        path.startswith(rule.rpartition(" ")[2]) and rule.rpartition(" ")[0] in ("", method) for rule in OPENS[name]
    )


@pytest.mark.parametrize("name", OPENS)
async def test_every_route_opens_to_the_scopes_that_it_is_for_and_to_no_other(guarded: Guarded, name: str) -> None:
    wrong = []
    for method, path in ROUTES:
        reply = await guarded.holder(name).ask(method, path)
        if (reply.status != 403) != is_open(name, method, path) or reply.status == 401:
            wrong.append((method, path, reply.status))
        if reply.status == 403 and method != "HEAD":
            assert 'error="insufficient_scope"' in reply.headers["WWW-Authenticate"]
            assert f"Token '{name}' has the scopes" in str(reply.body)
            if path.startswith("/mcp"):
                assert reply.error["data"] == {"code": "insufficient_scope"}
    assert wrong == []


@eras
@pytest.mark.parametrize("path", ["/mcp", "/mcp/local", "/mcp/s/notes", "/mcp?servers=notes"])
async def test_mcp_is_spoken_in_both_eras_with_the_scope_of_the_endpoint_alone(
    guarded: Guarded, era: str, path: str
) -> None:
    wrong = []
    for name in OPENS:
        reply = await guarded.holder(name).request(era, "tools/list", path)
        if (reply.status == 200) != is_open(name, "POST", path):
            wrong.append((name, reply.status))
    assert wrong == []


@eras
async def test_lists_show_a_client_what_it_may_call_and_nothing_else(guarded: Guarded, era: str) -> None:
    assert sorted(await guarded.holder("MESH_TOKEN").tools(era)) == sorted([*NOTES, *LISTINGS, *RELOADS])
    assert sorted(await guarded.holder("everything").tools(era)) == sorted([*NOTES, *LISTINGS, *RELOADS])
    assert sorted(await guarded.holder("client").tools(era)) == sorted([*NOTES, *LISTINGS])
    assert await guarded.holder("narrow").tools(era) == ["notes__list"]
    assert sorted(await guarded.holder("looker").tools(era)) == sorted([*LISTINGS, "notes__list", "notes__read"])
    assert await guarded.holder("narrow").tools(era, "/mcp/s/notes") == ["list"]
    assert await guarded.holder("narrow").tools(era, "/mcp?servers=notes") == ["notes__list"]
    assert sorted(await guarded.holder("node").tools(era, "/mcp/local")) == sorted([*NOTES, *LISTINGS])
    for name, shown in (("client", []), ("everything", ["config://app", "health://system"])):
        listed = (await guarded.holder(name).request(era, "resources/list")).result["resources"]
        assert [one["uri"] for one in listed if "://app" in one["uri"] or "://system" in one["uri"]] == shown


@eras
@pytest.mark.parametrize(
    ("call", "lacks"),
    [
        (("narrow", "tools/call", {"name": "notes__add", "arguments": {}}), "its tools are notes__l*"),
        (("narrow", "tools/call", {"name": "no__such_tool", "arguments": {}}), "its tools are notes__l*"),
        (("narrow", "tools/call", {"name": "front__notes__add", "arguments": {}}), "its tools are notes__l*"),
        (("narrow", "tools/call", {"name": "add", "arguments": {}}), "its tools are notes__l*"),
        (("narrow", "tools/call", {"name": "call_tool", "arguments": {"name": "notes__add"}}), "its tools are"),
        (("narrow", "tools/call", {"name": "list_mcp_servers", "arguments": {}}), "its tools are notes__l*"),
        (("looker", "tools/call", {"name": "notes__add", "arguments": {}}), "readOnlyHint"),
        (("looker", "tools/call", {"name": "reload_all_mcp_servers", "arguments": {}}), "no scope admin"),
        (("client", "tools/call", {"name": "reload_mcp_server", "arguments": {"server_name": "notes"}}), "scope admin"),
        (("client", "resources/read", {"uri": "config://app"}), "no scope read"),
    ],
)
async def test_a_call_beyond_the_token_is_refused_by_its_name_and_what_it_lacks(
    guarded: Guarded, era: str, call: tuple[str, str, dict[str, Any]], lacks: str
) -> None:
    name, method, params = call
    reply = await guarded.holder(name).request(era, method, **params)
    assert reply.error["code"] == -32003
    assert f"Token '{name}' may not use" in reply.error["message"]
    assert lacks in reply.error["message"]
    assert reply.error["data"]["token"] == name
    assert reply.error["data"]["outcome"] == "not_executed"


@eras
async def test_the_scope_of_nodes_has_no_reloads_and_no_configuration(guarded: Guarded, era: str) -> None:
    calls = (
        ("tools/call", {"name": "reload_mcp_server", "arguments": {"server_name": "notes"}}),
        ("tools/call", {"name": "reload_all_mcp_servers", "arguments": {}}),
        ("resources/read", {"uri": "config://app"}),
    )
    for method, params in calls:
        reply = await guarded.holder("node").request(era, method, "/mcp/local", **params)
        assert reply.error["code"] < 0, reply
    listed = await guarded.holder("node").request(era, "resources/list", "/mcp/local")
    assert "config://app" not in str(listed.result)


async def test_only_nodes_speak_for_clients_of_their_own(guarded: Guarded) -> None:
    event = {"event": "ended", "server": "notes"}
    meta = {"mesh-agent/affinity": "session:0123456789abcdef"}
    for name, code in (("client", -32003), ("narrow", -32003), ("everything", None)):
        reply = await guarded.holder(name).modern("mesh-agent/client", meta=meta, **event)
        assert reply.body.get("error", {}).get("code") == code, name


async def test_an_endless_name_is_unknown_at_once_whatever_the_patterns(guarded: Guarded) -> None:
    await guarded.write(
        {**TOKENS, "patterns": entry("patterns", "mcp", tools=["*a*b*c*d*e*f*g*h" for _ in range(500)])}
    )
    holder = guarded.holder("patterns")
    await holder.begin()
    before_s = used_s(guarded.node.process.pid)
    reply = await holder.legacy("tools/call", name="abcdefg" * 60_000, arguments={})
    assert used_s(guarded.node.process.pid) - before_s < 5
    assert "Unknown tool" in reply.error["message"]
    await guarded.write(TOKENS)


@eras
async def test_what_is_allowed_works_through_search_and_completion_of_a_narrow_token(
    guarded: Guarded, era: str
) -> None:
    narrow = guarded.holder("narrow")
    listed = await narrow.request(era, "tools/call", name="notes__list", arguments={})
    assert "titles" in listed.result["structuredContent"]
    found = await narrow.request(era, "tools/call", name="search_tools", arguments={"query": ""})
    assert [tool["name"] for tool in found.result["structuredContent"]["tools"]] == ["notes__list"]
    for hidden in ("notes__add", "no__such"):
        described = await narrow.request(era, "tools/call", name="describe_tool", arguments={"name": hidden})
        assert described.result["isError"]
    described = await narrow.request(era, "tools/call", name="describe_tool", arguments={"name": "list_mcp_servers"})
    assert described.error["code"] == -32003
    inner = {"name": "notes__list", "arguments": {}}
    assert "titles" in str((await narrow.request(era, "tools/call", name="call_tool", arguments=inner)).result)


async def test_a_session_of_one_token_is_not_found_by_another_that_knows_its_id(guarded: Guarded) -> None:
    client = guarded.holder("client")
    await client.begin()
    assert (await client.legacy("ping")).status == 200
    for other in ("twin", "everything", "MESH_TOKEN", "narrow"):
        thief = guarded.holder(other)
        for method in ("POST", "GET", "DELETE"):
            body = {"jsonrpc": "2.0", "id": 3, "method": "ping"} if method == "POST" else None
            reply = await thief.ask(method, "/mcp", body, {"Mcp-Session-Id": str(client.session)})
            assert reply.status == 404, (other, method)
    assert (await client.legacy("ping")).status == 200


async def test_an_expired_or_unknown_token_opens_nothing_and_the_answer_says_which_it_is(guarded: Guarded) -> None:
    reply = await guarded.holder("expired").modern("tools/list")
    assert (reply.status, "has expired" in reply.error["message"]) == (401, True)
    assert 'error="invalid_token"' in reply.headers["WWW-Authenticate"]
    assert (await guarded.holder("nobody").modern("tools/list")).status == 401
    assert (await guarded.holder(None).modern("tools/list")).status == 401


async def test_what_a_revoked_token_opened_ends_and_what_others_opened_goes_on(guarded: Guarded) -> None:
    await guarded.write({**TOKENS, "fleeting": entry("fleeting", "mcp")})
    fleeting, client = guarded.holder("fleeting"), guarded.holder("client")
    for holder in (fleeting, client):
        await holder.begin()
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{client.base}/mcp", headers=client.of_session()) as others,
        http.get(f"{client.base}/mcp", headers=fleeting.of_session()) as standing,
        http.post(f"{client.base}/mcp", **fleeting.listening()) as listening,
    ):
        for stream in (others, standing, listening):
            assert stream.status == 200
            await stream.content.readany()
        await guarded.write(TOKENS)
        async with asyncio.timeout(20):
            for stream in (standing, listening):
                await stream.content.read()
        assert (await fleeting.legacy("ping")).status == 401
        assert (await client.legacy("ping")).status == 200
        assert not others.content.at_eof()
    # A token that is made anew under that name does not come by what the first one had.
    await guarded.write({**TOKENS, "fleeting": entry("fleeting", "mcp", created="later")})
    assert (await fleeting.legacy("ping")).status == 404
    await guarded.write(TOKENS)


async def test_what_a_token_opened_ends_when_it_expires(guarded: Guarded) -> None:
    brief, status = guarded.holder("brief"), 0
    for lasts_s in (2, 8, 32):  # On a busy machine it takes a while to open something.
        soon = datetime.fromtimestamp(time.time() + lasts_s, UTC).isoformat()
        await guarded.write({**TOKENS, "brief": entry("brief", "mcp", expires=soon)})
        await brief.begin()
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{brief.base}/mcp", headers=brief.of_session()) as standing,
        ):
            status = standing.status
            async with asyncio.timeout(lasts_s + PATIENCE_S):
                await standing.content.read()
        if status == 200:
            break
    assert status == 200
    reply = await brief.legacy("ping")
    assert (reply.status, "has expired" in reply.error["message"]) == (401, True)
    await guarded.write(TOKENS)


async def test_calls_beyond_the_rate_are_answered_429_and_operators_and_probes_never_starve(guarded: Guarded) -> None:
    slow, began_s = guarded.holder("slow"), time.monotonic()
    first = await slow.modern("tools/call", name="notes__list", arguments={})
    assert first.status == 200
    await slow.begin()
    for refused in (
        await slow.modern("tools/call", name="notes__list", arguments={}),
        await slow.legacy("tools/call", name="notes__list", arguments={}),
    ):
        assert refused.status == 429
        assert began_s + 100 - time.monotonic() <= int(refused.headers["Retry-After"]) <= 100
        assert refused.error["code"] == -32000
        assert refused.error["data"]["outcome"] == "not_executed"
        assert "Token 'slow' may make 0.01 calls a second" in refused.error["message"]
    for method, path, status in (("GET", "/healthz", 200), ("GET", "/metrics", 200), ("GET", "/api/v1/mcp/peers", 200)):
        assert [(await slow.ask(method, path)).status for _ in range(5)] == [status] * 5
    assert (await guarded.holder("client").modern("tools/call", name="notes__list", arguments={})).status == 200


async def test_a_damaged_file_keeps_the_last_good_tokens_and_status_says_so(guarded: Guarded) -> None:
    guarded.file.write_text('{"tokens": {"client": {"scopes": ["mcp"], "sha256": "7"}}}')

    async def is_known() -> bool:
        tokens = (await guarded.node.status())["self"]["tokens"]
        return "64 hexadecimal digits" in str(tokens["fault"])

    await eventually(is_known)
    assert (await guarded.holder("twin").modern("tools/list")).status == 200
    await guarded.write(TOKENS)
    status = (await guarded.node.status())["self"]["tokens"]
    assert status == {"named": len(TOKENS), "expired": 1, "fault": None}


async def test_no_token_of_the_file_is_in_a_log_or_an_answer(guarded: Guarded) -> None:
    status, servers = await guarded.node.status(), await guarded.node.servers()
    said = [guarded.node.log(), str(status), str(servers), guarded.file.read_text()]
    assert not [text for text in said if "canary" in text]


@cache
def packed() -> bytes:
    """194 KB that become 200 MB."""
    return zlib.compress(bytes(200_000_000), level=9, wbits=31)


def used_s(pid: int) -> float:
    """The processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(sys.platform != "linux", reason="NO /proc ON THIS MACHINE: what a request costs is not tested")
@pytest.mark.parametrize(("host", "status"), [("evil.example", 421), ("localhost", 415)])
async def test_a_small_compressed_body_of_a_stranger_is_never_unpacked(
    host: str, status: int, guarded: Guarded
) -> None:
    headers = {"Host": host, "Content-Encoding": "gzip", "Content-Type": "application/json"}
    took_s: list[float] = []
    for _ in range(3):  # The node has other things to do meanwhile.
        before_s = used_s(guarded.node.process.pid)
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{guarded.node.base}/mcp", data=packed(), headers=headers) as answer,
        ):
            assert answer.status == status
        took_s.append(used_s(guarded.node.process.pid) - before_s)
    assert min(took_s) < 0.2, "unpacking alone takes three times as long"
