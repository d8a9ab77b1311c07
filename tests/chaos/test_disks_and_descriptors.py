"""A real node whose disk is full or read-only, and one that has no descriptors left.

Its state lies on a small file system of the test's own, which takes root. The one rule: calls go on; what an operator
orders is refused with the reason, or is on the disk; and all is as before once there is room again.
"""

import asyncio
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.running import RunningNode, running_nodes
from tests.e2e.servers_files import example
from tests.e2e.steady_calls import steady_calls
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

PEERS = "/api/v1/mcp/peers"
SIZE_KIB = 512
MORE = 50
REFUSES = "no connection can be accepted"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_KIB}k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, timeout=10, check=False).returncode != 0:
        pytest.skip("NO FILE SYSTEM OF ONE'S OWN: a full disk was not tried; it takes root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], timeout=10, check=True)


def fill(filler: Path, state: Path) -> bool:
    """Let a file take all the room that is left; whether no draft is left that may give some of it back."""
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        for _ in range(SIZE_KIB * 2):
            file.write(bytes(1024))
    return not list(state.glob("*.tmp")) and os.statvfs(filler).f_bavail == 0


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], timeout=10, check=True)


async def ordered(node: RunningNode, method: str, name: str) -> tuple[int, str]:
    """Add or remove a peer that is not there; the status and the code of the answer."""
    body = {"peer_name": name, "peer_url": f"http://127.0.0.1:{free_port()}/mcp"} if method == "POST" else None
    status, answer = await node.request(method, PEERS if body else f"{PEERS}/{name}", body)
    return status, (answer.get("error") or {}).get("code", "")


async def test_full_disk_stops_no_call_a_read_only_one_is_refused_at_the_start_and_both_keep_what_was_acknowledged(
    small_disk: Path, tmp_path: Path
) -> None:
    settings = {"MESH_STATE_DIR": str(small_disk / "state"), "MESH_DISCOVERY": "off"}
    async with running_nodes() as start:
        node = await start("node", tmp_path / "node", servers={"dice": example("dice")}, **settings)
        await eventually(partial(node.offers, "node__dice__roll"))
        async with steady_calls(node, "node__dice__roll") as tally:
            assert (await ordered(node, "POST", "before"))[0] == 202
            filler = small_disk / "filler"
            await eventually(partial(asyncio.to_thread, fill, filler, small_disk / "state"))
            assert await ordered(node, "POST", "while-full") == (507, "not_saved")
            await tally.grows(20)
            filler.unlink()
            assert (await ordered(node, "POST", "after"))[0] == 202
            assert (await ordered(node, "DELETE", "before"))[0] == 200
        assert tally.failures == []
        assert (await node.peers()).keys() == {"after"}
        node.kill()
        await node.process.wait()
        remount(small_disk, "ro")
        with pytest.raises(RuntimeError, match=r"exited with 2:(?s:.*)Read-only file system"):
            await start(node)
        remount(small_disk, "rw")
        node = await start(node)
        assert (await node.peers()).keys() == {"after"}


async def test_node_without_descriptors_goes_on_with_the_connections_that_it_has_and_takes_new_ones_later(
    tmp_path: Path,
) -> None:
    async with running_nodes() as start:
        node = await start("node", tmp_path / "node", servers={"dice": example("dice")}, MESH_DISCOVERY="off")
        await eventually(partial(node.offers, "node__dice__roll"))
        limits = resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE)
        async with steady_calls(node, "node__dice__roll", eras=["auto"]) as tally:
            await tally.grows(20)
            used = highest_descriptor(node.process.pid) + 1
            resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE, (used, limits[1]))
            held = [(await asyncio.open_connection("127.0.0.1", node.port))[1] for _ in range(MORE)]
            await tally.grows(20)
            await eventually(partial(says_so, node))
            for writer in held:
                writer.close()
            resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE, limits)
            assert (await node.request("GET", "/readyz"))[0] == 200
            await tally.grows(20)
        assert tally.failures == []
        assert len(node.events(REFUSES)) == 1


def highest_descriptor(process_id: int) -> int:
    return max(int(path.name) for path in Path(f"/proc/{process_id}/fd").iterdir())


async def says_so(node: RunningNode) -> bool:
    return bool(node.events(REFUSES))
