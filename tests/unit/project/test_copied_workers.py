"""A worker of a run is a copy that has imported the tests, with the streams, place and environment of its command."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.copied_workers import copied_workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are copied where abstract sockets are")

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "tests/unit/demo"
PROGRAM = """\
import json, os, sys
from tests.ports import free_ports
told = {"line": sys.stdin.readline(), "folder": os.getcwd(), "variable": os.environ.get("A_VARIABLE")}
told |= {"is_copy": "tests.unit.demo.test_plan" in sys.modules, "main": __name__, "ports": free_ports(100)}
print(json.dumps(told), flush=True)
sys.stdin.read()
"""
ENVIRONMENT = {"A_VARIABLE": "its own", "PYTHONPATH": str(ROOT)}


@pytest.fixture
def command() -> Iterator[str]:
    with copied_workers([FOLDER], ROOT) as command:
        yield command


@contextmanager
def worker(command: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Run a worker as pytest-xdist starts one; yields what it says."""
    with subprocess.Popen(
        [*shlex.split(command), "-u", "-c", PROGRAM],
        cwd=folder,
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"a line\n")
        process.stdin.flush()
        yield json.loads(process.stdout.readline())


def test_workers_have_imported_the_tests_and_have_what_their_command_has(command: str, tmp_path: Path) -> None:
    own = {"line": "a line\n", "folder": str(tmp_path), "variable": "its own", "main": "__main__", "is_copy": True}
    with worker(command, tmp_path) as one, worker(command, tmp_path) as another:
        assert not {*one["ports"]} & {*another["ports"]}
        for told in (one, another):
            del told["ports"]
            assert told == own


def test_a_command_becomes_the_worker_where_no_copy_can_be_had(tmp_path: Path) -> None:
    with copied_workers([FOLDER], ROOT) as command:
        pass
    with worker(command, tmp_path) as told:
        assert (told["line"], told["variable"], told["is_copy"]) == ("a line\n", "its own", False)
