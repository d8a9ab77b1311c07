"""An operator's word about peers, over REST: what is kept, what is refused, and that no crash takes it back.

Nodes without discovery, but where suppression needs it. Shapes of the seed are in test_seed_contract.py.
"""

import asyncio
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.e2e.meshes import CatalogKind
from tests.e2e.running import RunningNode, StartNode, nodes_below, start_node
from tests.measured import least
from tests.ports import free_port
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

PEERS = "/api/v1/mcp/peers"
OFF: dict[str, Any] = {"MESH_DISCOVERY": "off"}
# docs/reliability.md: a POST waits for the first attempt, 5 s at most; what is above is the test machine's. Three
# writes have to be on the disk first; one that is busy holds each up for seconds, not each time.
ANSWERED_WITHIN_S = 8.0


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """One node that refuses things, with a static peer that is not there."""
    folder = tmp_path_factory.mktemp("peer-api")
    with nodes_below(folder):
        yield asyncio.run(start_node("self", folder, MESH_PEERS=f"fixed=http://127.0.0.1:{free_port()}/mcp", **OFF))


async def post(node: RunningNode, name: str, url: str, **more: Any) -> tuple[int, Any]:
    return await node.request("POST", PEERS, {"peer_name": name, "peer_url": url, **more})


async def test_removed_discovered_peer_stays_away_through_a_kill_until_it_is_added_again(
    catalog: CatalogKind, start: StartNode, tmp_path: Path
) -> None:
    settings = catalog.fresh()
    one, two = await all_of(start(name, tmp_path / name, **settings) for name in ("one", "two"))
    await eventually(partial(one.sees, "two"))
    await eventually(partial(two.sees, "one"))
    code, _ = await one.request("DELETE", f"{PEERS}/two")
    one.kill()
    assert code == 200
    await one.process.wait()
    again = await start(one)
    await eventually(partial(knows_instances, again, 2))
    await eventually(partial(suppresses, again, "two"))
    assert await again.peers() == {}
    # The other side was not notified and still has its own link.
    await eventually(partial(two.sees, "one"))
    code, answer = await post(again, "two", two.url)
    assert (code, answer["data"]["function_count"]) == (201, 5)
    assert await suppresses(again)
    assert await again.sees("two")
    assert (await again.peers())["two"]["source"] == "override"


async def suppresses(node: RunningNode, *names: str) -> bool:
    return bool((await node.request("GET", PEERS))[1]["data"]["suppressed"] == list(names))


async def knows_instances(node: RunningNode, count: int) -> bool:
    return bool((await node.discovery())["instances"] >= count)


async def test_unreachable_peer_is_saved_and_connects_when_it_appears(start: StartNode, tmp_path: Path) -> None:
    one = await start("one", tmp_path / "one", **OFF)
    port = free_port()
    url = f"http://127.0.0.1:{port}/mcp"
    answers = list[tuple[int, Any]]()

    async def answered_s() -> float:
        before_s = time.monotonic()
        answers.append(await post(one, "later", url))
        return time.monotonic() - before_s

    assert await least(answered_s, ANSWERED_WITHIN_S) < ANSWERED_WITHIN_S
    code, answer = answers[-1]
    assert code == 202
    assert answer["success"] is True
    data = answer["data"]
    assert {key: data[key] for key in ("success", "peer_name", "peer_url", "function_count", "connected")} == {
        "success": True,
        "peer_name": "later",
        "peer_url": url,
        "function_count": 0,
        "connected": False,
    }
    assert data["message"].startswith("Peer node 'later' saved, not connected: ")
    assert "refuses the connection" in data["message"]
    assert data["next_attempt_s"] >= 0
    peer = (await one.peers())["later"]
    assert (peer["connected"], peer["source"]) == (False, "override")
    assert peer["last_error"]
    assert (await post(one, "later", url))[0] == 202
    await start("late", tmp_path / "late", port=port, **OFF)
    await eventually(partial(one.sees, "later"))
    code, answer = await post(one, "later", url)
    assert (code, answer["data"]["function_count"]) == (200, 5)


async def test_our_own_url_is_refused_and_nothing_of_it_is_kept(node: RunningNode) -> None:
    hosts = ("localhost", "LOCALHOST.", "[::1]", "[::ffff:127.0.0.1]")
    by_host = [f"http://{host}:{node.port}/mcp" for host in hosts]
    by_path = [f"http://127.0.0.1:{node.port}{path}" for path in ("", "/", "//mcp", "/%6dcp", "/mcp/", "/mcp/none")]
    for url in (node.url, *by_host, *by_path, f"https://127.0.0.1:{node.port}/mcp"):
        code, answer = await post(node, "mirror", url)
        assert (code, answer["success"], answer["error"]["code"]) == (409, False, "own_node"), url
    assert "mirror" not in await node.peers()
    kept = await asyncio.to_thread(files_of, Path(node.environment["MESH_STATE_DIR"]))
    assert b"node_id" in kept
    assert b"mirror" not in kept


