"""Real strict clients as oracles: `python -m tests.outside.strict URL [TOKEN]`, or `verdicts(url, token)` in a test.

Each of the three lists tools, resources, resource templates and prompts with the strictest published client of its
kind: TypeScript SDK 2 (2026-07-28, pinned), TypeScript SDK 1 (2025-11-25) and Python SDK 2. One bad entry makes them
refuse a whole list, which is what a test of ours wants to know. The one rule: a verdict is the client's own, with its
own words.
"""

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.outside.client_rows import command_of
from tests.outside.rows import Client, clients

# Script -> the row whose packages it runs in.
ORACLES = {
    "strict_ts_client.mjs": "@modelcontextprotocol/client",
    "strict_ts_sdk.mjs": "@modelcontextprotocol/sdk",
    "strict_mcp_sdk.py": "mcp",
}
LISTS = ("tools", "resources", "resource_templates", "prompts")
TIMEOUT_S = 90.0


@dataclass(frozen=True)
class Verdict:
    """What one client says to one list."""

    client: str
    listed: str  # One of LISTS.
    accepted: bool
    names: tuple[str, ...]  # What it saw of an accepted list; URIs of resources and templates.
    text: str  # Why it refused.


async def verdicts(url: str, token: str = "") -> list[Verdict]:
    """Ask all of them, one after the other. Raises `NotInstalled`, and RuntimeError for an oracle that broke."""
    found: list[Verdict] = []
    for script, name in ORACLES.items():
        found += await _verdicts_of(script, clients()[name], url, token)
    return found


async def _verdicts_of(script: str, row: Client, url: str, token: str) -> list[Verdict]:
    command, environment = await asyncio.to_thread(command_of, row)
    command[-1] = str(Path(command[-1]).with_name(script))
    process = await asyncio.create_subprocess_exec(
        *command, url, token, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            out, err = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        raise RuntimeError(f"{row.package} ended with {process.returncode}: {err.decode(errors='replace')[-600:]}")
    answers = json.loads(out)
    return [
        Verdict(
            row.package, one, answers[one]["ok"], tuple(answers[one].get("names", ())), answers[one].get("error", "")
        )
        for one in LISTS
    ]


def main(url: str, token: str = "") -> int:
    """Print the verdicts. Exit status 1 when anything was refused."""
    found = asyncio.run(verdicts(url, token))
    for one in found:
        said = f"{len(one.names)} entries" if one.accepted else f"REFUSED: {one.text}"
        print(f"{one.client:42} {one.listed:20} {said}")
    return int(not all(one.accepted for one in found))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
