"""One entry of a servers file, as any MCP program writes it, read into a `ServerSpec`.

Called by `servers_file` and `import_plan`. Programs spell one thing in several ways (`url`, `serverUrl`, `httpUrl`;
`disabled`, `enabled`; `type`, `transport`); what a field means to each of them stands beside its reader. The one rule:
an entry is used as a whole or not at all, and every fault of it is collected, none hides another.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from agent.config.endpoint import url_fault
from agent.config.env_file import parse_env_file
from agent.config.oauth_entry import read_oauth_client
from agent.config.relaxed_json import JsonPath
from agent.config.start_time import START_TIMEOUT_MAX_S, default_start_timeout_s
from agent.config.tls_files import tls_fault
from agent.config.values import CALL_TIMEOUT_MAX_S, parse_flag
from agent.config.variables import Expand, kept, untouched
from agent.config.view_entry import TAG, TAG_RULE, TAGS_MAX
from agent.mcp_terms import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from agent.model import (
    HttpTarget,
    HttpTransport,
    Json,
    OAuthClient,
    ServerScope,
    ServerSpec,
    Sessions,
    StdioTarget,
    TlsFiles,
)
from discovery.ordinary_file import open_to_read

_TYPE_KEYS = ("type", "transport", "transportType")  # most programs; FastMCP and LangChain; older Cline
_URL_KEYS = ("httpUrl", "serverUrl", "url")  # Gemini CLI's, which beats its `url`; Windsurf's; that of all others
_STDIO_KEYS = ("command", "args", "env", "envFile", "cwd")
_HTTP_KEYS = (*_URL_KEYS, "headers", "oauth")
_KNOWN = frozenset({*_TYPE_KEYS, *_STDIO_KEYS, *_HTTP_KEYS, "disabled", "enabled", "timeout", "mesh"})
# Without blanks, dashes and underscores, in lower case: "streamableHttp", "streamable_http" and "streamable-http" are
# one. GitHub's Copilot calls a command "local".
_TYPES = {"stdio": "stdio", "local": "stdio", "http": "http", "streamablehttp": "http", "sse": "sse"}
# Keys of other programs that change what a server offers or who may use it: leaving them out is worth more words.
_MISSED = {
    **dict.fromkeys(
        ("includeTools", "excludeTools", "disabledTools", "enabledTools", "tools"),
        "chooses among the server's tools, which a node does not: all of them are offered",
    ),
    **dict.fromkeys(
        ("auth", "authProviderType", "headersHelper"),
        "signs in, which a node does by oauth alone: write that, or a token into headers or env",
    ),
}
_MESH_KEYS = frozenset(
    {"scope", "call_timeout_s", "start_timeout_s", "sticky", "sessions", "protocol", "tls", "tags", "user", "cgroup"}
)
_PROTOCOLS = (*HANDSHAKE_PROTOCOL_VERSIONS, *MODERN_PROTOCOL_VERSIONS)
_TLS_KEYS = ("ca", "cert", "key")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_ENV_FILE_BYTES_MAX = 1024 * 1024
# `timeout` is milliseconds to Claude Code, Gemini CLI, FastMCP and Amazon Q, seconds (at most an hour) to Cline and Roo
# Code. No call is given less than a second, so only between these two is it not certain which was meant.
MILLISECOND_S: Final = 0.001
_SECONDS_BELOW = 1000
_MILLISECONDS_ABOVE = 3600


@dataclass(frozen=True, slots=True)
class Finding:
    """A sentence about one member of the file."""

    path: JsonPath
    text: str


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of an entry: a spec, or the faults that prevent one. `notes` are only odd."""

    spec: ServerSpec | None
    faults: tuple[Finding, ...]
    notes: tuple[Finding, ...]
    enabled: bool


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an entry is read with: the folder that relative paths start at, how variables are put in, `timeout`'s unit.

    `home`: what a leading `~` stands for. `timeout_unit_s` None: inferred from the size of the number.
    `default_scope` None: by what kind of server it is.
    """

    folder: Path
    expand: Expand
    home: str
    timeout_unit_s: float | None = None
    default_scope: ServerScope | None = None


def home_folder(environ: Mapping[str, str]) -> str:
    """What `~` and `${userHome}` stand for."""
    return environ.get("HOME") or str(Path.home())


def read_entry(name: str, value: Any, at: JsonPath, around: Surroundings) -> Entry:
    """Read one entry; `at` is its place in the file, `name` what the server is called here. Reads its `envFile`."""
    if not isinstance(value, dict):
        return Entry(None, (Finding(at, "must be an object"),), (), enabled=True)
    reader = _Reader(name, value, at, around)
    spec = reader.spec()
    return Entry(None if reader.faults else spec, tuple(reader.faults), tuple(reader.notes), reader.enabled)


class _Reader:
    """Reads one entry. After a fault it goes on with something of the right type, so that all faults are found.

    Long because each member of an entry is read by a method, and all of them add to one list of faults.
    """

    def __init__(self, name: str, value: Json, at: JsonPath, around: Surroundings) -> None:
        self.name, self.at, self.around = name, at, around
        self.faults: list[Finding] = []
        self.notes: list[Finding] = []
        # Programs write fields that a person left empty in a form; null is their "not set".
        self.fields = {key: part for key, part in value.items() if part not in (None, "", [], {})}
        if value.get("auth") == "oauth":  # FastMCP's word for a login, which any server may ask for here.
            del self.fields["auth"]
        self.enabled = self.switched_on()
        self.expand = around.expand if self.enabled else untouched

    def fault(self, path: JsonPath, text: str) -> None:
        self.faults.append(Finding(path, text))

    def note(self, key: str, text: str) -> None:
        self.notes.append(Finding((*self.at, key), text))

    def spec(self) -> ServerSpec | None:
        for key in self.fields:
            if key not in _KNOWN:
                self.note(key, f"is ignored: it {_MISSED[key]}" if key in _MISSED else "is not known and is ignored")
        kind = self.kind()
        target = None if kind is None else self.stdio_target() if kind == "stdio" else self.http_target(kind)
        default = self.around.default_scope or (ServerScope.NODE if kind == "stdio" else ServerScope.SERVICE)
        # Read also for an entry that is of no use, so that all its faults are found.
        draft = ServerSpec(self.name, target or HttpTarget(""), default, enabled=self.enabled)
        return self.mesh(replace(draft, call_timeout_s=self.timeout_s()))

    # What kind of server

    def switched_on(self) -> bool:
        """`disabled: true` or `enabled: false`; where the two differ, off is the harmless one."""
        return not self.flag("disabled", default=False) and self.flag("enabled", default=True)

    def kind(self) -> str | None:
        """`stdio`, `http`, `sse` or `any` (by URL); from `type` or from what is there; None after a fault."""
        said = next((key for key in _TYPE_KEYS if key in self.fields), None)
        has_url, has_command = any(key in self.fields for key in _URL_KEYS), "command" in self.fields
        if said is None:
            if has_url == has_command:
                self.fault(self.at, "must have either command or url")
                return None
            kind = "stdio" if has_command else HttpTransport.ANY.value
        else:
            word = self.fields[said]
            kind = _TYPES.get(re.sub(r"[-_ ]", "", word).lower(), "") if isinstance(word, str) else ""
            if not kind:
                self.fault((*self.at, said), "must be stdio, http or sse")
                return None
        if not (has_command if kind == "stdio" else has_url):
            self.fault((*self.at, "command" if kind == "stdio" else "url"), f"is missing; type {kind} needs it")
            return None
        for key in _HTTP_KEYS if kind == "stdio" else _STDIO_KEYS:
            if key in self.fields:
                self.note(key, f"does not belong to a server of type {kind} and is ignored")
        return kind

    # Targets

    def stdio_target(self) -> StdioTarget:
        cwd = self.path("cwd") if "cwd" in self.fields else None
        command = self.path("command")
        args = self.arguments()
        env = {**self.env_file(), **self.env()}
        if cwd is not None and not self.unknown_yet(cwd):
            cwd = str(self.around.folder / cwd)  # Beside the file, wherever the node was started from.
        return StdioTarget(command, args, tuple(env.items()), cwd)

    def http_target(self, kind: str) -> HttpTarget:
        key, *others = [key for key in _URL_KEYS if key in self.fields]
        for other in others:
            if self.fields[other] != self.fields[key]:
                self.note(other, f"is ignored: {key} is there too")
        url = self.text(key)
        if self.enabled and url and not self.unknown_yet(url) and (fault := url_fault(url)):
            self.fault((*self.at, key), fault)
        transport = HttpTransport(kind)
        if transport is HttpTransport.ANY and key == "httpUrl":
            transport = HttpTransport.STREAMABLE  # As to Gemini CLI, where `url` is the old transport.
        if transport is HttpTransport.STREAMABLE and url.partition("?")[0].rstrip("/").endswith("/sse"):
            self.note(
                key, "looks like the old HTTP+SSE transport; if it is, write type sse, or none to have both tried"
            )
        headers = self.pairs("headers", self.table("headers"))
        for name, value in headers:
            if not _HEADER_NAME.fullmatch(name) or not value.isprintable():
                self.fault((*self.at, "headers", name), "is not an HTTP header")
        target = HttpTarget(url, headers, transport=transport)
        return target if "oauth" not in self.fields else replace(target, oauth=self.oauth(target))

    def oauth(self, target: HttpTarget) -> OAuthClient | None:
        """What `oauth` says, read as a whole by its own module."""
        at = (*self.at, "oauth")
        if target.has_own_authorization:
            self.fault(at, "is there beside a header Authorization; leave one of the two out")
        elif not isinstance(self.fields["oauth"], dict):
            self.fault(at, "must be an object")
        else:
            looks, given = self.enabled and self.expand is not kept, self.fields["oauth"]
            read = read_oauth_client(given, self.expand, self.around.folder, self.from_home, looks=looks)
            self.faults += [Finding((*at, *key), text) for key, text in read.faults]
            self.notes += [Finding((*at, *key), text) for key, text in read.notes]
            return read.client
        return None

    def env(self) -> dict[str, str]:
        """`env`; as VS Code has it, null takes a variable away."""
        table = {name: value for name, value in self.table("env").items() if value is not None}
        for name in table:
            if not name or "=" in name or "\0" in name:
                self.fault((*self.at, "env", name), "is not the name of an environment variable")
        return dict(self.pairs("env", table))

    def env_file(self) -> dict[str, str]:
        """The variables of `envFile`, which `env` beats. Not read for a server that is switched off."""
        if "envFile" not in self.fields or not self.enabled:
            return {}
        at, named = (*self.at, "envFile"), self.path("envFile")
        if self.unknown_yet(named):
            self.fault(at, "has a variable in its path; write the path")
            return {}
        if not named:
            return {}
        path = self.around.folder / named
        try:
            with open_to_read(path, _ENV_FILE_BYTES_MAX) as file:
                text = file.read(_ENV_FILE_BYTES_MAX).decode("utf-8")
        except (OSError, UnicodeDecodeError, ValueError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
            self.fault(at, f"{path} cannot be read: {reason}")
            return {}
        values, bad = parse_env_file(text)
        for number in bad:
            self.fault(at, f"{path}:{number} is not NAME=value")
        # What stays in a file with variables must stay what it is.
        return {name: text.replace("${", "$${") for name, text in values.items()} if self.expand is kept else values

    # Time and place in the mesh

    def timeout_s(self) -> float | None:
        """`timeout` of other programs, in seconds; what is ambiguous is a note, not a fault."""
        value = self.fields.get("timeout")
        if value is None:
            return None
        right = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
        unit_s = self.around.timeout_unit_s or _timeout_unit_s(value) if right else None
        if unit_s is None:
            self.note("timeout", "may be seconds or milliseconds and is ignored; write mesh.call_timeout_s, in seconds")
            return None
        return float(min(value, CALL_TIMEOUT_MAX_S / unit_s)) * unit_s

    def mesh(self, spec: ServerSpec) -> ServerSpec:
        """The spec with what the entry says about the server's place in the mesh."""
        at = (*self.at, "mesh")
        table = self.table("mesh")
        for key in table:
            if key not in _MESH_KEYS:
                known = "scope, call_timeout_s, start_timeout_s, sticky, sessions, protocol, tls, tags, user and cgroup"
                self.fault((*at, key), f"is not known; mesh has {known}")
        scope = table.get("scope", spec.scope)
        if scope not in list(ServerScope):
            self.fault((*at, "scope"), f"must be one of {', '.join(ServerScope)}")
            scope = spec.scope
        sticky, sessions = table.get("sticky", False), table.get("sessions", Sessions.AUTO)
        if not isinstance(sticky, bool):
            self.fault((*at, "sticky"), "must be true or false")
        if sessions not in list(Sessions):
            self.fault((*at, "sessions"), "must be auto, shared or own")
            sessions = spec.sessions
        protocol = table.get("protocol")
        if protocol is not None and protocol not in _PROTOCOLS:
            fix = "leave it out, and the node speaks what the server does"
            self.fault((*at, "protocol"), f"must be one of {', '.join(_PROTOCOLS)}, in quotes; {fix}")
            protocol = None
        if protocol in MODERN_PROTOCOL_VERSIONS and sessions == Sessions.OWN:
            self.fault((*at, "sessions"), f"cannot be own where protocol is {protocol}, which has no sessions")
        timeout_s = self.seconds((*at, "call_timeout_s"), table.get("call_timeout_s"), CALL_TIMEOUT_MAX_S)
        start_s = self.seconds((*at, "start_timeout_s"), table.get("start_timeout_s"), START_TIMEOUT_MAX_S)
        target = spec.target
        for key, read in (("tls", self.with_tls), ("user", self.with_user), ("cgroup", self.with_cgroup)):
            if key in table:
                target = read((*at, key), table[key], target)
        return replace(
            spec,
            target=target,
            scope=ServerScope(scope),
            call_timeout_s=spec.call_timeout_s if timeout_s is None else timeout_s,
            sticky=sticky is True,
            sessions=Sessions(sessions),
            start_timeout_s=start_s or default_start_timeout_s(spec.target),
            protocol=protocol,
            tags=self.tags((*at, "tags"), table.get("tags")),
        )

    def with_tls(self, at: JsonPath, value: Any, target: StdioTarget | HttpTarget) -> StdioTarget | HttpTarget:
        """The target with its files for TLS, which have to be there and of use; relative ones beside the file."""
        if isinstance(target, StdioTarget) or not isinstance(value, dict):
            self.fault(at, "must be an object" if isinstance(target, HttpTarget) else "is for a server with a url")
            return target
        before = len(self.faults)
        paths: dict[str, str] = {}
        for key, part in value.items():
            if key not in _TLS_KEYS:
                self.fault((*at, key), "is not known; tls has ca, cert and key")
            elif part not in (None, ""):
                text = self.expanded((*at, key), part)
                paths[key] = text if self.unknown_yet(text) else str(self.around.folder / self.from_home(text))
        files = TlsFiles(paths.get("ca"), paths.get("cert"), paths.get("key"))
        knows_all = self.enabled and not any(map(self.unknown_yet, paths.values()))
        if len(self.faults) == before and knows_all and (fault := tls_fault(files)) is not None:
            self.fault((*at, fault.field), str(fault))
        if self.enabled and target.url.startswith("http:"):
            self.note("mesh", "has tls, which does nothing for a url with http:")
        return replace(target, tls=files) if paths else target

    def with_user(self, at: JsonPath, value: Any, target: StdioTarget | HttpTarget) -> StdioTarget | HttpTarget:
        """The target with the account that it runs as; whether there is one, its start says."""
        if not isinstance(value, str) or not _USER.fullmatch(value) or not isinstance(target, StdioTarget):
            is_child = isinstance(target, StdioTarget)
            self.fault(at, "must be the name or number of a user, in quotes" if is_child else "is for a command")
            return target
        return replace(target, user=value)

    def with_cgroup(self, at: JsonPath, value: Any, target: StdioTarget | HttpTarget) -> StdioTarget | HttpTarget:
        """The target with its word on a control group; whether there can be one, its start says."""
        if not isinstance(value, bool) or not isinstance(target, StdioTarget):
            self.fault(at, "must be true or false" if isinstance(target, StdioTarget) else "is for a command")
            return target
        return replace(target, cgroup=value)

    def tags(self, at: JsonPath, value: Any) -> tuple[str, ...]:
        if value is None:
            return ()
        if not isinstance(value, list) or len(value) > TAGS_MAX:
            self.fault(at, f"must be an array of at most {TAGS_MAX} texts")
            return ()
        for number, tag in enumerate(value):
            if not isinstance(tag, str) or not TAG.fullmatch(tag):
                self.fault((*at, number), f"must be text, {TAG_RULE}")
                return ()
        return tuple(dict.fromkeys(value))

    def seconds(self, at: JsonPath, value: Any, most_s: float) -> float | None:
        if value is None:
            return None
        right = isinstance(value, int | float) and not isinstance(value, bool)
        if not right or not 0 < value <= most_s:
            self.fault(at, f"must be seconds, more than 0 and at most {most_s:.0f}")
            return None
        return float(value)

    # Fields by their type

    def unknown_yet(self, text: str) -> bool:
        """Whether a variable was left in, so that it is not known what the text will be."""
        return self.expand is kept and "${" in text

    def flag(self, key: str, *, default: bool) -> bool:
        """A switch; a text says it as one of a setting does, since a person may have put quotes around the word."""
        value = self.fields.get(key, default)
        try:
            return value if isinstance(value, bool) else parse_flag(_written_out(value))
        except (ValueError, AttributeError):
            self.fault((*self.at, key), "must be true or false")
            return default

    def table(self, key: str) -> Json:
        value = self.fields.get(key, {})
        if not isinstance(value, dict):
            self.fault((*self.at, key), "must be an object")
            return {}
        return value

    def arguments(self) -> tuple[str, ...]:
        at, value = (*self.at, "args"), self.fields.get("args", [])
        if not isinstance(value, list):
            self.fault(at, "must be an array of texts")
            return ()
        return tuple(self.expanded((*at, index), _written_out(part)) for index, part in enumerate(value))

    def pairs(self, key: str, table: Json) -> tuple[tuple[str, str], ...]:
        return tuple((name, self.expanded((*self.at, key, name), _written_out(value))) for name, value in table.items())

    def text(self, key: str) -> str:
        """A text that may not end up empty, as a command or a URL."""
        before = len(self.faults)
        text = self.expanded((*self.at, key), self.fields[key])
        if not text and len(self.faults) == before:
            self.fault((*self.at, key), "must be text and not empty")
        return text

    def path(self, key: str) -> str:
        """A path or the name of a program; no shell is there to put the home folder in."""
        return self.from_home(self.text(key))

    def from_home(self, text: str) -> str:
        return self.around.home + text[1:] if text == "~" or text.startswith("~/") else text

    def expanded(self, path: JsonPath, value: Any) -> str:
        """A text with its variables put in; empty after a fault."""
        if not isinstance(value, str) or "\0" in value:
            self.fault(path, "must be text and not empty" if path[-1] in _KNOWN else "must be text")
            return ""
        expanded = self.expand(value)
        for fault in expanded.faults:
            self.fault(path, fault)
        return "" if expanded.faults else expanded.text


def _written_out(value: Any) -> Any:
    """A number or switch as the text that a person meant by it; anything else as it is."""
    return json.dumps(value) if isinstance(value, bool | int | float) else value


def _timeout_unit_s(value: float) -> float | None:
    if value < _SECONDS_BELOW:
        return 1.0
    return MILLISECOND_S if value > _MILLISECONDS_ABOVE else None
