"""The servers file: the `mcpServers` JSON that other MCP programs use too, turned into `ServerSpec`s.

Called by the app at start and at each reload, and by `config check`. The one rule: a file that cannot be used as a
whole is refused as a whole, with path, line and field, so that a typing mistake never silently drops a server.
"""

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from agent.config.values import CALL_TIMEOUT_MAX_S, name_fault, url_fault
from agent.errors import ConfigRefused
from agent.model import HttpTarget, ServerScope, ServerSpec, StdioTarget

# Member names and array indexes from the root: ("mcpServers", "files", "args", 0).
JsonPath: TypeAlias = tuple[str | int, ...]

_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A member that one object has twice, and the line of the second one."""

    path: JsonPath
    line: int


def find_places(text: str) -> tuple[Mapping[JsonPath, int], tuple[Duplicate, ...]]:
    """Return the line (from 1) of every member and array item of valid JSON, and the duplicates."""
    lines: dict[JsonPath, int] = {(): 1}
    duplicates: list[Duplicate] = []
    path: list[str | int] = []  # The member or item that the walk is in, one part for each open bracket.
    line, seen_to = 1, 0
    key_due = False
    for match in _WORD.finditer(text):
        line += text.count("\n", seen_to, match.start())
        seen_to = match.start()
        word = match.group()
        if key_due and word.startswith('"'):
            path[-1] = json.loads(word)
            key_due = False
            if tuple(path) in lines:
                duplicates.append(Duplicate(tuple(path), line))
            lines[tuple(path)] = line
            continue
        if path and isinstance(path[-1], int) and word not in "}],":
            lines.setdefault(tuple(path), line)
        match word:
            case "{":
                path.append("")
                key_due = True
            case "[":
                path.append(0)
            case "}" | "]":
                path.pop()
                key_due = False
            case ",":
                last = path[-1]
                path[-1] = last + 1 if isinstance(last, int) else ""
                key_due = not isinstance(last, int)
    return lines, tuple(duplicates)


def place_of(lines: Mapping[JsonPath, int], path: JsonPath) -> int:
    """Return the line of `path`, or of the nearest thing around it that is there."""
    while path not in lines:
        path = path[:-1]
    return lines[path]


def dotted(path: JsonPath) -> str:
    """Write a path as people do: `mcpServers.files.args[0]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


FILE_BYTES_MAX = 1024 * 1024
SERVERS_MAX = 256  # Each is a child process or a link; more than this is a mistake of a generator.
_ENTRY_KEYS = frozenset({"type", "url", "headers", "command", "args", "env", "cwd", "disabled", "mesh"})
_STDIO_KEYS = ("command", "args", "env", "cwd")
_HTTP_KEYS = ("url", "headers")
# `${NAME}` and `${NAME:-default}`; a doubled dollar keeps the braces as they are. Bare `$NAME` is left alone, because
# arguments with a dollar are more common than people who mean a variable by it.
_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")

log = logging.getLogger(__name__)


def read_servers(path: Path, environ: Mapping[str, str] | None = None) -> tuple[ServerSpec, ...]:
    """Read and parse a servers file; warnings go to the log. Raises `ConfigRefused`."""
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except OSError as exc:
        raise ConfigRefused(f"{path}: the servers file cannot be read: {exc.strerror}") from exc
    try:
        text = raw.decode("utf-8-sig")  # Editors on Windows put a mark in front.
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        raise ConfigRefused(f"{path}:{line}: is not UTF-8") from exc
    return parse_servers(text, path, environ)


def refuse_name_of_node(servers: Iterable[ServerSpec], node_name: str | None, path: Path) -> None:
    """Raises `ConfigRefused` when a server is called like its node: nodes, peers and servers share one namespace."""
    if any(spec.name == node_name for spec in servers):
        raise ConfigRefused(
            f"{path}: mcpServers.{node_name}: is the name of this node as well; rename it or set MESH_NODE_NAME"
        )


def parse_servers(text: str, path: Path, environ: Mapping[str, str] | None = None) -> tuple[ServerSpec, ...]:
    """Parse the text of a servers file, in the file's order; `path` is for messages and for relative `cwd`s.

    Variables are taken from `environ`, by default the process's own. Warnings go to the log. Raises `ConfigRefused`.
    """
    specs, warnings = check_servers(text, path, os.environ if environ is None else environ)
    for warning in warnings:
        log.warning("servers file", extra={"warning": warning})
    return specs


def check_servers(text: str, path: Path, environ: Mapping[str, str]) -> tuple[tuple[ServerSpec, ...], tuple[str, ...]]:
    """Parse without logging: the servers, and the warnings as sentences with path and line."""
    file = _File(text, path, environ)
    return file.servers(), tuple(file.warnings)


class _File:
    """One parse: the JSON tree, the line of each member, and what was odd. Each reader takes the path of a member."""

    def __init__(self, text: str, path: Path, environ: Mapping[str, str]) -> None:
        self.path, self.environ = path, environ
        self.warnings: list[str] = []
        self.lines: Mapping[JsonPath, int] = {(): 1}
        if len(text) > FILE_BYTES_MAX:
            self.refuse((), f"the file is larger than {FILE_BYTES_MAX} bytes")
        try:
            self.root: Any = json.loads(text)
        except json.JSONDecodeError as exc:
            raise ConfigRefused(f"{path}:{exc.lineno}: is not JSON: {exc.msg} (column {exc.colno})") from exc
        except (RecursionError, ValueError) as exc:  # Nested too deep; a number with thousands of digits.
            raise ConfigRefused(f"{path}:1: is not JSON that can be read: {exc}") from exc
        self.lines, duplicates = find_places(text)
        for twice in duplicates:
            raise ConfigRefused(f"{path}:{twice.line}: {dotted(twice.path)}: stands here for the second time")

    def refuse(self, path: JsonPath, fault: str) -> NoReturn:
        raise ConfigRefused(f"{self.place(path)} {fault}")

    def place(self, path: JsonPath) -> str:
        return f"{self.path}:{place_of(self.lines, path)}:" + (f" {dotted(path)}:" if path else "")

    def servers(self) -> tuple[ServerSpec, ...]:
        if not isinstance(self.root, dict):
            self.refuse((), 'must be an object like {"mcpServers": {}}')
        if "mcpServers" not in self.root:
            hint = "; rename servers to mcpServers" if "servers" in self.root else ""
            self.refuse((), f"has no mcpServers{hint}")
        self.warnings += [
            f"{self.place((key,))} is not ours and is ignored" for key in self.root if key != "mcpServers"
        ]
        entries = self.table(("mcpServers",), self.root["mcpServers"])
        if len(entries) > SERVERS_MAX:
            self.refuse(("mcpServers",), f"has {len(entries)} servers, at most {SERVERS_MAX} are allowed")
        return tuple(_Entry(self, name, entry).spec() for name, entry in entries.items())

    def table(self, path: JsonPath, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.refuse(path, "must be an object")
        return value

    def text(self, path: JsonPath, value: Any) -> str:
        if not isinstance(value, str) or "\0" in value or not value:
            self.refuse(path, "must be text and not empty")
        return value


class _Entry:
    """One server of the file."""

    def __init__(self, file: _File, name: str, entry: Any) -> None:
        self.file, self.name = file, name
        self.at: JsonPath = ("mcpServers", name)
        if fault := name_fault(name):
            file.refuse(self.at, f"a server's name {fault}")
        self.entry = file.table(self.at, entry)
        self.enabled = not self.flag("disabled")

    def spec(self) -> ServerSpec:
        for key in self.entry:
            if key not in _ENTRY_KEYS:
                self.file.warnings.append(f"{self.file.place((*self.at, key))} is not known and is ignored")
        target = self.stdio_target() if self.kind() == "stdio" else self.http_target()
        default = ServerScope.NODE if isinstance(target, StdioTarget) else ServerScope.SERVICE
        return self.mesh(ServerSpec(self.name, target, default, enabled=self.enabled))

    def kind(self) -> str:
        """`stdio` or `http`, from `type` or from which of `command` and `url` is there."""
        kind = self.entry.get("type")
        if kind is None:
            if ("command" in self.entry) == ("url" in self.entry):
                self.file.refuse(self.at, "must have either command or url")
            kind = "stdio" if "command" in self.entry else "http"
        elif kind == "sse":
            self.file.refuse(
                (*self.at, "type"),
                "sse is the transport that MCP gave up in 2025; use the server's streamable HTTP URL",
            )
        elif kind not in ("stdio", "http", "streamable-http"):
            self.file.refuse((*self.at, "type"), "must be stdio, http or streamable-http")
        wanted, foreign = ("command", _HTTP_KEYS) if kind == "stdio" else ("url", _STDIO_KEYS)
        if wanted not in self.entry:
            self.file.refuse((*self.at, wanted), f"is missing; type {kind} needs it")
        for key in foreign:
            if key in self.entry:
                self.file.refuse((*self.at, key), f"does not belong to a server of type {kind}")
        return "stdio" if kind == "stdio" else "http"

    def stdio_target(self) -> StdioTarget:
        cwd, env = self.member("cwd"), self.pairs("env")
        for name, _ in env:
            if not name or "=" in name or "\0" in name:
                self.file.refuse((*self.at, "env", name), "is not the name of an environment variable")
        return StdioTarget(
            command=self.expanded((*self.at, "command"), self.entry["command"]),
            args=self.arguments(),
            env=env,
            # Beside the file, wherever the node was started from.
            cwd=None if cwd is None else str(self.file.path.absolute().parent / cwd),
        )

    def http_target(self) -> HttpTarget:
        at = (*self.at, "url")
        url = self.expanded(at, self.entry["url"])
        if self.enabled and (fault := url_fault(url)):
            self.file.refuse(at, fault)
        headers = self.pairs("headers")
        for name, value in headers:
            if not _HEADER_NAME.fullmatch(name) or not value.isprintable():
                self.file.refuse((*self.at, "headers", name), "is not an HTTP header")
        return HttpTarget(url, headers)

    def mesh(self, spec: ServerSpec) -> ServerSpec:
        """The spec with what the entry says about the server's place in the mesh."""
        at = (*self.at, "mesh")
        table = self.file.table(at, self.entry.get("mesh", {}))
        for key in table:
            if key not in {"scope", "call_timeout_s", "sticky", "sessions"}:
                self.file.refuse((*at, key), "is not known; mesh has scope, call_timeout_s, sticky and sessions")
        scope = table.get("scope", spec.scope)
        if scope not in list(ServerScope):
            self.file.refuse((*at, "scope"), f"must be one of {', '.join(ServerScope)}")
        sticky, sessions = table.get("sticky", False), table.get("sessions", "shared")
        if not isinstance(sticky, bool):
            self.file.refuse((*at, "sticky"), "must be true or false")
        if sessions not in ("shared", "own"):
            self.file.refuse((*at, "sessions"), "must be shared or own")
        timeout_s = self.call_timeout_s((*at, "call_timeout_s"), table.get("call_timeout_s"))
        return replace(
            spec,
            scope=ServerScope(scope),
            call_timeout_s=timeout_s,
            sticky=sticky,
            session_pool=sessions == "own",
        )

    def call_timeout_s(self, at: JsonPath, value: Any) -> float | None:
        if value is None:
            return None
        right = isinstance(value, int | float) and not isinstance(value, bool)
        if not right or not 0 < value <= CALL_TIMEOUT_MAX_S:
            self.file.refuse(at, f"must be seconds, more than 0 and at most {CALL_TIMEOUT_MAX_S:.0f}")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self.entry.get(key, False)
        if not isinstance(value, bool):
            self.file.refuse((*self.at, key), "must be true or false")
        return value

    def member(self, key: str) -> str | None:
        return None if self.entry.get(key) is None else self.expanded((*self.at, key), self.entry[key])

    def arguments(self) -> tuple[str, ...]:
        at, value = (*self.at, "args"), self.entry.get("args") or []
        if not isinstance(value, list):
            self.file.refuse(at, "must be an array of texts")
        return tuple(self.expanded((*at, index), part, empty=True) for index, part in enumerate(value))

    def pairs(self, key: str) -> tuple[tuple[str, str], ...]:
        at = (*self.at, key)
        table = self.file.table(at, self.entry.get(key) or {})
        return tuple((name, self.expanded((*at, name), value, empty=True)) for name, value in table.items())

    def expanded(self, path: JsonPath, value: Any, *, empty: bool = False) -> str:
        """Put variables in. A disabled server is not asked for its variables: they may belong to another machine."""
        text = "" if empty and value == "" else self.file.text(path, value)

        def replaced(match: re.Match[str]) -> str:
            name, fallback = match.group(1), match.group(2)
            if name is None:
                return "${"
            if given := self.file.environ.get(name):
                return given
            if fallback is None and self.enabled:
                self.file.refuse(
                    path, f"the environment variable {name} is not set; set it or write ${{{name}:-default}}"
                )
            return match.group() if fallback is None else fallback

        return _VARIABLE.sub(replaced, text)
