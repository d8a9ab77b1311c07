"""Signals of operators and supervisors: a reload, ones without a meaning, and an end in the middle of the start."""

import asyncio
import signal
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.processes import environment_of, spawn
from tests.e2e.running import ONE_MESH, RunningNode, StartNode
from tests.e2e.servers_files import example, replace_file, write_servers
from tests.measured import measured
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

# From before the first import to well after a node is ready, on a fast machine and on a slow one.
ENDED_AFTER_S = (0.02, 0.2, 0.4, 0.6, 0.8, 1.0, 1.3)


async def test_a_hangup_reads_the_files_again_and_other_signals_mean_nothing(start: StartNode, tmp_path: Path) -> None:
    node = await start("one", tmp_path / "one", servers={"clock": example("clock")}, MESH_DISCOVERY="off")
    # A node is ready after ten seconds though its servers are not.
    await eventually(partial(node.offers, "one__clock__now"))
    child = node.events("MCP link ready")
    for harmless in (signal.SIGUSR1, signal.SIGUSR2):
        node.process.send_signal(harmless)
    node.process.send_signal(signal.SIGHUP)
    await eventually(partial(has_said, node, "servers file read again"))
    assert node.events("reload asked for by a signal")
    replace_file(tmp_path / "one" / "servers.json", b"{broken")
    node.process.send_signal(signal.SIGHUP)
    await eventually(partial(has_said, node, "servers file refused, the running configuration stays"))
    status = await node.status()
    assert "servers.json:1: is not JSON" in status["self"]["servers_file_fault"]
    assert await node.metric("mesh_servers_file_ok") == 0
    refused = {"servers_file": "refused"}
    assert await health(node) == [{"status": "alive"} | refused, {"status": "ready"} | refused]
    assert await node.offers("one__clock__now")
    write_servers(tmp_path / "one", {"clock": example("clock")})
    await eventually(partial(is_whole_again, node))
    assert await node.metric("mesh_servers_file_ok") == 1
    assert await health(node) == [{"status": "alive"}, {"status": "ready"}]
    assert node.events("MCP link ready")[: len(child)] == child
    assert node.process.returncode is None


@pytest.mark.parametrize("begins", [("-m", "agent"), ("-c", "import mcp_mesh_agent as it; it.main()")])
async def test_what_does_not_end_a_node_does_not_end_one_that_starts(tmp_path: Path, begins: tuple[str, str]) -> None:
    environment = environment_of(
        {"PORT": str(free_port()), "MESH_STATE_DIR": str(tmp_path / "state"), "MESH_DISCOVERY": "off"}
    )
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-X", "importtime", *begins, "run", stdout=file, stderr=file, env=environment
        )
    for imported in ("agent.early_signals", "agent.cli.parser", "agent.app.node"):
        await eventually(partial(has_written, log, imported))
        for harmless in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
            process.send_signal(harmless)
    await eventually(partial(has_written, log, "node ready"))
    assert process.returncode is None
    process.terminate()
    async with asyncio.timeout(60):
        await process.wait()


async def has_written(log: Path, word: str) -> bool:
    return word in await asyncio.to_thread(log.read_text)


async def has_said(node: RunningNode, event: str) -> bool:
    return bool(node.events(event))


async def health(node: RunningNode) -> list[object]:
    answers = [await node.request("GET", path) for path in ("/healthz", "/readyz")]
    assert [code for code, _ in answers] == [200, 200]
    return [body for _, body in answers]


async def is_whole_again(node: RunningNode) -> bool:
    return (await node.status())["self"]["servers_file_fault"] is None


async def test_a_node_that_is_ended_at_any_moment_of_its_start_leaves_nothing_registered(
    start: StartNode, tmp_path: Path
) -> None:
    settings = {"MESH_DISCOVERY": "embedded", "MESH_EMBEDDED_PORT": str(free_port())}
    stays = await start("stays", tmp_path / "stays", **settings)

    async def begin_and_end(number: int, after_s: float | None) -> int:
        folder = tmp_path / f"short-{number}"
        folder.mkdir()
        environment = environment_of(
            {
                "PORT": str(free_port()),
                "MESH_NODE_NAME": f"short-{number}",
                "MESH_STATE_DIR": str(folder / "state"),
                "MESH_PEER_TOKEN": ONE_MESH,
                **settings,
            }
        )
        process = spawn(("agent", "run"), folder / "log", environment)
        if after_s is None:
            await eventually(partial(is_ready, folder / "log"))
        else:
            with suppress(TimeoutError):
                async with asyncio.timeout(after_s):
                    await process.wait()
        process.terminate()
        async with asyncio.timeout(60):
            return await process.wait()

    codes = [await begin_and_end(number, after_s) for number, after_s in enumerate((*ENDED_AFTER_S, None))]
    # The first ones ended before there was a handler, the last one in order.
    assert set(codes) <= {0, -signal.SIGTERM}
    assert codes[-1] == 0
    await eventually(partial(knows_itself_alone, stays))
    measured(f"{len(codes)} starts ended between {ENDED_AFTER_S[0]} s and readiness, nothing stays registered")


async def is_ready(log: Path) -> bool:
    return '"node ready"' in await asyncio.to_thread(log.read_text)


async def knows_itself_alone(node: RunningNode) -> bool:
    assert await node.peers() == {}
    return bool((await node.discovery())["instances"] == 1)
