"""When a node says that it is ready: after the first attempt of its own servers, and after ten seconds in any case."""

import asyncio
import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.by_hand import modern_request
from tests.e2e.processes import environment_of, spawn_node
from tests.e2e.running import LIVING, RunningNode, stop_all
from tests.e2e.servers_files import write_servers
from tests.integration.servers import pid_server
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

CALL = {"name": "kit__pid", "arguments": {}}
# A busy machine may take longer than the ten seconds of a start to ask four questions, not each time.
STARTS_MAX = 3


def held_up_until(path: Path) -> dict[str, Any]:
    """The entry of a server that starts when the file is there."""
    wait = f"while [ ! -e {shlex.quote(str(path))} ]; do sleep 0.05; done"
    program = f"{wait}; exec {shlex.join([sys.executable, pid_server.__file__])}"
    return {"command": "sh", "args": ["-c", program], "mesh": {"scope": "service"}}


@asynccontextmanager
async def starting_node(tmp_path: Path) -> AsyncIterator[RunningNode]:
    """A node that listens already, whose only server waits for the file `go`."""
    servers = write_servers(tmp_path, {"kit": held_up_until(tmp_path / "go")})
    port = free_port()
    settings = {
        "PORT": str(port),
        "MESH_NODE_NAME": "one",
        "MESH_STATE_DIR": str(tmp_path / "state"),
        "MESH_SERVERS_FILE": str(servers),
        "MESH_DISCOVERY": "off",
    }
    log_path = tmp_path / "one.log"
    node = RunningNode("one", port, spawn_node(log_path, environment_of(settings)), log_path)
    LIVING.append(node)

    async def listens() -> bool:
        return bool(node.events("node ready"))

    try:
        await eventually(listens, 60)
        yield node
    finally:
        await stop_all([node])


async def refusal(node: RunningNode, tool: str) -> str:
    with pytest.raises(AssertionError) as caught:
        await modern_request(node.url, "tools/call", CALL | {"name": tool})
    return str(caught.value)


async def is_ready(node: RunningNode) -> bool:
    return await node.request("GET", "/readyz") == (200, {"status": "ready"})


async def answers_of(starting: RunningNode) -> list[object]:
    """What it says of itself, and of a call of its server's tool and of another one."""
    said: list[object] = [await starting.request("GET", path) for path in ("/readyz", "/healthz")]
    async with asyncio.TaskGroup() as group:  # At once, for either waits some seconds, and a start has ten.
        tasks = [group.create_task(refusal(starting, name), name=name) for name in ("kit__pid", "other__pid")]
    return said + ["-32000" in task.result() and "not_executed" in task.result() for task in tasks]


async def test_a_node_is_starting_until_its_server_has_been_listed_and_no_name_is_unknown_meanwhile(
    tmp_path: Path,
) -> None:
    expected = [(503, {"status": "starting"}), (200, {"status": "alive"}), True, True]
    for number in range(STARTS_MAX):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with starting_node(folder) as starting:
            answers = await answers_of(starting)
            if answers != expected and await is_ready(starting):
                continue  # Its ten seconds were over.
            assert answers == expected
            (folder / "go").touch()
            # A call waits three seconds for it, and a busy machine takes longer to start it.
            assert (await eventually(partial(modern_request, starting.url, "tools/call", CALL)))["content"]
            await eventually(partial(is_ready, starting))
            return
    pytest.fail(f"ready each time: {answers}")


async def test_a_node_is_ready_after_ten_seconds_though_its_server_is_not(tmp_path: Path) -> None:
    async with starting_node(tmp_path) as starting:
        await eventually(partial(is_ready, starting))
        assert "server kit on one is away since " in await refusal(starting, "kit__pid")
        assert "Unknown tool" in await refusal(starting, "other__pid")
