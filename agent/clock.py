"""The one clock of the agent, which is that of discovery: the running event loop's, in monotonic seconds.

Read by the thin shells, as `clock.now_s()`; decisions take the figure as an argument. Beside it, the time of day as
records and messages have it, `clock.utc_now()`.
"""

from datetime import UTC, datetime

from discovery.clock import now_s

__all__ = ["now_s", "utc_now"]


def utc_now() -> str:
    """The time of day by RFC 3339, in UTC and to the millisecond: `2026-07-28T09:30:00.000Z`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
