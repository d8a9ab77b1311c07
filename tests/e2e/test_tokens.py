"""A mesh with a token: who gets in where, what goes where, what is never shown, and a seamless rotation."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from mcp.shared.exceptions import MCPError

from tests.e2e.meshes import RunningKit
from tests.e2e.running import ERAS, RunningNode, StartNode, nodes_below, start_node
from tests.e2e.servers_files import example, replace_file
from tests.e2e.steady_calls import steady_calls
from tests.measured import measured
from tests.ports import free_port
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

TOKEN = "canary-3f9a1c7e5b2d4860-token-of-clients"
REST = ("/api/v1/mcp/peers", "/api/v1/mcp/servers", "/api/v1/mcp/status")
MCP_PATHS = ("/mcp", "/mcp/", "/mcp/s/kit", "/mcp/v/team", "/mcp/local", "/mcp/none")
GUARDED = (*REST, *MCP_PATHS, "/metrics", "/no/such/page")
OPEN = ("/healthz", "/readyz")
# A changed file of tokens is in use within 2 s; the rest is the test machine's.
READ_WITHIN_S = 7.0


@dataclass(frozen=True)
class Guarded:
    """Two nodes with a token; `back` has notes and the kit, `front` has nothing."""

    front: RunningNode
    back: RunningNode
    kit: RunningKit


@pytest.fixture(scope="module")
def guarded(kit: RunningKit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """The two nodes, joined."""
    folder = tmp_path_factory.mktemp("guarded")
    settings: dict[str, Any] = embedded() | {"MESH_TOKEN": TOKEN}
    servers = {"kit": {"url": kit.url}, "notes": example("notes")}

    async def start_both() -> list[RunningNode]:
        nodes = await all_of(
            start_node(name, folder / name, servers=own, **settings)
            for name, own in (("front", None), ("back", servers))
        )
        await eventually(partial(nodes[0].sees, "back"))
        await eventually(partial(nodes[1].sees, "front"))
        await eventually(partial(nodes[0].offers, "kit__add", "back__notes__add"))
        return nodes

    with nodes_below(folder):
        front, back = asyncio.run(start_both())
        yield Guarded(front, back, kit)


def embedded() -> dict[str, str]:
    return {"MESH_DISCOVERY": "embedded", "MESH_EMBEDDED_PORT": str(free_port())}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def ask(node: RunningNode, path: str, **headers: str) -> tuple[int, Any]:
    """A GET with these headers alone."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(node.base + path, headers=headers, allow_redirects=False) as response,
    ):
        raw = await response.read()
        return response.status, orjson.loads(raw) if raw[:1] == b"{" else raw.decode()


@pytest.mark.parametrize("era", ERAS)
async def test_clients_with_the_token_call_through_peers(guarded: Guarded, era: str) -> None:
    async with guarded.front.client(era) as client:
        assert (await client.call_tool("kit__add", {"terms": [2, 3]})).data.total == 5
        assert not (await client.call_tool("back__notes__add", {"title": era, "text": "kept"})).is_error


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("token", [None, "not-the-token-0123456789"])
async def test_clients_without_the_token_are_not_let_in(guarded: Guarded, era: str, token: str | None) -> None:
    refused = await guarded.front.metric("mesh_auth_failures_total") or 0
    with pytest.raises(MCPError, match="token"):
        async with guarded.front.client(era, auth=token) as client:
            await client.list_tools()
    assert (await guarded.front.metric("mesh_auth_failures_total") or 0) > refused


@pytest.mark.parametrize("headers", [{}, bearer("not-the-token-0123456789"), {"Authorization": "Basic Y2FuYXJ5"}])
async def test_everything_but_the_probes_wants_the_token(guarded: Guarded, headers: dict[str, str]) -> None:
    for path in GUARDED:
        status, answer = await ask(guarded.front, path, **headers)
        assert status == 401, path
        if path.startswith("/mcp"):  # There, clients show the text of a JSON-RPC error alone.
            assert (answer["id"], answer["error"]["data"]) == (None, {"code": "unauthorized"})
            assert answer["error"]["message"]
            continue
        assert answer["success"] is False
        assert answer["message"]
        assert answer["error"] == {"code": "unauthorized", "detail": None}
    for path in OPEN:
        assert (await ask(guarded.front, path, **headers))[0] == 200
    assert (await ask(guarded.front, "/metrics", **bearer(TOKEN)))[0] == 200


