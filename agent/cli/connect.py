"""`mesh-agent connect PROGRAM`: have another MCP program use this node, by an entry in that program's own file.

Called by `agent.cli.parser`. Prints what to write, and with `--write` writes it, beside a copy of the file as it was.
The one rule: everything else in that file stays as its owner wrote it, and no token is put into it.
"""

import json
import os
import shutil
import sys
from argparse import Namespace
from pathlib import Path

from agent.cli.client import Node, node_of
from agent.cli.output import CliFailed, Exit, print_json
from agent.cli.servers_import import SOURCE_BYTES_MAX, say
from agent.config.connections import PROGRAMS, Connection, already_there, connection_of, toml_entry, with_toml_entry
from agent.config.relaxed_json import parse_relaxed
from agent.config.servers_edit import entries_in, with_entries
from agent.config.servers_file import read_text
from agent.errors import ConfigRefused
from agent.routing.names import NAME_RULE, is_valid_name
from agent.state.durable_file import write_durably


def connect(args: Namespace) -> int:
    """Print the entry, or write it. Raises `CliFailed`, `ConfigRefused`."""
    if not is_valid_name(args.name):
        raise CliFailed(Exit.USAGE, f"--name {NAME_RULE}")
    node = node_of(args)
    connection = connection_of(
        PROGRAMS[args.program],
        f"{node.url}/mcp",
        wants_token=node.token is not None,
        platform=sys.platform,
        home=Path.home(),
        environ=os.environ,
    )
    path = Path(os.path.realpath(args.file)) if args.file else connection.path
    backup = _write(connection, args.name, node, path) if args.write else None
    if args.json:
        entry = connection.entry if connection.entry is not None else _text(connection, args.name, node)
        print_json(
            program=connection.program.title,
            file=str(path),
            name=args.name,
            entry=entry,
            written=args.write,
            backup=None if backup is None else str(backup),
            notes=list(connection.notes),
        )
        return Exit.OK
    if args.write:
        say(f"written to {path}" + (f"; as it was: {backup}" if backup else ""))
    else:
        say(f"# {connection.program.title}: {path}; with --write it is written there")
        print(_text(connection, args.name, node), end="")
    for note in connection.notes:
        say(f"# {note}")
    return Exit.OK


def _text(connection: Connection, name: str, node: Node) -> str:
    if connection.entry is None:
        return toml_entry(name, f"{node.url}/mcp", wants_token=node.token is not None)
    return json.dumps({connection.map_name: {name: connection.entry}}, indent=2) + "\n"


def _write(connection: Connection, name: str, node: Node, path: Path) -> Path | None:
    """Write the entry; returns the copy of the file as it was, None where there was none."""
    try:
        text = read_text(path, SOURCE_BYTES_MAX) if path.exists() else ""
        changed = _changed(connection, name, node, path, text)
        path.parent.mkdir(parents=True, exist_ok=True)
        backup = _copied(path) if text else None
        write_durably(path, changed.encode(), like=path.stat() if path.exists() else None)
    except OSError as exc:
        raise ConfigRefused(f"{path}: cannot be written: {exc.strerror}") from exc
    return backup


def _changed(connection: Connection, name: str, node: Node, path: Path, text: str) -> str:
    if connection.entry is None:
        return with_toml_entry(text, name, f"{node.url}/mcp", path, wants_token=node.token is not None)
    if not text.strip():
        return _text(connection, name, node)
    if name in entries_in(parse_relaxed(text, path)[0]):
        raise already_there(path, name)
    return with_entries(text, {name: connection.entry}, path)


def _copied(path: Path) -> Path:
    """A copy beside the file, under the first name that is free."""
    numbers = (f"{path.name}.before-mesh{f'-{number}' if number else ''}" for number in range(1_000))
    free = next(copy for name in numbers if not (copy := path.with_name(name)).exists())
    shutil.copy2(path, free)
    return free
