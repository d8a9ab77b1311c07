"""The one clock of the agent: the running event loop's, in monotonic seconds, which a test may run by itself.

Read by the thin shells, as `clock.now_s()`; decisions take the figure as an argument. Beside it, the time of day as
records and messages have it, `clock.utc_now()`.
"""

import asyncio
from datetime import UTC, datetime


def now_s() -> float:
    """Seconds of the running loop's clock; only differences mean something."""
    return asyncio.get_running_loop().time()


def utc_now() -> str:
    """The time of day by RFC 3339, in UTC and to the millisecond: `2026-07-28T09:30:00.000Z`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
