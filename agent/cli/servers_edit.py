"""`mesh-agent servers add` and `servers rm`: one entry of the servers file, written durably; a running node reads it.

Called by `agent.cli.parser`. Starts nothing. The one rule: an entry that a node would leave out is not written, and no
value of one is printed, because values are where people keep their keys.
"""

import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.cli.output import CliFailed, Exit, print_json
from agent.cli.run import flags_of
from agent.cli.servers_import import one_at_a_time, say, servers_path, text_of, write_servers
from agent.config.load import load_settings
from agent.config.relaxed_json import parse_relaxed
from agent.config.servers_edit import entries_in, with_entries, without_entry
from agent.config.servers_file import check_servers
from agent.config.values import name_fault
from agent.errors import ConfigRefused
from agent.model import Json


def add_server(args: Namespace) -> int:
    """Add an entry, or with `--replace` put it in the place of one. Raises `CliFailed`, `ConfigRefused`."""
    path = servers_path(load_settings(flags_of(args), os.environ))
    if fault := name_fault(args.name):
        raise CliFailed(Exit.USAGE, f"NAME {fault}")
    entry = _entry(args)
    with one_at_a_time(path):
        text = text_of(path)
        present = args.name in _entries(text, path)
        if present and not args.replace:
            raise CliFailed(Exit.CONFIG, f"{path} has a server {args.name} already; give --replace to change it")
        changed = with_entries(without_entry(text, args.name, path) if present else text, {args.name: entry}, path)
        for left_out in check_servers(changed, path, os.environ).left_out:
            if left_out.name == args.name:
                raise ConfigRefused(f"{args.name} would be left out: {'; '.join(left_out.reasons)}")
        write_servers(path, changed)
    return _done(args, path, "changed" if present else "added")


def remove_server(args: Namespace) -> int:
    """Take an entry out. Raises `CliFailed` where there is none, `ConfigRefused`."""
    path = servers_path(load_settings(flags_of(args), os.environ))
    with one_at_a_time(path):
        text = text_of(path)
        names = _entries(text, path)
        if args.name not in names:
            raise CliFailed(
                Exit.CONFIG,
                f"{path} has no server {args.name}; it has {', '.join(names) or 'none'}",
                error="unknown_server",
            )
        write_servers(path, without_entry(text, args.name, path))
    return _done(args, path, "removed")


def _entry(args: Namespace) -> Json:
    command: list[str] = args.behind_dashes
    if bool(args.url) == bool(command):
        raise CliFailed(Exit.USAGE, "give a URL, or -- and a command with its arguments")
    if args.url:
        if args.env:
            raise CliFailed(Exit.USAGE, "a URL has no --env; it takes --header")
        entry: Json = {"url": args.url}
        if args.header:
            entry["headers"] = dict(_pair(text, ":", "--header", "NAME: VALUE") for text in args.header)
    else:
        if args.header:
            raise CliFailed(Exit.USAGE, "--header is for a URL; a command takes --env")
        entry = {"command": command[0], **({"args": command[1:]} if command[1:] else {})}
        if args.env:
            entry["env"] = dict(_pair(text, "=", "--env", "NAME=VALUE") for text in args.env)
    if args.scope:
        entry["mesh"] = {"scope": args.scope}
    return entry


def _pair(text: str, sign: str, flag: str, form: str) -> tuple[str, str]:
    name, found, value = text.partition(sign)
    if not found or not name.strip():
        raise CliFailed(Exit.USAGE, f"{flag} has the form {form}")
    return name.strip(), value.strip() if sign == ":" else value


def _entries(text: str, path: Path) -> Mapping[str, Any]:
    """The entries of a file, which may be missing yet."""
    return entries_in(parse_relaxed(text, path)[0]) if text.strip() else {}


def _done(args: Namespace, path: Path, what: str) -> int:
    if args.json:
        print_json(servers_file=str(path), name=args.name, outcome=what)
    else:
        say(f"{args.name} {what} in {path}; a running node takes that up by itself")
    return Exit.OK
