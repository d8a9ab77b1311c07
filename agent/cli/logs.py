"""`mesh-agent logs [--follow] [--level LEVEL]`: the log of a running node, from wherever the operator is.

Called by `agent.cli.parser`; the node keeps its newest lines and streams those that come. The one rule: a line is shown
as the node wrote it, secrets masked there.
"""

import json
from argparse import Namespace
from typing import Any

from agent.cli.client import follow, node_of
from agent.cli.output import Exit
from agent.cli.table import wants_colour
from agent.harmless_text import one_line

LOGS_PATH = "/api/v1/mcp/logs"
_HEAD = ("time", "level", "logger", "event", "traceback")
_COLOURS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_PLAIN = "\x1b[0m"
_LINE_CHARS_MAX = 4000


def show_logs(args: Namespace) -> int:
    """Print the lines that the node has kept, and with `--follow` those that come. Raises `CliFailed`."""
    query = f"?level={args.level}" + ("&follow=1" if args.follow else "")
    for line in follow(node_of(args), LOGS_PATH + query):
        print(json.dumps(line) if args.json else _shown(line if isinstance(line, dict) else {}), flush=args.follow)
    return Exit.OK


def _shown(line: dict[str, Any]) -> str:
    level = str(line.get("level", ""))
    fields = [f"{key}={_word(value)}" for key, value in line.items() if key not in _HEAD]
    head = f"{line.get('time', '')} {level.upper():<7} {line.get('logger', '')}: {line.get('event')}"
    shown = one_line("  ".join([head, " ".join(fields)]) if fields else head, _LINE_CHARS_MAX)
    if isinstance(trace := line.get("traceback"), str):
        shown = "\n  | ".join([shown, *(one_line(row, _LINE_CHARS_MAX) for row in trace.splitlines())])
    colour = _COLOURS.get(level)
    return f"{colour}{shown}{_PLAIN}" if colour and wants_colour() else shown


def _word(value: Any) -> str:
    if isinstance(value, str) and value and not set(value) & set(" \"'="):
        return value
    return "-" if value is None else json.dumps(value, ensure_ascii=False)
