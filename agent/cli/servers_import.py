"""`mesh-agent servers import`: take the servers of other MCP programs over into this node's servers file.

Called by `agent.cli.parser`. Reads files, writes one, starts nothing. The one rule: names of servers, fields and
variables are printed, never a value, because values are where people keep their keys.
"""

import errno
import fcntl
import os
import stat
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.cli.output import Exit, print_fault, print_json
from agent.cli.run import flags_of
from agent.config.import_plan import Plan, plan_import
from agent.config.load import Settings, load_settings
from agent.config.other_programs import Found, Source, entries_of, source_of, usual_places
from agent.config.relaxed_json import dotted, parse_relaxed
from agent.config.servers_edit import entries_in, with_entries
from agent.config.servers_file import check_servers, read_text
from agent.errors import ConfigRefused
from agent.harmless_text import one_line
from agent.state.durable_file import write_durably

SOURCE_BYTES_MAX = 64 * 1024 * 1024  # Claude Code keeps the histories of all projects in the same file.
_CHARS_MAX = 500


def import_servers(args: Namespace) -> int:
    """Plan, tell, and write unless it is a dry run. Raises `ConfigRefused`."""
    settings = load_settings(flags_of(args), os.environ)
    path = servers_path(settings)
    project = Path(args.project).absolute() if args.project else None
    named = [source_of(Path(name).expanduser(), Path.home()) for name in args.source or ()]
    sources = named or _existing(usual_places(sys.platform, Path.home(), os.environ, project), but=path)
    found, faults = _entries(sources, is_named=bool(named))
    with one_at_a_time(path):
        text = text_of(path)
        root = parse_relaxed(text, path)[0] if text else {}
        reserved = [settings.node_name] if settings.node_name else []
        plan = plan_import(found, entries_in(root), path.parent, reserved, os.environ)
        writes = bool(plan.taken) and not args.dry_run
        if plan.taken:
            changed = with_entries(text, {one.name: one.entry for one in plan.taken}, path)
            check_servers(changed, path, os.environ)  # Refuses, say, a file that would have too many servers.
            if writes:
                write_servers(path, changed)
    if args.json:
        _print_json(plan, path, sources, faults, is_written=writes)
    else:
        _print_plan(plan, path, sources, faults, is_written=writes)
    return Exit.OK


def servers_path(settings: Settings) -> Path:
    """The servers file to write. Raises `ConfigRefused` where none is set."""
    path = settings.servers_file
    if path is None:
        raise ConfigRefused("there is no servers file to write to: set MESH_SERVERS_FILE or give --servers-file FILE")
    return Path(os.path.realpath(path))  # A link to the file stays one.


def _existing(places: Sequence[Source], but: Path) -> list[Source]:
    return [place for place in places if place.path.is_file() and not _is_same_file(place.path, but)]


def _is_same_file(one: Path, other: Path) -> bool:
    return Path(os.path.realpath(one)) == other


def _entries(sources: Sequence[Source], *, is_named: bool) -> tuple[list[Found], list[str]]:
    """What is in the sources. A file that was named must be readable, one of the usual places need not."""
    found: list[Found] = []
    faults: list[str] = []
    for source in sources:
        try:
            root, _ = parse_relaxed(read_text(source.path, SOURCE_BYTES_MAX), source.path)
        except ConfigRefused as exc:
            if is_named:
                raise
            faults.append(str(exc))
            continue
        found += entries_of(root, source)
    return found, faults


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Keep other commands that write this file waiting, from reading it to writing it: else one's change is lost."""
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # The file cannot be written either, which is said then.
        yield
        return
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def text_of(path: Path) -> str:
    """The file as it is; empty where there is none."""
    return read_text(path) if path.exists() else ""


def write_servers(path: Path, text: str) -> None:
    """Replace the file and keep its owner and permissions: the node may run as another user than the import does."""
    try:
        before = path.stat() if path.exists() else None
        write_durably(path, text.encode(), like=before)
    except OSError as exc:
        # A file that is mounted alone, as into a container, cannot be replaced.
        fix = "; mount its folder, or change it where it is mounted from" if exc.errno == errno.EBUSY else ""
        raise ConfigRefused(f"{path}: the servers file cannot be written: {exc.strerror}{fix}") from exc
    if before is not None and stat.S_IMODE(before.st_mode) & 0o004:
        print_fault(f"{path} can be read by every user of this machine; keys in it are no secret to them (chmod o-r)")


def _origin(found: Found) -> str:
    program = found.source.program
    return f"{program.title} ({found.source.path})" if program.short != "imported" else str(found.source.path)


def _print_plan(plan: Plan, path: Path, sources: Sequence[Source], faults: Sequence[str], *, is_written: bool) -> None:
    if not sources:
        say("no file of another MCP program was found in the usual places; name one with --from FILE")
        return
    for taken in plan.taken:
        renamed = f" (there: {taken.found.name})" if taken.name != taken.found.name else ""
        say(f"taken     {taken.name}{renamed}, from {_origin(taken.found)}")
        for note in taken.notes:
            say(f"            {note}")
    for known in plan.known:
        unlike = f"; unlike there: {', '.join(known.differs)}" if known.differs else ""
        say(f"known     {known.name} is here already, so that of {_origin(known.found)} is not taken{unlike}")
    for left_out in plan.left_out:
        say(f"left out  {left_out.found.name}, from {_origin(left_out.found)}")
        for reason in left_out.reasons:
            say(f"            {reason}")
    for fault in faults:
        say(f"left out  {fault}")
    if not plan.taken:
        say(f"nothing to take over; {path} is as it was")
    elif is_written:
        say(f"{len(plan.taken)} written to {path}; a running node takes them up by itself")
    else:
        say(f"a dry run: {len(plan.taken)} would be written to {path}, which is as it was")


def _print_json(plan: Plan, path: Path, sources: Sequence[Source], faults: Sequence[str], *, is_written: bool) -> None:
    print_json(
        servers_file=str(path),
        written=is_written,
        sources=[str(source.path) for source in sources],
        taken=[{**_found(one.found), "name": one.name, "notes": one.notes} for one in plan.taken],
        known=[{**_found(one.found), "name": one.name, "differs": one.differs} for one in plan.known],
        left_out=[{**_found(one.found), "reasons": one.reasons} for one in plan.left_out],
        faults=faults,
    )


def _found(found: Found) -> dict[str, Any]:
    origin = {"program": found.source.program.title, "file": str(found.source.path), "field": dotted(found.at)}
    return {"name_there": found.name, **origin}


def say(line: str) -> None:
    """Print a line, without what a terminal would obey."""
    indent = len(line) - len(line.lstrip())
    print(" " * indent + one_line(line, _CHARS_MAX))
