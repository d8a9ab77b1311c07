"""An example MCP server that tells the time: `python -m agent.examples.clock`.

The demo and tests start it, and so can any user who would like to try a harmless server. The one rule: zones are IANA
names, times are ISO 8601 with an offset.
"""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from agent.examples.stdio import Refused, Server, Tool, schema_of, serve


def now(zone: str = "UTC") -> dict[str, Any]:
    """Tell the present time in a zone."""
    return {"time": datetime.now(_zone(zone)).isoformat(timespec="seconds"), "zone": zone}


def convert(time: str, zone: str) -> dict[str, Any]:
    """Tell what another zone's clocks show at a given time; one without an offset is UTC."""
    try:
        moment = datetime.fromisoformat(time)
        shown = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(_zone(zone))
    except (ValueError, OverflowError):
        raise Refused(f"{time!r} is not an ISO 8601 time, like 2026-11-22T12:00:00+01:00") from None
    return {"time": shown.isoformat(), "zone": zone}


def _zone(name: str) -> Any:
    if name == "UTC":  # Known even where no zone database is installed.
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Refused(f"unknown zone {name!r}; use an IANA name like Asia/Taipei") from None


SERVER = Server(
    name="clock",
    tools={
        "now": Tool(now, schema_of({}, {"zone": str}), "Tell the present time in a zone (IANA name, default UTC)."),
        "convert": Tool(convert, schema_of({"time": str, "zone": str}), "Convert an ISO 8601 time to another zone."),
    },
)

if __name__ == "__main__":
    serve(SERVER)
