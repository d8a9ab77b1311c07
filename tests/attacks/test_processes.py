"""What a program of the node's own account finds of its secrets, and what lives on of a node that is killed."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from agent.client.stdio.cgroup import own_group
from tests.e2e.processes import ROOT, NodeProcess, environment_of, has_ended
from tests.e2e.running import RunningNode, StartNode, running_nodes, stop_node
from tests.e2e.servers_files import example, write_servers
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="NO /proc ON THIS MACHINE: what it shows is not tested"),
]

TOKEN = "s1lent-token-0123456789abcdef"
# The system's administrator may see everything, so for these tests it is an account like others.
POWERLESS = ("setpriv", "--bounding-set=-all") if os.geteuid() == 0 else ()
SECRETS = (TOKEN, "s1lent-of-the-mesh-0123456789", "s1lent-of-consul", "s1lent-key-of-a-server")

# A server that keeps running whatever happens, with a process in a session of its own, as browsers are started.
STUBBORN = """
import os, pathlib, runpy, signal, subprocess, sys, threading
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[2]).write_text(f"{os.getpid()}\\n")
forever = "trap '' TERM HUP INT; echo $$ > $0.new; mv $0.new $0; exec sleep 600"
subprocess.Popen(["sh", "-c", forever, sys.argv[1]], start_new_session=True)
try:
    runpy.run_module("agent.examples.clock", run_name="__main__")
finally:
    threading.Event().wait()
"""


def as_a_program_of_the_account(path: Path) -> subprocess.CompletedProcess[bytes]:
    """What a program reads there that runs as the node's account and has no rights beyond it."""
    return subprocess.run([*POWERLESS, "cat", str(path)], capture_output=True, check=False, timeout=20)


def powerless_node(folder: Path, settings: dict[str, str]) -> RunningNode:
    """A node that is started as a user starts one; what is started there starts."""
    port = free_port()
    environment = environment_of(
        {"PORT": str(port), "MESH_NODE_NAME": "node", "MESH_STATE_DIR": str(folder / "state"), **settings}
    )
    with (folder / "node.log").open("ab") as log:
        process = subprocess.Popen(
            [*POWERLESS, sys.executable, "-m", "agent", "run"],
            env=environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    return RunningNode("node", port, NodeProcess(process), folder / "node.log", TOKEN, environment)


@pytest.fixture
async def start() -> AsyncIterator[StartNode]:
    async with running_nodes() as starting:
        yield starting


@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="NO setpriv TO GIVE UP root WITH")
async def test_no_program_of_the_nodes_account_finds_its_secrets_in_the_process_table(tmp_path: Path) -> None:
    token, mesh, consul, key = SECRETS
    notes = {**example("notes", "service"), "env": {"NOTES_KEY": "${KEY_OF_NOTES}"}}
    settings = {
        "MESH_TOKEN": token,
        "MESH_PEER_TOKEN": mesh,
        "CONSUL_HTTP_TOKEN": consul,
        "KEY_OF_NOTES": key,
        "MESH_DISCOVERY": "off",
        "MESH_SERVERS_FILE": str(write_servers(tmp_path, {"notes": notes})),
    }
    node = powerless_node(tmp_path, settings)
    try:
        await eventually(partial(node.offers, "notes__add"))
        shows_no_secret(node)
    finally:
        await stop_node(node)


def shows_no_secret(node: RunningNode) -> None:
    key = SECRETS[3]
    process = Path(f"/proc/{node.process.pid}")
    if os.geteuid() == 0:  # The administrator sees it, and not even there are they.
        started_with = (process / "environ").read_bytes().decode()
        assert f"MESH_NODE_NAME={node.name}" in started_with
        assert [secret for secret in SECRETS if secret in started_with] == []
    for table in ("environ", "maps"):
        assert as_a_program_of_the_account(process / table).returncode != 0, table

    # The same tables of a child are open. It has its own key and nothing of its node's.
    children = (process / "task" / process.name / "children").read_text().split()
    environments = [as_a_program_of_the_account(Path(f"/proc/{child}/environ")).stdout.decode() for child in children]
    with_key = [text for text in environments if f"NOTES_KEY={key}" in text]
    assert len(with_key) == 1, environments
    assert [secret for text in environments for secret in SECRETS[:3] if secret in text] == []