@pytest.mark.parametrize("path", [*GUARDED, *OPEN])
async def test_foreign_hosts_and_origins_are_refused_on_every_route_even_with_the_token(
    guarded: Guarded, path: str
) -> None:
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost@evil.example", ""):
        status, answer = await ask(guarded.front, path, Host=host, **bearer(TOKEN))
        if path in OPEN:  # Probes of load balancers send what they like.
            assert status == 200, host
        else:
            assert (status, refused(answer)) == (421, True), host
    for origin in ("http://evil.example", "null", "http://localhost.evil.example", "file://"):
        status, answer = await ask(guarded.front, path, Origin=origin, **bearer(TOKEN))
        assert (status, refused(answer)) == (403, True), origin
    port = guarded.front.port
    for origin in (f"http://localhost:{port}", "http://127.0.0.1:5173"):
        assert (await ask(guarded.front, path, Origin=origin, **bearer(TOKEN)))[0] in (200, 400, 404, 405, 406), path


def refused(answer: Any) -> bool:
    """Whether it is a refusal: the envelope's, or on MCP's paths a JSON-RPC error."""
    return answer.get("success") is False or answer.get("error", {}).get("code") == -32600


async def test_our_own_url_is_refused_as_a_peer_though_it_wants_a_token(guarded: Guarded) -> None:
    headers = {**bearer(TOKEN), "Content-Type": "application/json"}
    async with aiohttp.ClientSession() as session:
        port = guarded.front.port
        other_paths = (f"http://127.0.0.1:{port}", f"http://localhost:{port}//mcp", f"http://127.0.0.1:{port}/%6dcp")
        for url in (guarded.front.url, f"http://localhost:{port}/mcp", *other_paths):
            body = orjson.dumps({"peer_name": "mirror", "peer_url": url})
            async with session.post(guarded.front.base + REST[0], data=body, headers=headers) as response:
                answer = orjson.loads(await response.read())
                assert (response.status, answer["error"]["code"]) == (409, "own_node"), url


async def test_a_discovered_node_that_is_named_again_at_its_url_stays_connected(guarded: Guarded) -> None:
    await renamed_and_back(guarded, {"peer_name": "renamed", "peer_url": guarded.back.url})


async def test_a_node_of_the_mesh_is_added_by_another_spelling_of_its_url_without_a_token(guarded: Guarded) -> None:
    # Nothing that the catalog says helps this dial.
    url = guarded.back.url.replace("127.0.0.1", "localhost")
    await renamed_and_back(guarded, {"peer_name": "renamed", "peer_url": url})
    code, answer = await guarded.front.request("POST", REST[0], {"peer_name": "no", "peer_url": url, "scope": "mesh"})
    await guarded.front.request("DELETE", f"{REST[0]}/no")
    assert (code, answer["data"]["connected"]) == (202, False), "all of a node is for clients with a token"
    assert_silent(answer["message"])


async def renamed_and_back(guarded: Guarded, body: dict[str, str]) -> None:
    """Add `back` once more, use it, and leave the two nodes as they were."""
    front = guarded.front
    code, answer = await front.request("POST", REST[0], body)
    assert (code, answer["data"]["connected"]) == (201, True), answer
    await eventually(partial(front.offers, "kit__add", "back__notes__add"))
    async with front.client() as client:
        assert (await client.call_tool("kit__add", {"terms": [2, 3]})).data.total == 5
    await front.request("DELETE", f"{REST[0]}/{body['peer_name']}")
    await front.request("POST", REST[0], {"peer_name": "back", "peer_url": guarded.back.url})
    await eventually(partial(front.sees, "back"))


async def test_no_token_reaches_a_backend_a_log_or_an_answer(guarded: Guarded) -> None:
    front, back = guarded.front, guarded.back
    for era in ERAS:
        async with front.client(era) as client:
            await client.call_tool("kit__add", {"terms": [1]})
            (config,) = await client.read_resource("config://app")
            (health,) = await client.read_resource("health://system")
            servers = await client.call_tool("list_mcp_servers", {})
            said = [config.text, health.text, servers.content[0].text, str(await client.list_tools())]
            assert "token" in config.text
            assert_silent(*said)
    url = f"http://127.0.0.1:{free_port()}/mcp"
    body = {"peer_name": "elsewhere", "peer_url": url, "auth_token": f"{TOKEN}-of-the-peer"}
    _, posted = await front.request("POST", REST[0], body)
    _, deleted = await front.request("DELETE", f"{REST[0]}/elsewhere")
    _, refused = await front.request("POST", REST[0], {"peer_name": "x", "peer_url": f"{url}\n", "auth_token": 7})
    answers = [
        posted,
        deleted,
        refused,
        *[(await node.request("GET", path))[1] for node in (front, back) for path in REST],
    ]
    metrics = [(await node.request("GET", "/metrics"))[1] for node in (front, back)]
    assert_silent(*[orjson.dumps(answer).decode() for answer in answers], *metrics)
    assert_silent(front.log(), back.log())
    headers = await asyncio.to_thread(guarded.kit.journal.read_text)
    assert "mcp-protocol-version" in headers
    assert "authorization" not in headers
    assert_silent(headers)