def files_of(folder: Path) -> bytes:
    """All but the audit, which keeps what was refused as well."""
    kept = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("audit"))
    return b"".join(path.read_bytes() for path in kept)


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/mcp",
        "http://169.254.10.1:8000/mcp",
        "http://0.0.0.0:8000/mcp",
        "http://224.0.0.1:8000/mcp",
        "http://[::]:8000/mcp",
        "http://[fe80::1]:8000/mcp",
        "http://[::ffff:169.254.169.254]/mcp",
        "http://[fd00:ec2::254]/mcp",
        "http://2852039166/mcp",
    ],
)
async def test_addresses_that_are_never_peers_are_refused(node: RunningNode, url: str) -> None:
    code, answer = await post(node, "metadata", url)
    assert (code, answer["error"]["code"]) == (403, "address_refused")
    assert "metadata" not in await node.peers()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"peer_url": "http://127.0.0.1:1/mcp"}, "peer_name"),
        ({"peer_name": "x"}, "peer_url"),
        ({"peer_name": "", "peer_url": "http://127.0.0.1:1/mcp"}, "peer_name"),
        ({"peer_name": "a__b", "peer_url": "http://127.0.0.1:1/mcp"}, "peer_name"),
        ({"peer_name": "../x", "peer_url": "http://127.0.0.1:1/mcp"}, "peer_name"),
        ({"peer_name": 7, "peer_url": "http://127.0.0.1:1/mcp"}, "peer_name"),
        ({"peer_name": "x", "peer_url": "ftp://127.0.0.1/mcp"}, "peer_url"),
        ({"peer_name": "x", "peer_url": "http://user:secret@127.0.0.1:1/mcp"}, "peer_url"),
        ({"peer_name": "x", "peer_url": "file:///etc/passwd"}, "peer_url"),
        ({"peer_name": "x", "peer_url": "http://127.0.0.1:1/mcp", "command": "sh"}, "command"),
        ({"peer_name": "x", "peer_url": "http://127.0.0.1:1/mcp", "scope": "everything"}, "scope"),
        ({"peer_name": "x", "peer_url": "http://127.0.0.1:1/mcp", "auth_token": "two words"}, "auth_token"),
        ([], "body"),
    ],
)
async def test_bad_fields_are_named(node: RunningNode, body: Any, field: str) -> None:
    code, answer = await node.request("POST", PEERS, body)
    assert code == 422
    assert answer["success"] is False
    assert field in answer["message"]
    assert "secret" not in orjson.dumps(answer).decode()
    assert (await node.peers()).keys() == {"fixed"}


@pytest.mark.parametrize("body", [b"", b"{", b"peer_name=x", b'{"peer_name": "x"', b"\xff\xfe"])
async def test_bodies_that_are_no_json_are_bad_requests(node: RunningNode, body: bytes) -> None:
    code, answer = await node.request("POST", PEERS, body)
    assert (code, answer["success"], answer["error"]["code"]) == (400, False, "invalid_json")


async def test_clients_read_the_settings_with_the_names_of_peers_and_no_address(node: RunningNode) -> None:
    async with node.client() as client:
        (config,) = await client.read_resource("config://app")
    assert orjson.loads(config.text)["peers"]["value"] == "fixed"
    assert "://" not in config.text


async def test_names_that_are_taken_and_removals_that_cannot_be_are_refused(node: RunningNode) -> None:
    code, answer = await post(node, "self", "http://127.0.0.1:1/mcp")
    assert (code, answer["error"]["code"]) == (409, "own_node")
    code, answer = await post(node, "fixed", "http://127.0.0.1:1/mcp")
    assert (code, answer["error"]["code"]) == (409, "name_taken")
    code, answer = await node.request("DELETE", f"{PEERS}/nobody")
    assert (code, answer["error"]["code"], answer["message"]) == (
        404,
        "unknown_peer",
        "There is no peer named 'nobody'.",
    )
    code, answer = await node.request("DELETE", f"{PEERS}/fixed")
    assert (code, answer["error"]["code"]) == (409, "static_peer")
    assert (await node.peers()).keys() == {"fixed"}