async def pids_in(*files: Path) -> list[int]:
    """To be asked again: a process that was started a moment ago has not written its own yet, or not all of it."""
    texts = [path.read_text() for path in files]
    assert all(text.endswith("\n") for text in texts), texts
    return list(map(int, texts))


async def none_lives(pids: list[int]) -> bool:
    assert [pid for pid in pids if not has_ended(pid)] == []
    return True


def kill_all(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def test_nothing_that_a_node_started_outlives_its_kill_not_even_in_a_session_of_its_own(
    start: StartNode, tmp_path: Path
) -> None:
    grandchild, child = tmp_path / "grandchild", tmp_path / "child"
    # Found by its mark, as on a machine without control groups.
    stubborn = {**example("clock"), "args": ["-c", STUBBORN, str(grandchild), str(child)], "mesh": {"cgroup": False}}
    node = await start("node", tmp_path, servers={"stubborn": stubborn}, MESH_DISCOVERY="off")

    await eventually(partial(node.offers, "node__stubborn__now"))
    pids = await eventually(partial(pids_in, grandchild, child))
    assert not any(map(has_ended, pids))
    os.kill(node.process.pid, signal.SIGKILL)
    try:
        await eventually(partial(none_lives, pids))
    finally:
        kill_all(pids)


GROUPS = own_group()
HAS_GROUPS = isinstance(GROUPS, Path) and os.access(GROUPS, os.W_OK) and (GROUPS / "cgroup.procs").exists()

# Has no mark, session or parent by which it could be found: it forks twice, and its environment is empty.
ESCAPED = """
import pathlib, runpy, subprocess, sys
away = "import os, pathlib, sys, time; pid = os.fork(); pid and os._exit(0); os.setsid(); "
away += "pathlib.Path(sys.argv[1]).write_text(str(os.getpid()) + chr(10)); time.sleep(600)"
subprocess.run([sys.executable, "-c", away, sys.argv[1]], env={}, start_new_session=True)
runpy.run_module("agent.examples.clock", run_name="__main__")
"""


def groups_of(node: RunningNode) -> list[Path]:
    assert isinstance(GROUPS, Path)
    return list(GROUPS.glob(f"mesh-agent-{node.process.pid}-*"))


@pytest.mark.skipif(not HAS_GROUPS, reason="NO cgroup2 THAT THIS ACCOUNT MAY WRITE: groups of children are not tested")
async def test_a_node_that_starts_no_child_makes_no_group(start: StartNode, tmp_path: Path) -> None:
    node = await start("node", tmp_path, MESH_DISCOVERY="off")
    assert groups_of(node) == []


@pytest.mark.skipif(not HAS_GROUPS, reason="NO cgroup2 THAT THIS ACCOUNT MAY WRITE: groups of children are not tested")
async def test_what_hides_from_its_node_is_ended_by_its_control_group_and_no_group_is_left(
    start: StartNode, tmp_path: Path
) -> None:
    escaped = {
        name: {**example("clock"), "args": ["-c", ESCAPED, str(tmp_path / name)], "mesh": {"cgroup": True}}
        for name in ("removed", "killed")
    }
    node = await start("node", tmp_path, servers=escaped, MESH_DISCOVERY="off")
    await eventually(partial(node.offers, "node__removed__now"))
    await eventually(partial(node.offers, "node__killed__now"))
    pids = await eventually(partial(pids_in, tmp_path / "removed", tmp_path / "killed"))
    (folder,) = groups_of(node)
    try:
        assert not any(map(has_ended, pids))
        # A server that is taken out of the file while the node runs.
        write_servers(tmp_path, {"killed": escaped["killed"]})
        await eventually(partial(none_lives, pids[:1]))
        assert not has_ended(pids[1])
        os.kill(node.process.pid, signal.SIGKILL)
        await eventually(partial(none_lives, pids))
        await eventually(partial(is_gone, folder))
    finally:
        kill_all(pids)


async def is_gone(folder: Path) -> bool:
    return not os.access(folder, os.F_OK)