def assert_silent(*texts: str) -> None:
    for text in texts:
        at = text.find(TOKEN)
        assert at < 0, f"…{text[max(0, at - 200) : at]}<the token>"


async def test_token_is_replaced_without_a_failed_request(start: StartNode, tmp_path: Path) -> None:
    old, new = "old-token-0123456789abcdef", "new-token-0123456789abcdef"
    file = replace_file(tmp_path / "token", old.encode())
    settings = {**embedded(), "MESH_TOKEN_FILE": str(file)}
    front, back = await all_of(
        start(name, tmp_path / name, servers=own, **settings)
        for name, own in (("front", None), ("back", {"notes": example("notes")}))
    )
    front.token = back.token = old
    await eventually(partial(front.offers, "back__notes__list"))
    await eventually(partial(back.sees, "front"))
    with_new = [RunningNode(n.name, n.port, n.process, n.log_path, new, n.environment) for n in (front, back)]

    async def accepts(nodes: list[RunningNode], *, yes: bool = True) -> bool:
        return [(await node.request("GET", REST[2]))[0] == 200 for node in nodes] == [yes] * len(nodes)

    async def rotated(times: int) -> bool:
        return all(len(node.events("token file read again")) == times for node in (front, back))

    async with steady_calls(front, "back__notes__list") as before:
        await before.grows()
        # First all nodes learn the new one, then all use it, then none knows the old one.
        replace_file(file, f"{old}\n{new}\n".encode())
        replaced_s = time.monotonic()
        await eventually(partial(accepts, with_new), READ_WITHIN_S)
        measured(f"a new token was taken {time.monotonic() - replaced_s:.1f} s after its file was replaced")
        async with steady_calls(with_new[0], "back__notes__list") as after:
            await after.grows()
            replace_file(file, f"{new}\n{old}\n".encode())
            await eventually(partial(rotated, 2))
            await eventually(partial(with_new[0].sees, "back"))
            await before.grows(30)
            await after.grows(30)
    assert before.failures == []
    assert after.failures == []
    async with steady_calls(with_new[0], "back__notes__list") as last:
        await last.grows()
        replace_file(file, f"{new}\n".encode())
        await eventually(partial(accepts, [front, back], yes=False))
        await last.grows(30)
        await eventually(partial(with_new[0].sees, "back"))
        await eventually(partial(with_new[1].sees, "front"))
    assert last.failures == []
    assert old not in front.log() + back.log()
    assert new not in front.log() + back.log()


async def test_peers_do_not_refuse_each_other_while_a_token_is_replaced_in_one_step(
    start: StartNode, tmp_path: Path
) -> None:
    files = {name: replace_file(tmp_path / f"{name}-token", b"old-peer-token-0123456789") for name in ("front", "back")}
    settings = {**embedded(), "MESH_TOKEN": TOKEN}
    front, back = await all_of(
        start(name, tmp_path / name, servers=own, MESH_PEER_TOKEN_FILE=str(files[name]), **settings)
        for name, own in (("front", None), ("back", {"notes": example("notes")}))
    )
    front.token = back.token = TOKEN
    await eventually(partial(front.offers, "back__notes__list"))
    await eventually(partial(back.sees, "front"))

    async def has_read(node: RunningNode, times: int) -> bool:
        return len(node.events("token file read again")) == times

    async with steady_calls(front, "back__notes__list") as calls:
        await calls.grows()
        for times, (first, second) in enumerate([(front, back), (back, front)], start=1):
            for node in (first, second):
                replace_file(files["front" if node is front else "back"], f"peer-token-{times}-0123456789".encode())
                await eventually(partial(has_read, node, times))
                await calls.grows(20)
    assert calls.failures == []
    for node, other in ((front, "back"), (back, "front")):
        peer = (await node.peers())[other]
        assert (peer["connected"], peer["reconnects"]) == (True, 0)


async def test_static_peer_of_a_mesh_with_tokens_is_linked_without_a_catalog(start: StartNode, tmp_path: Path) -> None:
    settings = {"MESH_DISCOVERY": "off", "MESH_TOKEN": TOKEN}
    back = await start("back", tmp_path / "back", servers={"notes": example("notes")}, **settings)
    front = await start("front", tmp_path / "front", MESH_PEERS=f"fixed={back.url}", **settings)
    await eventually(partial(front.offers, "back__notes__list"))
    async with front.client() as client:
        assert not (await client.call_tool("back__notes__list", {})).is_error
    assert_silent(front.log(), back.log())
