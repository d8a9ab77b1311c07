"""A node's settings, each value with its origin (`agent.config.found`).

Called by the command line, which hands the frozen `Settings` to `agent.app`; other rooms get plans and values.
The one rule: a value that cannot be used is refused with its name, its origin and the fix, never replaced by a guess.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from agent.config.endpoint import parse_token
from agent.config.found import Found, find_values, unknown_variables
from agent.config.table import BY_NAME, FILE_TWINS, SETTINGS
from agent.config.values import StaticPeer, is_loopback
from agent.errors import ConfigRefused
from agent.model import MASK, ServerScope, TlsFiles, masked_url
from discovery.model import SettingsRefused
from discovery.ordinary_file import open_to_read

if TYPE_CHECKING:
    from agent.authority.grant import NamedToken
    from agent.authority.oauth import OAuthRules
    from discovery.consul.environment import ConsulSettings

__all__ = ["Settings", "StaticPeer", "load_settings", "read_token_file", "shown"]

TOKEN_CHARS_MIN = 16  # Fewer is guessable over a network within the life of a token.
TOKEN_FILE_BYTES_MAX = 8192
TOKENS_MAX = 2  # The current one and its predecessor or successor.
DERIVED = "derived from the token"

# A setting's value as it is shown: a list as the text that would set it, None when it is not set.
Shown: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one node. Each field's unit, default and trade-off stand in `agent.config.table`.

    `tokens` are all that are accepted (two during a rotation), `token` the current one, None without authentication;
    `peer_tokens` are the secrets of the mesh as given, none where they follow from the tokens. With a token file set,
    the app may call `read_token_file` again at any time.
    `state_dir_is_own`: an operator has named the folder, so it is this node's alone; the default one is its user's.
    `consul_environment`: Consul's variables for `shown`, masked. `origins`: of each field; `warnings`: for the log.
    `environ`: what servers files find variables in, for ours forgets its secrets (`agent.process_secrets`).
    """

    host: str
    port: int
    port_explicit: bool
    node_name: str | None
    state_dir: Path
    state_dir_is_own: bool
    servers_file: Path | None
    views_file: Path | None
    tokens: tuple[str, ...] = field(repr=False)
    token_file: Path | None
    tokens_file: Path | None
    named_tokens: "tuple[NamedToken, ...]" = field(repr=False)
    oauth_rules: "tuple[OAuthRules, ...]"
    audit_file: Path | None
    audit_calls: bool
    discovery: str
    tool_mode: str
    notices: str
    errors: str
    instructions: str
    list_page_size: int
    name_len_max: int
    default_scope: ServerScope | None
    short_names: bool
    fleet_writes: tuple[str, ...]
    service_nodes: Mapping[str, frozenset[str]]
    pinning: str
    weight: int
    workers: int
    service_name: str
    datacenters: tuple[str, ...] | None
    peer_files: tuple[str, ...] | None
    peer_dns: tuple[str, ...] | None
    dns_servers: tuple[str, ...] | None
    advertise_address: str | None
    advertise_port: int | None
    peers: tuple[StaticPeer, ...]
    peer_tokens: tuple[str, ...] = field(repr=False)
    peer_token_file: Path | None
    tls_ca: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    listen_cert: Path | None
    listen_key: Path | None
    listen_ca: Path | None
    dial_allow: tuple[IPv4Network | IPv6Network, ...] | None
    dial_deny: tuple[IPv4Network | IPv6Network, ...]
    proxy_peers: bool
    call_timeout_s: float
    cors_origins: tuple[str, ...]
    allowed_hosts: tuple[str, ...]
    embedded_port: int
    log_level: str
    log_format: str
    metrics_public: bool
    traces_url: str | None
    public_url: str | None
    registry_public: bool
    allow_anonymous: bool
    consul_http_check: bool
    consul_connect: bool
    consul_wait_s: float
    config_file: Path | None
    consul: "ConsulSettings"
    consul_environment: tuple[tuple[str, str], ...]
    origins: Mapping[str, str]
    warnings: tuple[str, ...]
    environ: Mapping[str, str] = field(repr=False)

    @property
    def token(self) -> str | None:
        """The current token of clients and operators."""
        return self.tokens[0] if self.tokens else None

    @property
    def tls(self) -> TlsFiles:
        """The TLS files for all that is dialled."""
        return _tls_files(self.tls_ca, self.tls_cert, self.tls_key)

    @property
    def listen_tls(self) -> TlsFiles | None:
        """The TLS files of the listener; None for http."""
        return None if self.listen_cert is None else _tls_files(self.listen_ca, self.listen_cert, self.listen_key)

    @property
    def scheme(self) -> str:
        """Of this node's own URLs."""
        return "https" if self.consul_connect or self.listen_cert is not None else "http"


