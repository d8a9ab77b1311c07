"""`mesh-agent events` and `top`: what happens in the mesh, and what its links do now.

Called by `agent.cli.parser`. Both read the stream on which the node's page lives (docs/page.md). The one rule: what is
kept is what was seen last; a node that goes ends the command with its reason.
"""

import json
import math
import sys
from argparse import Namespace
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from agent.cli.client import follow, node_of
from agent.cli.output import Exit, print_json, rows_in
from agent.cli.table import print_table
from agent.harmless_text import one_line

EVENTS_PATH = "/api/v1/mcp/events"
_CHARS_MAX = 300
# What a bucket of the history has: when it ended, calls, errors, p50 and p99 in milliseconds; those of an hour.
_BUCKET_LEN, _BUCKETS_MAX, _PLOT_COLUMNS = 5, 360, 60
_BARS, _ASCII_BARS = " ▁▂▃▄▅▆▇█", " .:|"
_CLEAR = "\x1b[H\x1b[2J"


def show_events(args: Namespace) -> int:
    """Print the newest events, and with `--follow` those that come."""
    node = node_of(args)
    for change in follow(node, EVENTS_PATH):
        for event in rows_in(change, "events"):
            if args.json:
                print(json.dumps(event), flush=True)
            else:
                print(f"{_clock(event.get('at'))}  {one_line(str(event.get('text')), _CHARS_MAX)}", flush=True)
        if not args.follow:
            return Exit.OK
    return Exit.OK


def show_top(args: Namespace) -> int:
    """Print each link with its state and its calls, again and again on a terminal, once anywhere else."""
    links: dict[str, dict[str, Any]] = {}
    name, history = "", deque[Any](maxlen=_BUCKETS_MAX)
    for change in follow(node_of(args), EVENTS_PATH):
        if change.get("first"):
            links.clear()
        links |= {str(link.get("key")): link for link in rows_in(change, "links")}
        for key in change.get("gone") or ():
            links.pop(str(key), None)
        name = str((change.get("node") or {}).get("name") or name)
        rates = change.get("rates") or {}
        history.extend(change.get("history") or ())
        if args.json:
            print_json(node=name, links=list(links.values()), rates=rates, history=list(history))
            return Exit.OK
        is_live = sys.stdout.isatty()
        print(_CLEAR if is_live else "", end="")
        _print_links(name, links, rates, [one for one in history if isinstance(one, list) and len(one) == _BUCKET_LEN])
        sys.stdout.flush()
        if not is_live:
            return Exit.OK
    return Exit.OK


def _print_links(name: str, links: dict[str, dict[str, Any]], rates: dict[str, Any], history: list[list[Any]]) -> None:
    up = sum(link.get("connected") is True for link in links.values())
    print(f"{one_line(name)}: {up} of {len(links)} links connected")
    for label, at in (("calls", 1), ("errors", 2), ("p99 ms", 4)):
        values = [one[at] if isinstance(one[at], int | float) else 0.0 for one in history]
        if any(values):
            print(f"{label:<6} {sparkline(values, _PLOT_COLUMNS)} {max(values):g} at most")
    print()
    heads = ["NAME", "KIND", "STATE", "CALLS/S", "FAILED/S", "MEAN MS", "UNDER WAY", "PROBE MS", "TOOLS", "LAST ERROR"]
    ordered = sorted(links.values(), key=lambda link: (-_rate(rates, link)[0], str(link.get("name"))))
    print_table(heads, [_row(link, rates) for link in ordered])


def sparkline(values: Sequence[float], columns: int) -> str:
    """The last values as bars, the highest as high as a line; zeros are blanks."""
    shown = values[-columns:]
    most = max(shown, default=0.0)
    if most <= 0:
        return " " * len(shown)
    bars = _BARS if (sys.stdout.encoding or "").lower().startswith("utf") else _ASCII_BARS
    return "".join(bars[math.ceil(max(0.0, value) / most * (len(bars) - 1))] for value in shown)


def _row(link: dict[str, Any], rates: dict[str, Any]) -> list[Any]:
    calls, failed, mean_ms, under_way = _rate(rates, link)
    state = "maintenance" if link.get("maintenance") else link.get("state")
    measured = [*([calls, failed or None, mean_ms] if calls else [None] * 3), int(under_way) or None]
    error = None if link.get("connected") else link.get("last_error")
    return [link.get("name"), link.get("kind"), state, *measured, link.get("latency_ms"), link.get("functions"), error]


def _rate(rates: dict[str, Any], link: dict[str, Any]) -> tuple[float, float, float, float]:
    """Calls and failed calls a second, milliseconds a call, calls under way: zeros for what the node does not say."""
    rate = rates.get(str(link.get("key")))
    if not isinstance(rate, list) or not all(isinstance(one, int | float) for one in rate):
        return (0.0, 0.0, 0.0, 0.0)
    calls, failed, mean_ms, under_way = [float(one) for one in (*rate, 0, 0, 0, 0)[:4]]
    return calls, failed, mean_ms, under_way


def _clock(at_s: Any) -> str:
    if not isinstance(at_s, int | float):
        return "-"
    return datetime.fromtimestamp(at_s).astimezone().strftime("%Y-%m-%d %H:%M:%S")
