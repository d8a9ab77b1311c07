"""`mesh-agent ping NAME`: by which ways a peer, server or tool is reached, and how long each one takes.

Called by `agent.cli.parser`. The node measures, over the links that calls use. The one rule: it fails only where no way
was answered.
"""

from argparse import Namespace
from typing import Any
from urllib.parse import quote

from agent.cli.client import ask, node_of
from agent.cli.completion import names_of_mesh
from agent.cli.output import CliFailed, Exit, print_json, rows_in, with_nearest
from agent.cli.table import print_table
from agent.harmless_text import one_line

PING_PATH = "/api/v1/mcp/ping"


def ping(args: Namespace) -> int:
    """Ask the node to ping, `--count` times, and print each way. Raises `CliFailed`."""
    node = node_of(args)
    rounds: list[dict[str, Any]] = []
    for _ in range(args.count):
        try:
            data, _ = ask(node, "GET", f"{PING_PATH}?name={quote(args.name, safe='')}")
        except CliFailed as exc:
            if exc.error != "unknown_name":
                raise
            raise with_nearest(exc, args.name, names_of_mesh(node)) from exc
        rounds.append(data if isinstance(data, dict) else {})
        if not args.json:
            _print_round(rounds[-1])
    if args.json:
        print_json(name=args.name, rounds=rounds)
    answered = any(way.get("ms") is not None for one in rounds for way in rows_in(one, "ways"))
    return Exit.OK if answered else Exit.UNREACHABLE


def _print_round(told: dict[str, Any]) -> None:
    ways = rows_in(told, "ways")
    if not ways:
        print(f"{one_line(str(told.get('name')))}: no connected node or server serves it now")
        return
    rows = [[_way(way), _ms(way), way.get("error")] for way in ways]
    print_table(["WAY", "TIME", "NO ANSWER BECAUSE"], rows, is_wide=True)


def _way(way: dict[str, Any]) -> str:
    nodes = way.get("way")
    return " -> ".join(map(str, nodes)) if isinstance(nodes, list) else str(way.get("replica"))


def _ms(way: dict[str, Any]) -> str | None:
    return f"{way['ms']:.1f} ms" if isinstance(way.get("ms"), int | float) else None
