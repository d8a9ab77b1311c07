"""The servers file: the `mcpServers` JSON that MCP programs share, turned into `ServerSpec`s.

Called by the app at start and at each reload, and by `config check`. An entry that cannot be used is left out with its
reasons and the rest runs; only a file whose entries cannot be found is refused. The one rule: nothing is
left out without a word, with path, line and field, in the log, in `config check` and in the status.
"""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent.config.relaxed_json import JsonPath, dotted, find_places, parse_relaxed, place_of
from agent.config.server_entry import Finding, Surroundings, home_folder, read_entry
from agent.config.server_names import safe_names
from agent.config.variables import from_environment
from agent.errors import ConfigRefused
from agent.model import ServerScope, ServerSpec
from discovery.ordinary_file import open_to_read

FILE_BYTES_MAX = 1024 * 1024
SERVERS_MAX = 256  # Each is a child process or a link; more than this is a mistake of a generator.
# Where the entries stand: in most programs' files, in VS Code's mcp.json, in VS Code's settings.json.
MAPS: tuple[JsonPath, ...] = (("mcpServers",), ("servers",), ("mcp", "servers"))

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An entry that is not used. `configured_name`: its name in the file; `name`: what it would be called here.

    `reasons`: sentences with path, line and field. `keeps_running`: the server of that name runs on as it was before.
    """

    name: str
    configured_name: str
    reasons: tuple[str, ...]
    enabled: bool = True
    keeps_running: bool = False


@dataclass(frozen=True, slots=True)
class ServersFile:
    """A file that was read: the servers in its order, the entries left out, and what was odd, as sentences."""

    servers: tuple[ServerSpec, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()


def read_servers(
    path: Path, environ: Mapping[str, str] | None = None, default_scope: ServerScope | None = None
) -> ServersFile:
    """Read and parse a servers file; notes go to the log. `default_scope`: see `check_servers`.

    Raises `ConfigRefused`.
    """
    file = check_servers(read_text(path), path, os.environ if environ is None else environ, default_scope)
    for note in file.notes:
        log.warning("servers file", extra={"warning": note})
    return file


def read_text(path: Path, bytes_max: int = FILE_BYTES_MAX, *, called: str = "servers file") -> str:
    """Read a file of at most `bytes_max` bytes; a byte order mark stays in front. Raises `ConfigRefused`."""
    try:
        with open_to_read(path) as file:
            raw = file.read(bytes_max + 1)
    except OSError as exc:
        raise ConfigRefused(f"{path}: the {called} cannot be read: {exc.strerror}") from exc
    if len(raw) > bytes_max:
        raise ConfigRefused(f"{path}:1: the file is larger than {bytes_max} bytes")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        raise ConfigRefused(f"{path}:{line}: is not UTF-8") from exc


def check_servers(
    text: str, path: Path, environ: Mapping[str, str], default_scope: ServerScope | None = None
) -> ServersFile:
    """Parse the text of a servers file without logging; `path` is for messages and for relative paths in it.

    Reads the `envFile`s that entries name. `default_scope`: of entries that say none; None: by what they are.
    Raises `ConfigRefused` where the file as a whole cannot be used.
    """
    file = _File(text, path)
    home = home_folder(environ)
    return file.read(
        Surroundings(path.absolute().parent, from_environment(environ, home), home, default_scope=default_scope)
    )


def leave_out_name_of_node(file: ServersFile, node_name: str | None, path: Path) -> ServersFile:
    """Leave out a server that is called like its node: nodes, peers and servers share one namespace."""
    for spec in file.servers:
        if spec.name == node_name:
            reason = (
                f"{path}: mcpServers.{spec.configured_name or spec.name}: is the name of this node as well;"
                " rename it or set MESH_NODE_NAME"
            )
            left_out = LeftOut(spec.name, spec.configured_name or spec.name, (reason,), spec.enabled)
            servers = tuple(other for other in file.servers if other is not spec)
            return replace(file, servers=servers, left_out=(*file.left_out, left_out))
    return file


def keep_running(file: ServersFile, running: Sequence[ServerSpec]) -> ServersFile:
    """Let a server run on as it was when its entry cannot be used any more: a slip of the pen ends nothing."""
    before = {spec.name: spec for spec in running}
    used = {spec.name for spec in file.servers}
    kept = [entry.name for entry in file.left_out if entry.name in before and entry.name not in used]
    left_out = tuple(replace(entry, keeps_running=entry.name in kept) for entry in file.left_out)
    return replace(file, servers=(*file.servers, *(before[name] for name in dict.fromkeys(kept))), left_out=left_out)


def map_of(root: Any) -> JsonPath | None:
    """Say where in a document the entries stand; None when there are none."""
    for path in MAPS:
        value = root
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            return path
    return None


class _File:
    """One parse: the JSON tree and the line of each member."""

    def __init__(self, text: str, path: Path) -> None:
        self.path = path
        if len(text) > FILE_BYTES_MAX:
            raise ConfigRefused(f"{path}:1: the file is larger than {FILE_BYTES_MAX} bytes")
        self.root, plain = parse_relaxed(text, path)
        self.lines, self.duplicates = find_places(plain)

    def sentence(self, path: JsonPath, text: str) -> str:
        return f"{self.path}:{place_of(self.lines, path)}:" + (f" {dotted(path)}:" if path else "") + f" {text}"

    def refused(self, path: JsonPath, fault: str) -> ConfigRefused:
        return ConfigRefused(self.sentence(path, fault))

    def read(self, around: Surroundings) -> ServersFile:
        at, entries = self.entries()
        names = safe_names(entries)
        servers: list[ServerSpec] = []
        left_out = list(self.twice(at, names))
        # An editor's settings have hundreds of members that are about something else. Views: agent.config.views_file.
        others = [key for key in self.root if key not in (at[0], "views")] if len(at) == 1 else []
        notes = [self.sentence((key,), "is not ours and is ignored") for key in others]
        for configured_name, value in entries.items():
            name = names[configured_name]
            entry = read_entry(name, value, (*at, configured_name), around)
            notes += map(self.of, entry.notes)
            alias = configured_name if configured_name != name else ""
            if alias:
                notes.append(self.sentence((*at, configured_name), f"is called {name} here, as names of tools allow"))
            if entry.spec is not None:
                servers.append(replace(entry.spec, configured_name=alias))
            else:
                left_out.append(LeftOut(name, configured_name, tuple(map(self.of, entry.faults)), entry.enabled))
        return ServersFile(tuple(servers), tuple(left_out), (*notes, *self.twice_within(at)))

    def of(self, finding: Finding) -> str:
        return self.sentence(finding.path, finding.text)

    def entries(self) -> tuple[JsonPath, dict[str, Any]]:
        if not isinstance(self.root, dict):
            raise self.refused((), 'must be an object like {"mcpServers": {}}')
        at = map_of(self.root)
        if at is None:
            raise self.refused((), "has no mcpServers")
        entries = self.root
        for key in at:
            entries = entries[key]
        if not isinstance(entries, dict):
            raise self.refused(at, "must be an object")
        for twice in self.duplicates:
            if twice.path == at[: len(twice.path)]:  # Which of the two is meant decides about every server.
                raise ConfigRefused(f"{self.path}:{twice.line}: {dotted(twice.path)}: stands here for the second time")
        if len(entries) > SERVERS_MAX:
            raise self.refused(at, f"has {len(entries)} servers, at most {SERVERS_MAX} are allowed")
        return at, entries

    def twice(self, at: JsonPath, names: Mapping[str, str]) -> Iterable[LeftOut]:
        """The entry before one of the same name: as to every JSON parser, the last one counts."""
        for twice in self.duplicates:
            if twice.path[:-1] == at:
                name = str(twice.path[-1])
                yield LeftOut(names[name], name, (self._counts_last(twice.path, twice.line),))

    def twice_within(self, at: JsonPath) -> Iterable[str]:
        for twice in self.duplicates:
            if twice.path[: len(at)] == at and len(twice.path) > len(at) + 1:
                yield self._counts_last(twice.path, twice.line)

    def _counts_last(self, path: JsonPath, line: int) -> str:
        return f"{self.path}:{line}: {dotted(path)}: stands here for the second time, and this one counts"
