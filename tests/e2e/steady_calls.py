"""Calls that go on while something happens to the mesh, and how they went.

The one rule: a call that fails is kept, never raised; the test judges it, and the run shows the figures.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.running import ERAS, RunningNode
from tests.measured import measured
from tests.waiting import eventually

# Between the calls of a client: the callers take their share of the machine from what they wait for.
PAUSE_S = 0.05


@dataclass
class Tally:
    """How steady calls went. `longest_s`: of those that went well."""

    done: int = 0
    longest_s: float = 0.0
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"failed {len(self.failures)} of {self.done + len(self.failures)} calls"

    async def grows(self, more: int = 10) -> None:
        """Wait until this many more calls have gone well."""
        aim = self.done + more

        async def reached() -> bool:
            assert not self.failures, self.failures
            return self.done >= aim

        await eventually(reached)


@asynccontextmanager
async def steady_calls(
    node: RunningNode,
    tool: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    eras: Iterable[str] = ERAS,
    pause_s: float = PAUSE_S,
) -> AsyncGenerator[Tally, None]:
    """Call a tool over and over, one client per era, until the context is left; failures are kept, not raised.

    `pause_s`: longer for what takes a minute.
    """
    tally = Tally()
    over = asyncio.Event()

    async def call_on(era: str) -> None:
        async with node.client(era) as client:
            while not over.is_set():
                began_s = time.monotonic()
                try:
                    await client.call_tool(tool, dict(arguments or {}))
                    tally.done += 1
                    tally.longest_s = max(tally.longest_s, time.monotonic() - began_s)
                except Exception as exc:  # noqa: BLE001 - whatever it is, the caller judges it
                    tally.failures.append(f"{era}: {exc!r}")
                try:
                    async with asyncio.timeout(pause_s):
                        await over.wait()
                except TimeoutError:
                    continue

    async with asyncio.TaskGroup() as group:
        for era in eras:
            group.create_task(call_on(era), name=f"steady calls {era}")
        try:
            yield tally
        finally:
            over.set()
    measured(f"{tally} of {tool}")
