"""Runs one scenario: a published client and server together, directly, through one node and through two.

The client is a script of ours around a published library, which gets its place and arguments as JSON and prints what
each of its steps came to, as JSON. The one rule: a step that does not come to what its row says directly is wrong in
the row, and every other difference is the mesh's.
"""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.processes import ROOT, environment_of
from tests.e2e.running import RunningNode, running_nodes
from tests.outside.checks import Check, short
from tests.outside.installing import CLIENTS, NotInstalled, node, node_group, python_group, with_node
from tests.outside.processes import listening
from tests.outside.rows import Scenario, filled
from tests.ports import free_port
from tests.waiting import eventually

LINKED_WITHIN_S = 60.0
STEPS_WITHIN_S = 120.0
SERVER = "it"


@dataclass(frozen=True)
class Prepared:
    """A scenario with its places filled in."""

    row: Scenario
    folder: Path
    command: list[str]
    client: list[str]
    environment: dict[str, str]
    port: int
    page_port: int
    browser: str | None

    @property
    def url(self) -> str:
        """Where the server listens."""
        return f"http://127.0.0.1:{self.port}/mcp"


def prepare(row: Scenario, folder: Path) -> Prepared:
    """Install the row's packages and fill its places. Raises `NotInstalled`."""
    browser = shutil.which("chromium")
    if row.in_browser and browser is None:
        raise NotInstalled("there is no Chromium, as of Debian's package of that name")
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    places = {"folder": str(folder), "port": str(port), "root": str(ROOT), "clients": str(CLIENTS)}
    environment = environment_of({"HOME": str(home), "PYTHONPATH": ""})
    if row.registry == "pypi":
        places["bin"] = str(python_group(row.group))
        client = [f"{places['bin']}/python", str(CLIENTS / row.script)]
    else:
        group = node_group(row.group)
        places |= {"node": str(node()), "modules": str(group / "node_modules"), "scripts": str(group)}
        # Node looks for packages from where a script lies.
        for script in CLIENTS.glob("*.mjs"):
            (group / script.name).write_bytes(script.read_bytes())
        client = [str(node()), str(group / row.script)]
        environment = with_node(environment)
    environment |= filled(row.environment, places)
    return Prepared(row, folder, filled(row.command, places), client, environment, port, free_port(), browser)


async def check_scenario(row: Scenario, folder: Path) -> dict[str, Check]:
    """All checks of the row."""
    prepared = await asyncio.to_thread(prepare, row, folder)
    served = listening(prepared.command, prepared.environment, folder, folder / "server.log", prepared.port)
    async with served:
        direct = await _steps(prepared, prepared.url, "")
        async with _nodes_before(prepared) as (back, front):
            found = {
                "one node": await _steps(prepared, back.url, f"{SERVER}__"),
                "two nodes": await _steps(prepared, front.url, f"{SERVER}__"),
            }
            if row.own:
                found["as itself"] = await _steps(prepared, f"{front.base}/mcp/s/{SERVER}", "")
    return {name: judge(row, direct, one) for name, one in found.items()}


@asynccontextmanager
async def _nodes_before(prepared: Prepared) -> AsyncGenerator[tuple[RunningNode, RunningNode], None]:
    """A node with the server, and one before that."""
    entry = {"type": "http", "url": prepared.url, "mesh": {"scope": "service"}}
    mesh = {"MESH_DISCOVERY": "embedded", "MESH_EMBEDDED_PORT": str(free_port())}
    async with running_nodes() as start:
        back = await start("back", prepared.folder / "back", servers={SERVER: entry}, **mesh)
        front = await start("front", prepared.folder / "front", **mesh)

        async def linked(running: RunningNode) -> bool:
            listed = await running.tool_names()
            assert any(name.startswith(f"{SERVER}__") for name in listed), listed
            return True

        for running in (back, front):
            await eventually(lambda running=running: linked(running), LINKED_WITHIN_S)
        yield back, front


async def _steps(prepared: Prepared, url: str, prefix: str) -> dict[str, str]:
    """What each step of the client comes to at that address."""
    place = {"port": prepared.page_port, "browser": prepared.browser} if prepared.row.in_browser else {}
    told = json.dumps({"url": url, "prefix": prefix, **place, **prepared.row.arguments})
    process = await asyncio.create_subprocess_exec(
        *prepared.client,
        told,
        env=prepared.environment,
        cwd=prepared.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        limit=16 * 1024 * 1024,
    )
    try:
        async with asyncio.timeout(STEPS_WITHIN_S):
            out, errors = await process.communicate()
    except TimeoutError:
        return {"": f"not within {STEPS_WITHIN_S:g} s"}
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    last = out.decode(errors="replace").strip().rpartition("\n")[2]
    if process.returncode != 0 or not last.startswith("{"):
        return {"": f"ended with {process.returncode}: {errors.decode(errors='replace')[-600:]}"}
    steps: dict[str, Any] = json.loads(last)
    return {name: str(text) for name, text in steps.items()}


def judge(row: Scenario, direct: dict[str, str], found: dict[str, str]) -> Check:
    """Whether every step comes to what it must, directly too."""
    wrong = {name: _wrong(row, one) for name, one in (("direct", direct), ("node", found))}
    shown = {name: one or f"{len(row.steps)} steps as they must be" for name, one in wrong.items()}
    must = "; ".join(f"{name}: {expected}" for name, expected in row.steps.items())
    return Check(short(must), short(shown["direct"]), short(shown["node"]), right=not any(wrong.values()))


def _wrong(row: Scenario, found: dict[str, str]) -> str:
    """The first steps that are not as they must be; empty when all are."""
    if "" in found:
        return found[""]
    return "; ".join(
        f"{name}: {found.get(name, 'not done')}"
        for name, expected in row.steps.items()
        if name not in found or re.search(expected, found[name]) is None
    )
