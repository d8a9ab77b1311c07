"""`mesh-agent pins ls|diff|approve`: the definitions that a running node has pinned, and those that changed since.

Called by `agent.cli.parser`. The one rule: `diff` ends with 1 where something has changed, so that a script sees it.
"""

from argparse import Namespace
from typing import Any
from urllib.parse import urlencode

from agent.cli.client import ask, node_of
from agent.cli.output import Exit, print_json, rows_in
from agent.cli.table import print_table
from agent.harmless_text import one_line

PINS_PATH = "/api/v1/mcp/pins"
_DIGITS_SHOWN = 12


def list_pins(args: Namespace) -> int:
    """Print all pins, and what looks suspicious."""
    data, _ = ask(node_of(args), "GET", PINS_PATH)
    pins, suspected = rows_in(data, "pins"), rows_in(data, "suspected")
    changed = {_key(row) for row in rows_in(data, "changed")}
    if args.json:
        print_json(mode=data.get("mode"), pins=pins, changed=rows_in(data, "changed"), suspected=suspected)
        return Exit.OK
    if not pins:
        print("no pins" if data.get("mode") != "off" else "no pins: MESH_PINNING is off")
    else:
        heads = ["SERVER", "KIND", "NAME", "DIGEST", "SINCE", "BY", "CHANGED"]
        print_table(heads, [_row(pin, is_changed=_key(pin) in changed) for pin in pins])
    for row in suspected:
        why = "; ".join(map(str, row.get("why") or []))
        print(one_line(f"look at {row.get('server')} {row.get('name')}: {why}"))
    return Exit.OK


def show_differences(args: Namespace) -> int:
    """Print how definitions differ from the pinned ones."""
    wanted = {name: value for name, value in (("server", args.server), ("name", args.definition)) if value}
    data, _ = ask(node_of(args), "GET", f"{PINS_PATH}?{urlencode(wanted)}" if wanted else PINS_PATH)
    changed = rows_in(data, "changed")
    if args.json:
        print_json(mode=data.get("mode"), changed=changed)
    elif not changed:
        print("nothing has changed")
    for row in () if args.json else changed:
        pinned = row.get("pinned") or {}
        blocked = ", blocked" if row.get("blocked") else ""
        print(
            one_line(f"{row.get('server')} {row.get('kind')} {row.get('name')} (changed {row.get('since')}{blocked})")
        )
        print(one_line(f"  pinned {pinned.get('since')} by {pinned.get('by')}"))
        for line in row.get("difference") or []:
            print(f"  {str(line)[:1]}{one_line(str(line)[1:])}")
        print(one_line(f"  approve: mesh-agent pins approve {row.get('server')} {row.get('name')}"))
    return Exit.USAGE if changed else Exit.OK


def approve(args: Namespace) -> int:
    """Pin what a server lists now."""
    body = {"server": args.server, **({"name": args.definition} if args.definition else {})}
    data, message = ask(node_of(args), "POST", f"{PINS_PATH}/approve", body)
    approved = rows_in(data, "approved")
    if args.json:
        print_json(approved=approved)
    else:
        print(one_line(message))
        for row in approved:
            print(one_line(f"  {row.get('kind')} {row.get('name')} {row.get('digest')}"))
    return Exit.OK


def _row(pin: dict[str, Any], *, is_changed: bool) -> list[Any]:
    shown = [pin.get(name) for name in ("server", "kind", "name")]
    return [
        *shown,
        str(pin.get("digest"))[:_DIGITS_SHOWN],
        pin.get("since"),
        pin.get("by"),
        "yes" if is_changed else None,
    ]


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row.get("server"), row.get("kind"), row.get("name")
