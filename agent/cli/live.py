"""`mesh-agent events` and `top`: what happens in the mesh, and what its links do now.

Called by `agent.cli.parser`. Both read the stream on which the node's page lives (docs/page.md). The one rule: what is
kept is what was seen last; a node that goes ends the command with its reason.
"""

import json
import sys
from argparse import Namespace
from datetime import datetime
from typing import Any

from agent.cli.client import follow, node_of
from agent.cli.output import Exit, print_json, rows_in
from agent.cli.table import print_table
from agent.harmless_text import one_line

EVENTS_PATH = "/api/v1/mcp/events"
_CHARS_MAX = 300
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
    name = ""
    for change in follow(node_of(args), EVENTS_PATH):
        if change.get("first"):
            links.clear()
        links |= {str(link.get("key")): link for link in rows_in(change, "links")}
        for key in change.get("gone") or ():
            links.pop(str(key), None)
        name = str((change.get("node") or {}).get("name") or name)
        rates = change.get("rates") or {}
        if args.json or not sys.stdout.isatty():
            _print_once(args, name, links, rates)
            return Exit.OK
        print(_CLEAR, end="")
        _print_links(name, links, rates)
        sys.stdout.flush()
    return Exit.OK


def _print_once(args: Namespace, name: str, links: dict[str, dict[str, Any]], rates: dict[str, Any]) -> None:
    if args.json:
        print_json(node=name, links=list(links.values()), rates=rates)
    else:
        _print_links(name, links, rates)


def _print_links(name: str, links: dict[str, dict[str, Any]], rates: dict[str, Any]) -> None:
    up = sum(link.get("connected") is True for link in links.values())
    print(f"{one_line(name)}: {up} of {len(links)} links connected\n")
    heads = ["NAME", "KIND", "STATE", "CALLS/S", "FAILED/S", "MEAN MS", "PROBE MS", "TOOLS", "LAST ERROR"]
    ordered = sorted(links.values(), key=lambda link: (-_rate(rates, link)[0], str(link.get("name"))))
    print_table(heads, [_row(link, rates) for link in ordered])


def _row(link: dict[str, Any], rates: dict[str, Any]) -> list[Any]:
    calls, failed, mean_ms = _rate(rates, link)
    state = "maintenance" if link.get("maintenance") else link.get("state")
    measured = [calls, failed or None, mean_ms] if calls else [None, None, None]
    error = None if link.get("connected") else link.get("last_error")
    return [link.get("name"), link.get("kind"), state, *measured, link.get("latency_ms"), link.get("functions"), error]


def _rate(rates: dict[str, Any], link: dict[str, Any]) -> tuple[float, float, float]:
    rate = rates.get(str(link.get("key")))
    if not isinstance(rate, list) or len(rate) != 3 or not all(isinstance(one, int | float) for one in rate):  # noqa: PLR2004 - the three of a rate
        return (0.0, 0.0, 0.0)
    return (float(rate[0]), float(rate[1]), float(rate[2]))


def _clock(at_s: Any) -> str:
    if not isinstance(at_s, int | float):
        return "-"
    return datetime.fromtimestamp(at_s).astimezone().strftime("%Y-%m-%d %H:%M:%S")
