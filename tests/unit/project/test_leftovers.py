"""The checks of tests/conftest.py themselves: what is left behind fails a test, what is put away does not.

Runs a second pytest over a small file, because a fixture's failure at teardown cannot be caught from inside.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
EXAMPLE = """
import asyncio, os, socket, subprocess
import pytest

kept = []

async def test_leaves_a_task():
    kept.append(asyncio.get_running_loop().create_task(asyncio.Event().wait(), name="orphan"))

def test_leaves_a_child():
    kept.append(subprocess.Popen(["cat"], stdin=subprocess.PIPE))

def test_leaves_a_socket():
    kept.append(socket.socket())

async def test_puts_away_a_server_and_its_connection():
    async def answer(reader, writer):
        await reader.read()
        writer.close()
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.close()
        await writer.wait_closed()

async def test_puts_away_a_connection_that_comes_as_its_server_closes():
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()) as client:
        for _ in range(2):  # Now it is accepted, and has no transport yet.
            await asyncio.sleep(0)
        server.close()
        await server.wait_closed()
        client.settimeout(5)
        assert await asyncio.to_thread(client.recv, 1) == b""

async def test_puts_away_a_child():
    child = await asyncio.create_subprocess_exec("cat", stdin=subprocess.PIPE)
    child.stdin.close()
    await child.wait()

@pytest.mark.looptime
async def test_spends_loop_time():
    await asyncio.sleep(3600)

def test_sees_no_settings_of_the_shell():
    assert "MESH_TOKEN" not in os.environ and "CONSUL_HTTP_ADDR" not in os.environ and "PORT" not in os.environ
"""
LEAVERS = ("test_leaves_a_task", "test_leaves_a_child", "test_leaves_a_socket")


def test_only_tests_that_leave_something_behind_fail(tmp_path: Path) -> None:
    (tmp_path / "test_example.py").write_text(EXAMPLE)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-rE", str(tmp_path)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "MESH_TOKEN": "x", "CONSUL_HTTP_ADDR": "x", "PORT": "1"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert "8 passed, 3 errors" in done.stdout, done.stdout + done.stderr
    failed = {line.split("::")[1].split(" - ")[0] for line in done.stdout.splitlines() if line.startswith("ERROR ")}
    assert failed == set(LEAVERS)
