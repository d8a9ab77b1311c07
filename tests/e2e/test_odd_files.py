"""Pipes, folders and sockets in the place of files that a node reads: each is named with its fix, none is waited for.

The one rule: a running node goes on with what each file said last.
"""

import hashlib
import json
import os
import signal
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.processes import environment_of, spawn_node
from tests.e2e.running import ONE_MESH, RunningNode, StartNode
from tests.e2e.servers_files import example, replace_file
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

FIX = "it is a pipe and no ordinary file; put its content into a file there"
TOKEN = "a-token-of-operators-that-is-long-enough"


async def test_a_pipe_in_place_of_any_file_that_is_read_again_stops_nothing(start: StartNode, tmp_path: Path) -> None:
    named = {"ci": {"sha256": hashlib.sha256(b"of ci").hexdigest(), "scopes": ["mcp"]}}
    contents = {
        "views.json": json.dumps({"views": {"team": {"tools": ["one__clock__now"]}}}),
        "tokens.json": json.dumps({"tokens": named}),
        "secret": ONE_MESH,
        "peers.json": json.dumps([{"targets": [f"127.0.0.1:{free_port()}"], "labels": {"name": "away"}}]),
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    node = await start(
        "one",
        tmp_path / "one",
        servers={"clock": example("clock")},
        MESH_DISCOVERY="off",
        MESH_TOKEN=TOKEN,
        MESH_VIEWS_FILE=str(tmp_path / "views.json"),
        MESH_TOKENS_FILE=str(tmp_path / "tokens.json"),
        MESH_PEER_TOKEN_FILE=str(tmp_path / "secret"),
        MESH_PEER_FILES=str(tmp_path / "peers.json"),
    )
    await eventually(partial(knows_peer, node))
    await eventually(partial(node.offers, "one__clock__now"))
    said = {
        tmp_path / "one" / "servers.json": "servers file refused, the running configuration stays",
        tmp_path / "views.json": "views file refused, its views stay as they are",
        tmp_path / "tokens.json": "tokens file refused, the tokens stay as they are",
        tmp_path / "secret": "token file refused, the tokens stay",
        tmp_path / "peers.json": "a file of peers is not taken, what it said before stays",
    }
    before = {path: path.read_bytes() for path in said}
    for path, event in said.items():
        put_pipe(path)
        await eventually(partial(has_said, node, event))
        (record,) = node.events(event)
        assert str(path) in record["reason"]
        assert FIX in record["reason"]
        assert (await node.request("GET", "/healthz"))[0] == 200
    status = await node.status()
    assert FIX in status["self"]["servers_file_fault"]
    assert FIX in status["self"]["discovery"]["sources"][0]["last_error"]
    assert await node.metric("mesh_servers_file_ok") == 0
    assert await node.offers("one__clock__now")
    assert await knows_peer(node)
    for path, content in before.items():
        replace_file(path, content)
    for event in ("servers file read again", "token file read again", "tokens file read again"):
        await eventually(partial(has_said, node, event))
    assert (await node.status())["self"]["servers_file_fault"] is None


async def test_a_start_with_a_pipe_in_place_of_the_servers_file_names_it_and_ends(tmp_path: Path) -> None:
    path, log = tmp_path / "servers.json", tmp_path / "log"
    os.mkfifo(path)
    settings = {"PORT": str(free_port()), "MESH_STATE_DIR": str(tmp_path / "state"), "MESH_SERVERS_FILE": str(path)}
    process = spawn_node(log, environment_of(settings))
    assert await process.wait() == 2
    assert f"{path}: the servers file cannot be read: {FIX}" in log.read_text()


async def test_a_node_without_any_file_reads_none_again_and_reloads_all_the_same(
    start: StartNode, tmp_path: Path
) -> None:
    node = await start("one", tmp_path / "one", MESH_DISCOVERY="off")
    node.process.send_signal(signal.SIGHUP)
    await eventually(partial(has_said, node, "reload asked for by a signal"))
    async with node.client() as client:
        told = await client.call_tool("reload_all_mcp_servers")
    assert not told.is_error
    assert [one for one in node.events() if one["level"] in ("warning", "error")] == []


def put_pipe(path: Path) -> None:
    """In the place of a file, by a rename."""
    draft = path.with_name(f"{path.name}.pipe")
    os.mkfifo(draft)
    draft.replace(path)


async def has_said(node: RunningNode, event: str) -> bool:
    return bool(node.events(event))


async def knows_peer(node: RunningNode) -> bool:
    return "away" in await node.peers()