def load_settings(flags: Mapping[str, str], environ: Mapping[str, str]) -> Settings:
    """Work out the settings; `flags` maps setting names (`"port"`) to text.

    Reads the configuration file and the token files that they name. Raises `ConfigRefused`.
    """
    found = find_values(flags, environ)
    values = {setting.name: _parsed(found[setting.name]) for setting in SETTINGS}
    origins = {name: value.origin for name, value in found.items()}
    tokens = _tokens("token", values, found)
    peer_tokens = _tokens("peer_token", values, found)
    if not peer_tokens and tokens:
        origins["peer_token"] = DERIVED
    values["state_dir"] = (values["state_dir"] or default_state_dir(environ)).absolute()
    _refuse_open_node(values, found, tokens)
    for name, given in (("token", tokens), ("peer_token", peer_tokens)):
        _refuse_short(values["host"], values[FILE_TWINS[name]] or f"{name} ({origins[name]})", given)
    _refuse_tls_files(values, found)
    _refuse_workers(values, found)
    del values["token"], values["peer_token"]
    named_tokens, oauth_rules = _named_tokens(values, found, tokens)
    return Settings(
        **values,
        port_explicit=found["port"].explicit,
        state_dir_is_own=found["state_dir"].explicit,
        tokens=tokens,
        named_tokens=named_tokens,
        oauth_rules=oauth_rules,
        peer_tokens=peer_tokens,
        consul=_consul(environ),
        consul_environment=_consul_environment(environ),
        origins=MappingProxyType(origins),
        warnings=(*unknown_variables(environ), *_warnings(values, tokens)),
        environ=MappingProxyType(dict(environ)),
    )


def read_token_file(path: Path) -> tuple[str, ...]:
    """Read one or two tokens, one a line, the current one first; lines that begin with `#` are comments.

    Raises `ConfigRefused`.
    """
    try:
        with open_to_read(path) as file:
            raw = file.read(TOKEN_FILE_BYTES_MAX + 1)
    except OSError as exc:
        raise ConfigRefused(f"{path}: the token file cannot be read: {exc.strerror}") from exc
    lines = [line.strip() for line in raw.decode("utf-8", "replace").splitlines()]
    tokens = tuple(line for line in lines if line and not line.startswith("#"))
    if not 1 <= len(tokens) <= TOKENS_MAX or len(raw) > TOKEN_FILE_BYTES_MAX:
        raise ConfigRefused(
            f"{path}: a token file has one token, or two lines: the current token and another valid one"
        )
    for token in tokens:
        try:
            parse_token(token)
        except ValueError as exc:
            raise ConfigRefused(f"{path}: a token {exc}") from None
    return tokens


