"""A real node whose files lie on a file system that does not answer, as that of a network may; as root.

The one rule: whatever looks at such a file waits in the kernel; the node answers, follows its catalog, and ends.
"""

import asyncio
import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.consul_process import RunningConsul
from tests.e2e.running import ONE_MESH, RunningNode, StartNode, stop_node
from tests.e2e.servers_files import example, replace_file
from tests.hung_folder import HungFolder, hung_folder
from tests.measured import measured
from tests.processor_time import processor_time
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.consul, pytest.mark.timeout(120)]

# A look that hangs costs `LOOK_TIMEOUT_S` once; the rest is the machine's.
ANSWERED_WITHIN_S = 2.0
LIVES_S = 8.0
# `LOOK_EVERY_S` or `POLL_EVERY_S`; the rest is the machine's.
ENDED_WITHIN_S = 10.0
BRIEF = {"Authorization": "Bearer brief-token-long-enough", "Accept": "application/json, text/event-stream"}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[HungFolder]:
    with hung_folder(tmp_path / "hung") as folder:
        yield folder


async def test_a_node_whose_files_hang_answers_follows_its_catalog_and_ends(
    consul: RunningConsul, start: StartNode, tmp_path: Path, hung: HungFolder
) -> None:
    files = {name: tmp_path / name for name in ("views.json", "secret", "peers.json", "token")}
    contents = ('{"views": {}}', ONE_MESH, "[]", "any")
    for path, content in zip(files.values(), contents, strict=True):
        path.write_text(content)
    node = await start(
        "one",
        tmp_path / "one",
        servers={"clock": example("clock")},
        MESH_VIEWS_FILE=str(files["views.json"]),
        MESH_PEER_TOKEN_FILE=str(files["secret"]),
        MESH_PEER_FILES=str(files["peers.json"]),
        CONSUL_HTTP_TOKEN_FILE=str(files["token"]),
        CONSUL_HTTP_ADDR=consul.url,
    )
    await eventually(partial(node.offers, "one__clock__now"))
    for path in (*files.values(), tmp_path / "one" / "servers.json"):
        let_hang(path, hung)
    await eventually(partial(says_that_it_hangs, node))
    other = await start("two", tmp_path / "two", CONSUL_HTTP_ADDR=consul.url)
    await eventually(partial(node.sees, "two"))
    await eventually(partial(other.sees, "one"))
    took_s = [await answered_s(node) for _ in range(20)]
    assert max(took_s) < ANSWERED_WITHIN_S
    node.process.send_signal(signal.SIGHUP)
    await eventually(partial(has_said, node, "reload asked for by a signal"))
    began_s = time.monotonic()
    assert await stop_node(node) == 0
    measured(f"answered within {max(took_s):.3f} s, stopped in order in {time.monotonic() - began_s:.1f} s")
    await eventually(partial(knows_none, other))


async def test_a_token_ends_with_what_it_opened_though_the_file_of_tokens_hangs(
    start: StartNode, tmp_path: Path, hung: HungFolder
) -> None:
    path = write_tokens(tmp_path, brief=None)
    node = await start("one", tmp_path / "one", MESH_DISCOVERY="off", MESH_TOKENS_FILE=str(path))
    async with aiohttp.ClientSession(headers=BRIEF) as http:
        async with http.post(node.url, json=INITIALIZE) as answer:
            session = {"Mcp-Session-Id": answer.headers["Mcp-Session-Id"]}
        async with http.get(node.url, headers=session) as stream:
            assert stream.status == 200
            ends_s = time.time() + LIVES_S  # From now on, for a busy machine takes longer than this to come so far.
            write_tokens(tmp_path, brief=datetime.fromtimestamp(ends_s, UTC).isoformat())
            await eventually(partial(has_said, node, "tokens file read again"))
            let_hang(path, hung)
            node.process.send_signal(signal.SIGHUP)  # Else it would be looked at for ever, and not read.
            await eventually(partial(has_said, node, "reload asked for by a signal"))
            async with asyncio.timeout(LIVES_S + ENDED_WITHIN_S):
                await stream.content.read()
    assert time.time() >= ends_s
    measured(f"its stream ended {time.time() - ends_s:.1f} s after the token")
    assert await stop_node(node) == 0


async def test_a_token_is_revoked_though_the_servers_file_hangs(
    start: StartNode, tmp_path: Path, hung: HungFolder
) -> None:
    path = write_tokens(tmp_path, brief=None)
    node = await start(
        "one", tmp_path / "one", servers={"clock": example("clock")}, MESH_DISCOVERY="off", MESH_TOKENS_FILE=str(path)
    )
    let_hang(tmp_path / "one" / "servers.json", hung)
    node.process.send_signal(signal.SIGHUP)
    await eventually(partial(has_said, node, "reload asked for by a signal"))
    write_tokens(tmp_path)

    async def is_refused() -> bool:
        async with aiohttp.ClientSession(headers=BRIEF) as http, http.post(node.url, json=INITIALIZE) as answer:
            return answer.status == 401

    await eventually(is_refused, ENDED_WITHIN_S)
    assert await stop_node(node) == 0


def write_tokens(folder: Path, **expires: str | None) -> Path:
    """Tokens of these names, each its own text, with when they end; `brief` is what `BRIEF` carries."""
    tokens: dict[str, Any] = {"other": {"sha256": hashlib.sha256(b"of another").hexdigest(), "scopes": ["mcp"]}}
    for name, end in expires.items():
        text = f"{name}-token-long-enough".encode()
        tokens[name] = {"sha256": hashlib.sha256(text).hexdigest(), "scopes": ["mcp"]}
        tokens[name] |= {} if end is None else {"expires": end}
    return replace_file(folder / "tokens.json", json.dumps({"tokens": tokens}).encode())


def let_hang(path: Path, hung: HungFolder) -> None:
    """Put a link into the folder that does not answer in its place."""
    link = path.with_name(f"{path.name}.link")
    link.symlink_to(hung.path / path.name)
    link.replace(path)


async def says_that_it_hangs(node: RunningNode) -> bool:
    said = node.events("CONSUL_HTTP_TOKEN_FILE cannot be read")
    return any(one["reason"] == "its file system does not answer" for one in said)


async def has_said(node: RunningNode, event: str) -> bool:
    return bool(node.events(event))


async def answered_s(node: RunningNode) -> float:
    """Without the time in which other programs had the processor that the node, or this test, was ready to use."""
    both = (node.process.pid, os.getpid())
    began_s, before = time.monotonic(), [processor_time(one) for one in both]
    assert (await node.request("GET", "/healthz"))[0] == 200
    waited_s = sum((processor_time(one) - then).waited_s for one, then in zip(both, before, strict=True))
    return time.monotonic() - began_s - waited_s


async def knows_none(node: RunningNode) -> bool:
    return await node.peers() == {}
