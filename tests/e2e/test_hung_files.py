"""A real node whose files lie on a file system that does not answer, as that of a network may; as root.

The one rule: whatever looks at such a file waits in the kernel; the node answers, follows its catalog, and ends.
"""

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.consul_process import RunningConsul
from tests.e2e.running import ONE_MESH, RunningNode, StartNode, stop_node
from tests.e2e.servers_files import example
from tests.measured import measured
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.consul, pytest.mark.timeout(120)]

FUSE = Path("/dev/fuse")
_FORCE_AND_DETACH = 3
# A look that hangs costs `LOOK_TIMEOUT_S` once; the rest is the machine's.
ANSWERED_WITHIN_S = 2.0


class HungFolder:
    """A mounted file system whose server never answers a question of the kernel's."""

    def __init__(self, folder: Path) -> None:
        self.path, self._libc = folder, ctypes.CDLL(None, use_errno=True)
        self._server = os.open(FUSE, os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._server},rootmode=40000,user_id=0,group_id=0".encode()
        self.is_mounted = self._libc.mount(b"hung", os.fsencode(folder), b"fuse", 0, options) == 0

    def end(self) -> None:
        """Those that wait get an error."""
        if self.is_mounted:
            self._libc.umount2(os.fsencode(self.path), _FORCE_AND_DETACH)
            self.is_mounted = False
        if self._server >= 0:
            os.close(self._server)
            self._server = -1


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[HungFolder]:
    if os.geteuid() != 0 or not FUSE.exists():
        pytest.skip("NO FILE SYSTEM OF ONE'S OWN: one that hangs was not tried; it takes root and FUSE")
    (tmp_path / "hung").mkdir()
    folder = HungFolder(tmp_path / "hung")
    try:
        if not folder.is_mounted:
            pytest.skip("NO FILE SYSTEM OF ONE'S OWN: one that hangs was not tried; it cannot be mounted here")
        yield folder
    finally:
        folder.end()


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
        link = path.with_name(f"{path.name}.link")
        link.symlink_to(hung.path / path.name)
        link.replace(path)
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


async def says_that_it_hangs(node: RunningNode) -> bool:
    said = node.events("CONSUL_HTTP_TOKEN_FILE cannot be read")
    return any(one["reason"] == "its file system does not answer" for one in said)


async def has_said(node: RunningNode, event: str) -> bool:
    return bool(node.events(event))


async def answered_s(node: RunningNode) -> float:
    began_s = time.monotonic()
    assert (await node.request("GET", "/healthz"))[0] == 200
    return time.monotonic() - began_s


async def knows_none(node: RunningNode) -> bool:
    return await node.peers() == {}
