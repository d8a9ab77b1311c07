"""How long the slowest of 100 calls takes at 32 connections while calls come steadily, at half of what a node can do.

Calls a second at 32 callers, by wrk, say what it can do; then calls come at about half of that, from callers of wrk
that wait at random, and from a timetable (`bench.steady`), which is stricter and takes more of the other core. The
node is alone on the first core where there are two; wrk, load and server share the others. The one rule: a ratio is of
one run, and the load says how late it was itself.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from bench import backend, steady, wrk
from bench.figures import Figure, ratio
from bench.pinned import GATEWAY_CORE, keep_to_other_cores
from bench.processes import bare_server, node_process
from bench.raw_client import ENVELOPE, VERSION, RawClient
from bench.raw_legacy_client import RawLegacyClient

ROUNDS: Final = 5
CONNECTIONS: Final = 32
SECONDS: Final = 10
TOOL: Final = "bare__echo"
GOAL: Final = 5.0
SETTINGS: Final = {"MESH_DISCOVERY": "off", "MESH_LOG_LEVEL": "info", "MESH_LOG_FORMAT": "json"}


async def measure() -> list[Figure]:
    """Both eras, default settings, with a line of the log for each call."""
    keep_to_other_cores()
    async with (
        bare_server() as url,
        node_process("steady", servers={"bare": {"url": url}}, under=GATEWAY_CORE, is_quiet=True, **SETTINGS) as (
            base,
            _,
        ),
        RawClient(f"{base}/mcp") as client,
    ):
        while TOOL not in await client.tool_names():
            await asyncio.sleep(0.05)
        async with RawLegacyClient(f"{base}/mcp") as session:
            modern = {"MCP-Protocol-Version": VERSION, "Mcp-Method": "tools/call", "Mcp-Name": TOOL}
            return [
                await backend.alone(url),
                *await _of_era("2026-07-28", base, modern, ENVELOPE),
                *await _of_era("sessions", base, session.session_headers, None),
            ]


async def _of_era(
    era: str, base: str, headers: Mapping[str, str], envelope: Mapping[str, object] | None
) -> list[Figure]:
    runs: list[steady.Told] = []
    paced: list[wrk.Run] = []
    for number in range(ROUNDS + 1):  # The first round warms up.
        script = wrk.script(TOOL, headers, envelope)
        can = (await wrk.run(base, script, CONNECTIONS)).rate
        random = await wrk.run(base, wrk.paced(script, can / 2, CONNECTIONS), CONNECTIONS)
        sent = steady.request(f"{base}/mcp", TOOL, headers, envelope)
        told = await steady.run(f"{base}/mcp", sent, rate=can / 2, seconds=SECONDS, connections=CONNECTIONS)
        assert told.failed == 0, told
        runs += [told] if number else []
        paced += [random] if number else []
    return [
        Figure(f"{era}: calls/s of callers that wait at random", paced[-1].rate, "/s"),
        ratio(f"{era}: p99 over p50 of those", [run.p99_ms for run in paced], [run.p50_ms for run in paced], GOAL),
        Figure(f"{era}: steady calls/s, half of what {CONNECTIONS} callers get", runs[-1].calls / SECONDS, "/s"),
        Figure(f"{era}: p50 of those, best round", min(told.p50_ms for told in runs), "ms"),
        Figure(f"{era}: p99 of those, best round", min(told.p99_ms for told in runs), "ms"),
        Figure(f"{era}: the longest, best round", min(told.longest_ms for told in runs), "ms"),
        ratio(f"{era}: p99 over p50", [told.p99_ms for told in runs], [told.p50_ms for told in runs], GOAL),
        Figure(f"{era}: how late the load was at 99 of 100 calls", max(told.late_ms for told in runs), "ms"),
    ]
