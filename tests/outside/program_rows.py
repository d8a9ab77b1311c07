"""Runs a command line's row: steps as a person would type them, in a home of their own, before a node.

A step is `command` (with places, `{url}` and `{token}` among them), `expect` (a pattern of its output) and `check`, the
behaviour it shows. The one rule: no step needs an account.
"""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

from tests.e2e.processes import environment_of
from tests.outside.checks import Check, short
from tests.outside.client_rows import TOKEN, direct_place, node_place
from tests.outside.installing import node, node_group, with_node
from tests.outside.rows import Client, filled

STEP_TIMEOUT_S = 90.0
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


async def check_program(row: Client, folder: Path) -> dict[str, Check]:
    """All steps in order, directly and before a node. Raises `NotInstalled`."""
    group = await asyncio.to_thread(node_group, row.group)
    folder.mkdir(parents=True, exist_ok=True)
    async with direct_place(folder) as place:
        direct = await _observe(row, folder / "direct", group, place.url, "none")
    async with node_place(folder) as place:
        through = await _observe(row, folder / "through", group, place.url, TOKEN)
    checks = {}
    for step in row.program:
        if "check" in step:
            name = step["check"]
            said = through[name]
            right = re.search(step["expect"], said, re.DOTALL) is not None
            checks[name] = Check(f"says {step['expect']!r}", short(direct[name]), short(said), right=right)
    return checks


async def _observe(row: Client, folder: Path, group: Path, url: str, token: str) -> dict[str, str]:
    (folder / "home").mkdir(parents=True)
    modules = group / "node_modules"
    places = {"url": url, "token": token, "modules": str(modules), "node": str(node()), "python": sys.executable}
    environment = with_node(
        environment_of(
            {"HOME": str(folder / "home"), "NO_COLOR": "1", "CI": "1", "MESH_TOKEN": token, **row.environment}
        )
    )
    said = {}
    for step in row.program:
        # A program that waits for the end of its input has one.
        process = await asyncio.create_subprocess_exec(
            *filled(step["command"], places),
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(STEP_TIMEOUT_S):
                output, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            output, _ = await process.communicate()
            output += f"\n(not done within {STEP_TIMEOUT_S:g} s)".encode()
        if "check" in step:
            said[step["check"]] = ANSI.sub("", output.decode(errors="replace"))
    return said
