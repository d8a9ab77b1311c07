"""Which servers of other programs a servers file takes over, and by what names.

Called by `agent.cli.servers_import`. An entry is taken in the form that this file documents, its variables left in. The
one rule: what is there stays; new entries get names of their own.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

from agent.config.other_programs import Found
from agent.config.relaxed_json import dotted
from agent.config.server_entry import Surroundings, home_folder, read_entry
from agent.config.server_names import NAME_CHARS_MAX, safe_names
from agent.config.values import name_fault
from agent.config.variables import kept, variables_in
from agent.config.written_entry import as_entry
from agent.model import Json, ServerSpec, StdioTarget

# What looks like a file in the working directory.
_SCRIPTS = (".py", ".js", ".mjs", ".cjs", ".ts", ".sh")


@dataclass(frozen=True, slots=True)
class Taken:
    """A server to be written under `name`; `notes` say what of its entry is lost, and what it needs."""

    found: Found
    name: str
    entry: Json = field(repr=False)
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """A server that is there already, as `name`; `differs` names the fields in which the other program's is unlike."""

    found: Found
    name: str
    differs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NotTaken:
    """A server that cannot be used here, with every reason."""

    found: Found
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of each entry that was found."""

    taken: tuple[Taken, ...] = ()
    known: tuple[Known, ...] = ()
    left_out: tuple[NotTaken, ...] = ()


def plan_import(
    found: Iterable[Found],
    own: Mapping[str, Any],
    own_folder: Path,
    reserved: Sequence[str],
    environ: Mapping[str, str],
) -> Plan:
    """Decide about every entry, in order. `own`: the entries that are there; `reserved`: names that no server may have.

    Two servers of one name are the same where command and arguments, or the URL, are: the first one found is taken. A
    different one gets the program's name behind its own. Reads the `envFile`s that entries name.
    """
    home = home_folder(environ)
    present = {name: _spec(name, value, own_folder, home) for name, value in own.items()}
    present |= {name: None for name in (*safe_names(own).values(), *reserved) if name not in present}
    taken: list[Taken] = []
    known: list[Known] = []
    left_out: list[NotTaken] = []
    for one in found:
        around = Surroundings(one.folder, kept, home, one.source.program.timeout_unit_s)
        entry = read_entry(one.name, one.entry, one.at, around)
        if entry.spec is None:
            left_out.append(NotTaken(one, tuple(f"{dotted(fault.path)}: {fault.text}" for fault in entry.faults)))
            continue
        spec = _started_in(entry.spec, one)
        # As long as the names are taken by other servers; a second import walks the same way to what the first one did.
        name = next(name for name in _names(one) if _is_free(name, present) or _is_same(present.get(name), spec))
        if name in present:
            known.append(Known(one, name, _differences(present[name], spec)))
            continue
        notes = (*(f"{dotted(note.path)}: {note.text}" for note in entry.notes), *_needs(spec, environ))
        present[name] = replace(spec, name=name)
        taken.append(Taken(one, name, as_entry(spec), notes))
    return Plan(tuple(taken), tuple(known), tuple(left_out))


def _names(found: Found) -> Iterator[str]:
    """The names to try: its own, made safe; with the program's behind it; with a number behind that."""
    yield found.name
    safe = safe_names([found.name])[found.name]
    yield safe
    for tail in chain([found.source.program.short], (f"{found.source.program.short}-{n}" for n in count(2))):
        yield f"{safe[: NAME_CHARS_MAX - len(tail) - 1]}-{tail}"


def _spec(name: str, value: Any, folder: Path, home: str) -> ServerSpec | None:
    return read_entry(name, value, (name,), Surroundings(folder, kept, home)).spec


def _started_in(spec: ServerSpec, found: Found) -> ServerSpec:
    """The spec with the working directory that its program would have given it."""
    target = spec.target
    if isinstance(target, StdioTarget) and target.cwd is None and found.starts_there:
        return replace(spec, target=replace(target, cwd=str(found.folder)))
    return spec


def _is_free(name: str, present: Mapping[str, ServerSpec | None]) -> bool:
    return name not in present and not name_fault(name)


def _is_same(one: ServerSpec | None, other: ServerSpec) -> bool:
    if one is None:
        return False
    if isinstance(one.target, StdioTarget):
        return isinstance(other.target, StdioTarget) and _identity(one.target) == _identity(other.target)
    return not isinstance(other.target, StdioTarget) and one.target.url == other.target.url


def _identity(target: StdioTarget) -> tuple[str, ...]:
    """What tells commands apart: the working directory only where a word seems to be a file in it."""
    words = (target.command, *target.args)
    is_relative = any(word.startswith(".") or (word.endswith(_SCRIPTS) and not word.startswith("/")) for word in words)
    return (*words, target.cwd or "") if is_relative else words


def _differences(one: ServerSpec | None, other: ServerSpec) -> tuple[str, ...]:
    """The names of fields that differ, never their values: these may be secrets."""
    ours, theirs = ({} if spec is None else as_entry(spec) for spec in (one, other))
    return tuple(key for key in ("env", "cwd", "headers", "disabled") if ours.get(key) != theirs.get(key))


def _needs(spec: ServerSpec, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Which variables of the node's environment it cannot do without and this process has not."""
    if not spec.enabled:
        return ()
    target = spec.target
    if isinstance(target, StdioTarget):
        texts = [target.command, *target.args, target.cwd or "", *(value for _, value in target.env)]
    else:
        texts = [target.url, *(value for _, value in target.headers)]
    names = dict.fromkeys(name for text in texts for name in variables_in(text) if not environ.get(name))
    return tuple(f"needs {name} in the node's environment, which is not set here" for name in names)
