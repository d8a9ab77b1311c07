"""Starts docker-compose.yml for a test: a project of its own, ports of its own, everything removed at the end.

Called by test_compose_running.py. The one rule: nothing of the file is changed but the ports that it publishes, which
become free ones, so that no other Consul or node on this machine is met.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
BASE_FILE, TOKEN_FILE = "docker-compose.yml", "docker-compose.token.yml"
OWN_IMAGE = "mcp-mesh-agent"
# A first build installs every package of the lock; after that the layers are cached.
UP_TIMEOUT_S = 600
COMMAND_TIMEOUT_S = 60


def missing_for_docker() -> str:
    """What a running test lacks here, or nothing. Images are never pulled by a test."""
    if shutil.which("docker") is None or not _compose_command():
        return "no docker or no compose command"
    if _run(["docker", "info"]).returncode != 0:
        return "no Docker daemon answers"
    services = _load(BASE_FILE)["services"].values()
    images = {base_image(), *(service["image"] for service in services)} - {OWN_IMAGE}
    absent = [image for image in sorted(images) if _run(["docker", "image", "inspect", image]).returncode != 0]
    return f"images not pulled: {', '.join(absent)}" if absent else ""


def base_image() -> str:
    """What our own image is made of."""
    found = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


@dataclass(frozen=True)
class Stack:
    """A running compose project."""

    command: tuple[str, ...]

    def compose(self, *arguments: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Run one compose command and return what it printed; a failure shows its output."""
        done = _run([*self.command, *arguments], timeout_s)
        assert done.returncode == 0, f"compose {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def base(self, service: str, port: int) -> str:
        """Where a published port of a service really is, as a URL."""
        return f"http://{self.compose('port', service, str(port)).strip()}"

    def containers(self, service: str) -> list[str]:
        """IDs of a service's containers."""
        return self.compose("ps", "-q", service).split()

    def health(self, container: str) -> str:
        """`healthy`, `starting` or `unhealthy`, as the image's own check says."""
        done = _run(["docker", "inspect", "--format", "{{json .State.Health.Status}}", container])
        return str(json.loads(done.stdout)) if done.returncode == 0 else ""


@contextmanager
def running_stack(folder: Path, *, with_token: bool) -> Iterator[Stack]:
    """Build and start everything; show the logs when the test fails; remove it all, volumes included."""
    files = [_with_free_ports(BASE_FILE, folder), *([ROOT / TOKEN_FILE] if with_token else [])]
    chosen = [argument for file in files for argument in ("--file", str(file))]
    project = ["--project-name", f"mesh-test-{os.getpid()}", "--project-directory", str(ROOT)]
    stack = Stack((*_compose_command(), *project, *chosen))
    try:
        stack.compose("up", "--build", "--detach", timeout_s=UP_TIMEOUT_S)
        yield stack
    except BaseException:
        sys.stdout.write(_run([*stack.command, "logs", "--tail=200"], COMMAND_TIMEOUT_S).stdout)
        raise
    finally:
        stack.compose("down", "--volumes", "--timeout", "40", timeout_s=2 * COMMAND_TIMEOUT_S)


def _with_free_ports(name: str, folder: Path) -> Path:
    whole = _load(name)
    for service in whole["services"].values():
        if "ports" in service:
            service["ports"] = [f"127.0.0.1::{port.rsplit(':', maxsplit=1)[1]}" for port in service["ports"]]
    path = folder / name
    path.write_text(yaml.safe_dump(whole))
    return path


def _compose_command() -> tuple[str, ...]:
    if _run(["docker", "compose", "version"]).returncode == 0:
        return ("docker", "compose")
    return ("docker-compose",) if shutil.which("docker-compose") else ()


def _load(name: str) -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / name).read_text())
    assert isinstance(loaded, dict)
    return loaded


def _run(command: list[str], timeout_s: float = COMMAND_TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
