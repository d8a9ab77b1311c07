"""This build against build 897e61c, which the goals of a call are set against: calls a second, processor time, p50.

Nodes of both stand side by side and are called in turns, with wrk and a server on a bare protocol, so that neither is
the limit; both run with the packages of this environment. The one rule: default settings, with a line of the log for
each request.
"""

import asyncio
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench import backend, quota, wrk
from bench.figures import Figure, ratio
from bench.processes import bare_server, cpu_s, node_process
from bench.raw_client import ENVELOPE, VERSION, RawClient
from bench.raw_legacy_client import RawLegacyClient

BUILD: Final = "897e61c"
TREE: Final = Path(".cache/before")
ROUNDS: Final = 5
CALLERS: Final = 32
LARGE_BYTES: Final = 64 << 10
SETTINGS: Final = {"MESH_DISCOVERY": "off", "MESH_LOG_LEVEL": "info", "MESH_LOG_FORMAT": "json"}
# Of each way: calls a second at least so many times as many, processor time for a call at most that share.
# Two nodes, wrk and the server need more than two cores; with a part of one for each node they do not (`bench.quota`).
LIMITED: Final = f"two hops, {quota.SHARE:.0%} of a core for each node"
RATE_GOALS: Final = {"bare": 3.0, "large": None, "two hops": 2.5, LIMITED: 2.5}
TIME_GOALS: Final = {"bare": 0.33, "large": 0.75, "two hops": None, LIMITED: None}
P50_GOAL: Final = 0.65
ERAS: Final = ("2026-07-28", "sessions")


@dataclass(slots=True)
class Side:
    """The nodes of one build. `bases`, `process_ids`, `sessions`: of each way; samples in the order of rounds."""

    bases: dict[str, str] = field(default_factory=dict)
    process_ids: dict[str, list[int]] = field(default_factory=dict)
    sessions: dict[str, Mapping[str, str]] = field(default_factory=dict)
    rates: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    times: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    p50s: dict[str, list[float]] = field(default_factory=dict)


async def measure() -> list[Figure]:
    """Compare both builds at 32 callers, with large answers and over two hops, and at one caller."""
    check_out()
    if missing := quota.why_not():
        print(f"nodes with a part of a core each are not measured: {missing}", file=sys.stderr)
    ways = [way for way in RATE_GOALS if way != LIMITED or not missing]
    async with AsyncExitStack() as stack:
        bare = await stack.enter_async_context(bare_server())
        alone = await backend.alone(bare)
        servers = {
            "bare": {"url": bare},
            "large": {"url": await stack.enter_async_context(bare_server(LARGE_BYTES))},
        }
        before, now = [await _side(stack, tree, servers) for tree in (TREE, None)]
        for number in range(ROUNDS + 1):  # The first round warms up.
            for way in ways:
                for era in ERAS:
                    for side in (before, now):
                        await _sample(side, way, era, keeps=number > 0)
            for era in ERAS:
                for side in (before, now):
                    run = await wrk.run(side.bases["bare"], _script(side, "bare", era), 1)
                    side.p50s.setdefault(era, []).extend([run.p50_ms] if number else [])
    return [alone, *_figures(before, now)]


def check_out() -> None:
    """Have that build, and nothing else, in a folder beside this one. Exits where what is there is not it."""
    if not TREE.exists():
        subprocess.run(["git", "worktree", "prune"], check=True)
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(TREE), BUILD], check=True)
    if fault := fault_of(TREE, BUILD):
        remedy = f"`rm -rf {TREE} && git worktree prune`, and the next run checks it out"
        raise SystemExit(f"{TREE} has to be build {BUILD}, and {fault}: {remedy}")


def fault_of(tree: Path, build: str) -> str:
    """Why a folder is not that build as it was committed; empty where it is."""
    if _git(tree, "rev-parse", "--show-toplevel") != str(tree.resolve()):
        return "is no working tree of git"
    if not (head := _git(tree, "rev-parse", "HEAD")).startswith(build):
        return f"is at {head[: len(build)]}"
    changed = _git(tree, "status", "--porcelain").splitlines()
    return f"has changes ({changed[0].strip()})" if changed else ""


def _git(tree: Path, *arguments: str) -> str:
    """What git says of that folder; nothing where it fails."""
    said = subprocess.run(["git", "-C", str(tree), *arguments], capture_output=True, text=True, check=False)
    return said.stdout.strip()


async def _side(stack: AsyncExitStack, tree: Path | None, servers: Mapping[str, object]) -> Side:
    side, name = Side(), "now" if tree is None else "before"

    async def started(name: str, **more: object) -> tuple[str, int]:
        settings = {**SETTINGS, **{key: str(value) for key, value in more.items() if key != "servers"}}
        own = servers if more.get("servers") else None
        return await stack.enter_async_context(node_process(name, servers=own, is_quiet=True, tree=tree, **settings))

    base, process_id = await started(name, servers=True)
    front, front_id = await started(f"{name}-front", MESH_PEERS=f"{name}={base}/mcp")
    pair = [process_id, front_id]
    side.bases = {"bare": base, "large": base, "two hops": front, LIMITED: front}
    side.process_ids = {"bare": [process_id], "large": [process_id], "two hops": pair, LIMITED: pair}
    for way, at in side.bases.items():
        client = await stack.enter_async_context(RawClient(f"{at}/mcp"))
        while _tool(way) not in await client.tool_names():
            await asyncio.sleep(0.05)
        session = await stack.enter_async_context(RawLegacyClient(f"{at}/mcp"))
        side.sessions[way] = session.session_headers
    return side


def _tool(way: str) -> str:
    return f"{'large' if way == 'large' else 'bare'}__echo"


def _script(side: Side, way: str, era: str) -> str:
    if era == "sessions":
        return wrk.script(_tool(way), side.sessions[way])
    headers = {"MCP-Protocol-Version": VERSION, "Mcp-Method": "tools/call", "Mcp-Name": _tool(way)}
    return wrk.script(_tool(way), headers, ENVELOPE)


async def _sample(side: Side, way: str, era: str, *, keeps: bool) -> None:
    pids = side.process_ids[way]
    before = sum(cpu_s(pid) for pid in pids)
    with quota.a_part_each(pids if way == LIMITED else ()):
        run = await wrk.run(side.bases[way], _script(side, way, era), CALLERS)
    took_s = (sum(cpu_s(pid) for pid in pids) - before) / (run.rate * wrk.SECONDS)
    if keeps:
        side.rates.setdefault((way, era), []).append(run.rate)
        side.times.setdefault((way, era), []).append(took_s)


def _figures(before: Side, now: Side) -> list[Figure]:
    figures = []
    for (way, era), rates in now.rates.items():
        times, of_way = now.times[way, era], f"{era}, {way}"
        figures += [
            Figure(f"{of_way}: calls/s at {CALLERS} callers, best round", max(rates), "/s"),
            ratio(
                f"{of_way}: over {BUILD}",
                rates,
                before.rates[way, era],
                RATE_GOALS[way],
                more_is_better=True,
            ),
            Figure(f"{of_way}: processor time for a call, best round", min(times) * 1e6, "us"),
            ratio(f"{of_way}: over {BUILD}", times, before.times[way, era], TIME_GOALS[way]),
        ]
    for era in ERAS:
        figures += [
            Figure(f"{era}: p50 at 1 caller, best round", min(now.p50s[era]), "ms"),
            ratio(f"{era}: over {BUILD}", now.p50s[era], before.p50s[era], P50_GOAL),
        ]
    return figures