def read_tokens_again(settings: Settings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The clients' tokens and the mesh's, valid now by the files as they are now. Raises `ConfigRefused`."""
    tokens = read_token_file(settings.token_file) if settings.token_file else settings.tokens
    peer_tokens = read_token_file(settings.peer_token_file) if settings.peer_token_file else settings.peer_tokens
    _refuse_short(settings.host, settings.token_file, tokens)
    _refuse_short(settings.host, settings.peer_token_file, peer_tokens)
    return tokens, peer_tokens


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """Say where a user's programs keep state (XDG base directories)."""
    base = environ.get("XDG_STATE_HOME")
    # The specification wants relative paths ignored.
    root = Path(base) if base and Path(base).is_absolute() else Path(environ.get("HOME") or Path.home(), ".local/state")
    return root / "mesh-agent"


def shown(settings: Settings) -> list[tuple[str, Shown, str]]:
    """List every setting as (name, value, origin), with secrets masked; Consul's variables come last."""
    rows: list[tuple[str, Shown, str]] = []
    for setting in SETTINGS:
        if setting.secret:
            known = settings.tokens if setting.name == "token" else settings.peer_tokens or settings.tokens
            value: Shown = " ".join([MASK] * len(known)) or None
        else:
            value = _shown(getattr(settings, setting.name))
        rows.append((setting.name, value, settings.origins[setting.name]))
    return rows + [(name, text, f"environment {name}") for name, text in settings.consul_environment]


def _parsed(found: Found) -> Any:
    if found.text is None:
        return None
    setting = BY_NAME[found.name]
    try:
        return setting.parse(found.text)
    except ValueError as exc:
        # A secret's text stays out of the message, which ends up in a log.
        given = "" if setting.secret else f" is {found.text!r}"
        raise ConfigRefused(f"{setting.name} ({found.origin}){given}: it {exc}") from None


def _tokens(name: str, values: Mapping[str, Any], found: Mapping[str, Found]) -> tuple[str, ...]:
    path = values[FILE_TWINS[name]]
    if path is None:
        return (values[name],) if values[name] is not None else ()
    try:
        return read_token_file(path)
    except ConfigRefused as exc:
        twin = found[FILE_TWINS[name]]
        raise ConfigRefused(f"{twin.name} ({twin.origin}): {exc}") from exc


def _named_tokens(
    values: Mapping[str, Any], found: Mapping[str, Found], tokens: tuple[str, ...]
) -> "tuple[tuple[NamedToken, ...], tuple[OAuthRules, ...]]":
    if values["tokens_file"] is None:
        return (), ()
    from agent.config.oauth_rules import read_whole_file  # noqa: PLC0415 - most nodes have none

    try:
        return read_whole_file(values["tokens_file"], tokens)
    except ConfigRefused as exc:
        raise ConfigRefused(f"tokens_file ({found['tokens_file'].origin}): {exc}") from exc


def _refuse_workers(values: Mapping[str, Any], found: Mapping[str, Found]) -> None:
    """A connection with TLS cannot go from one process to another."""
    if values["workers"] > 1 and (values["listen_cert"] is not None or values["consul_connect"]):
        tls = "MESH_LISTEN_CERT" if values["listen_cert"] is not None else "MESH_CONSUL_CONNECT"
        raise ConfigRefused(
            f"workers ({found['workers'].origin}) is {values['workers']}, and {tls} is set: with TLS at its port a node"
            " is one process. Let a proxy in front of it end TLS, or leave MESH_WORKERS unset"
        )


def _refuse_open_node(values: Mapping[str, Any], found: Mapping[str, Found], tokens: tuple[str, ...]) -> None:
    if is_loopback(values["host"]) or tokens or values["tokens_file"] or values["allow_anonymous"]:
        return
    raise ConfigRefused(
        f"host ({found['host'].origin}) is {values['host']!r}, which other machines can reach, and no token is set:"
        " any client that reaches this node could run its tools. Set MESH_TOKEN or MESH_TOKEN_FILE, or HOST=127.0.0.1;"
        " in a compose file, add the same MESH_TOKEN=<32 random characters> to the environment of each node;"
        " on a network of your own, MESH_ALLOW_ANONYMOUS=1"
    )


def _refuse_short(host: str, where: object, tokens: tuple[str, ...]) -> None:
    """Raises `ConfigRefused` for a token that can be guessed, on a node that other machines can reach."""
    if not is_loopback(host) and any(len(token) < TOKEN_CHARS_MIN for token in tokens):
        raise ConfigRefused(
            f"{where}: the token has fewer than {TOKEN_CHARS_MIN} characters and can be guessed, and other machines can"
            f" reach {host}; use 32 random ones, or HOST=127.0.0.1"
        )


def _refuse_tls_files(values: Mapping[str, Any], found: Mapping[str, Found]) -> None:
    dialling = _tls_files(values["tls_ca"], values["tls_cert"], values["tls_key"])
    listening = _tls_files(values["listen_ca"], values["listen_cert"], values["listen_key"])
    if listening != TlsFiles() and listening.cert is None:
        at = next(found[name] for name in ("listen_key", "listen_ca") if values[name] is not None)
        raise ConfigRefused(f"{at.name} ({at.origin}): it needs a certificate to serve https with; set listen_cert too")
    for prefix, files in (("tls", dialling), ("listen", listening)):
        if files == TlsFiles():
            continue
        # Imported here as below: most nodes have none.
        from agent.config.tls_files import tls_fault  # noqa: PLC0415 - see above

        if (fault := tls_fault(files)) is not None:
            at = found[f"{prefix}_{fault.field}"]
            raise ConfigRefused(f"{at.name} ({at.origin}): {fault}")


def _tls_files(*paths: Path | None) -> TlsFiles:
    ca, cert, key = (None if path is None else str(path.absolute()) for path in paths)
    return TlsFiles(ca, cert, key)


def _warnings(values: Mapping[str, Any], tokens: tuple[str, ...]) -> list[str]:
    warnings = []
    if any(len(token) < TOKEN_CHARS_MIN for token in tokens):
        warnings.append(f"the token has fewer than {TOKEN_CHARS_MIN} characters and can be guessed; use 32 random ones")
    if values["allow_anonymous"] and not tokens and not values["tokens_file"] and not is_loopback(values["host"]):
        warnings.append(f"any client that can reach {values['host']} can run every tool of this node: no token is set")
    for twin in FILE_TWINS.values():
        path = values[twin]
        if path is not None and os.name == "posix" and path.stat().st_mode & 0o077:
            warnings.append(f"{path} holds a secret and can be read by others than its owner: chmod 600 {path}")
    holds_token = {"config_file": bool(tokens), "tokens_file": True}
    for name, counts in holds_token.items():
        path = values[name]
        if counts and path is not None and os.name == "posix" and path.stat().st_mode & 0o022:
            warnings.append(f"{path} can be written by others than its owner")
    return warnings


def _consul(environ: Mapping[str, str]) -> "ConsulSettings":
    # Imported here so that `version` and the clients, which import this module for its names, do not pay for it.
    from discovery.consul.environment import consul_settings  # noqa: PLC0415 - see above

    given = {name: text for name, text in environ.items() if name.startswith("CONSUL_") and text}
    try:
        return consul_settings(given)
    except SettingsRefused as exc:
        raise ConfigRefused(str(exc)) from exc


def _consul_environment(environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    secret = {"CONSUL_HTTP_TOKEN", "CONSUL_HTTP_AUTH"}
    return tuple(
        # An address may carry user and password before an `@`.
        (name, MASK if name in secret or "@" in environ[name] else environ[name])
        for name in sorted(environ)
        if name.startswith("CONSUL_") and environ[name]
    )


def _shown_part(part: Any) -> str:
    return f"{part.name}={masked_url(part.url)}" if isinstance(part, StaticPeer) else str(part)


def _shown(value: Any) -> Shown:
    match value:
        case None | ():
            return None
        case bool() | int() | float():
            return value
        case dict():
            return ",".join(f"{name}={'+'.join(sorted(nodes))}" for name, nodes in value.items()) or None
        case tuple():
            return ",".join(map(_shown_part, value))
        case _:
            return str(value)
