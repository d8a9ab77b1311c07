"""Where Consul is and how to talk to it, read from Consul's own environment variables.

Called by the configuration of `agent` with the mapping that holds the variables; the result goes to
`discovery.consul.session.open_session`. Parsed here and not by python-consul2, which misreads `[::1]:8500`,
`https://host` and `unix://`, and lets the environment beat explicit arguments. The one rule: a value that cannot work
is refused here, with the variable's name and the fix in the message.
"""

import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from discovery.model import SettingsRefused
from discovery.ordinary_file import open_to_read
from discovery.patient_look import PatientLook

log = logging.getLogger(__name__)

DEFAULT_URL = "http://127.0.0.1:8500"  # Consul's own default.
DEFAULT_PORT = 8500
_PORTS = {"http": 80, "https": 443}  # A URL without a port means these, as in Consul's own client.
_TRUE = frozenset({"1", "t", "true"})
_FALSE = frozenset({"0", "f", "false"})

# A restored state is seen at the end of a wait, which Consul does not cut short for it; an abandoned wait holds a slot
# of the agent until its end; and some proxies cut answers at 30 s.
WAIT_S = 25.0
POLL_S = 1.0  # How often a back-off after a refusal checks for a rotated token; half of the promised 2 s.

# Cheap to read: the file's identity, its time and its size. A rewrite in place or by rename changes at least one.
_Stamp = tuple[int, int, int]
_TOKEN_BYTES_MAX = 64 * 1024  # A token takes 36, one of an issuer a few thousand.


@dataclass(frozen=True)
class ConsulSettings:
    """How to reach one Consul agent.

    `url` is `http://host:port[/prefix]`, `https://host:port[/prefix]` or `unix:///path/to/socket`. `token_file` beats
    `token` and is read again whenever it changes; `token_now` beats both. `explicit`: the address was set, so falling
    back to another one would be a surprise. `admission`: waited for before each request; its answer is why that may not
    be made, empty where it may. `wait_s`: how long a query waits for news.
    """

    url: str = DEFAULT_URL
    token: str | None = field(default=None, repr=False)
    ca_cert: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    verify: bool = True
    tls_server_name: str | None = None
    namespace: str | None = None
    partition: str | None = None
    explicit: bool = False
    token_file: str | None = None
    token_now: Callable[[], str | None] | None = field(default=None, repr=False, compare=False)
    admission: Callable[[], Awaitable[str]] | None = field(default=None, repr=False, compare=False)
    wait_s: float = WAIT_S

    @property
    def is_embedded(self) -> bool:
        """Whether an embedded catalog is there in place of Consul: it has no ACL, and its list is the catalog."""
        return False

    @property
    def socket_path(self) -> str | None:
        """The path of the unix socket, None for TCP."""
        return self.url.removeprefix("unix://") if self.url.startswith("unix://") else None


def consul_settings(environ: Mapping[str, str]) -> ConsulSettings:
    """Read CONSUL_HTTP_ADDR and its sisters; an empty value counts as unset.

    Raises:
        SettingsRefused: a value cannot work; the message names the variable and the fix.
    """
    given = {name: text.strip() for name, text in environ.items() if name.startswith("CONSUL_") and text.strip()}
    if "CONSUL_HTTP_AUTH" in given:
        raise SettingsRefused("CONSUL_HTTP_AUTH is not supported: unset it and use CONSUL_HTTP_TOKEN")
    address = given.get("CONSUL_HTTP_ADDR")
    secure = _flag(given, "CONSUL_HTTP_SSL", default=False)
    cert, key = given.get("CONSUL_CLIENT_CERT"), given.get("CONSUL_CLIENT_KEY")
    if (cert is None) != (key is None):
        raise SettingsRefused("CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY go together: set both or none")
    token = given.get("CONSUL_HTTP_TOKEN")
    if token is not None and not is_header_safe(token):
        raise SettingsRefused("CONSUL_HTTP_TOKEN has white space or control characters in it: set the bare token")
    token_file = given.get("CONSUL_HTTP_TOKEN_FILE")
    if token_file is not None and Path(token_file).is_dir():
        raise SettingsRefused(f"CONSUL_HTTP_TOKEN_FILE: {token_file} is a folder: name the file with the token")
    return ConsulSettings(
        url=_url(address, secure=secure),
        token=token,
        ca_cert=given.get("CONSUL_CACERT"),
        client_cert=cert,
        client_key=key,
        verify=_flag(given, "CONSUL_HTTP_SSL_VERIFY", default=True),
        tls_server_name=given.get("CONSUL_TLS_SERVER_NAME"),
        namespace=given.get("CONSUL_NAMESPACE"),
        partition=given.get("CONSUL_PARTITION"),
        explicit=address is not None,
        token_file=token_file,
    )


def is_header_safe(token: str) -> bool:
    """Whether a token can travel in a header as it is."""
    return bool(token) and token.isascii() and token.isprintable() and " " not in token


def is_loopback_url(url: str) -> bool:
    """Whether the agent behind `url` is on this machine: a unix socket, localhost, 127.0.0.0/8 or ::1."""
    return url.startswith("unix://") or is_loopback_host(urlsplit(url).hostname or "")


def is_loopback_host(host: str) -> bool:
    """Whether `host` (a name or an IP literal, without brackets) means this machine alone."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _url(address: str | None, *, secure: bool) -> str:
    if address is None:
        return DEFAULT_URL.replace("http:", "https:") if secure else DEFAULT_URL
    if address.startswith("unix://"):
        path = address.removeprefix("unix://")
        if not path.startswith("/"):
            raise _bad_address(address, "a unix socket needs an absolute path")
        return address
    scheme, separator, rest = address.partition("://")
    if not separator:
        return _from_parts(f"//{address}", "http", secure=secure, default_port=DEFAULT_PORT)
    scheme = {"tcp": "http"}.get(scheme.lower(), scheme.lower())
    if scheme not in _PORTS:
        raise _bad_address(address, f"the scheme {scheme!r} is unknown")
    return _from_parts(f"//{rest}", scheme, secure=secure, default_port=_PORTS[scheme])


def _from_parts(text: str, scheme: str, *, secure: bool, default_port: int) -> str:
    shown = text.removeprefix("//").rpartition("@")[2]  # Never repeat a credential in an error.
    try:
        parts: SplitResult = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise _bad_address(shown, str(exc)) from exc
    if "@" in parts.netloc:
        raise _bad_address(shown, "credentials do not belong in an address; use CONSUL_HTTP_TOKEN")
    if parts.query or parts.fragment:
        raise _bad_address(shown, "a query or fragment does not belong in an address")
    if not host or any(char.isspace() for char in host):
        raise _bad_address(shown, "the host is missing")
    if port == 0:
        raise _bad_address(shown, "port 0 cannot be called")
    if ":" in host and not parts.netloc.startswith("["):
        raise _bad_address(shown, "an IPv6 address needs brackets")
    netloc = f"[{host}]" if ":" in host else host
    if secure:
        scheme = "https"
    return f"{scheme}://{netloc}:{port or default_port}{parts.path.rstrip('/')}"


def _bad_address(address: str, reason: str) -> SettingsRefused:
    return SettingsRefused(
        f"CONSUL_HTTP_ADDR={address!r}: {reason}; write host:port, http(s)://host:port or unix:///path"
    )


def _flag(given: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = given.get(name)
    if text is None:
        return default
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise SettingsRefused(f"{name}={text!r}: write true or false")


class TokenSource:
    """Holds the current token; reads the file again when its stamp changes."""

    def __init__(self, settings: ConsulSettings) -> None:
        self._path = Path(settings.token_file) if settings.token_file else None
        self._token = settings.token
        self._token_now, self._admission = settings.token_now, settings.admission
        self._stamp: _Stamp | None = None
        self._fault = ""
        self._look = PatientLook(self._read)
        if self._path is not None:
            self._read()  # A start has nothing else to go on.

    def current(self) -> str | None:
        """The token to send now, or None for anonymous requests."""
        if self._token_now is not None:
            return self._token_now()
        if self._path is not None and not self._look.take():
            self._note("its file system does not answer")
        return self._token

    def _read(self) -> None:
        """In a thread, but for the first time."""
        assert self._path is not None
        try:
            status = os.stat(self._path)  # noqa: PTH116 - one system call on every request, kept as plain as it is
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp != self._stamp:
                with open_to_read(self._path, _TOKEN_BYTES_MAX) as file:
                    token = file.read(_TOKEN_BYTES_MAX).decode("utf-8").strip()
                if is_header_safe(token):
                    self._token, self._stamp = token, stamp
            self._note("")
        except FileNotFoundError:
            self._note("")  # It may be on its way to being replaced.
        except (OSError, UnicodeDecodeError) as exc:
            self._note("it is not UTF-8" if isinstance(exc, UnicodeDecodeError) else exc.strerror or str(exc))

    def _note(self, fault: str) -> None:
        if fault and fault != self._fault:
            extra = {"path": str(self._path), "reason": fault, "token_of_before": self._token is not None}
            log.warning("CONSUL_HTTP_TOKEN_FILE cannot be read", extra=extra)
        self._fault = fault

    @property
    def awaited_file(self) -> Path | None:
        """The file that has no token yet: its writer may start after us. None when nothing is waited for."""
        return self._path if self._path is not None and self.current() is None else None

    async def refusal(self, *, awaits_file: bool) -> str:
        """Why no request may be made yet; empty where it may. `awaits_file`: it needs the token of the file."""
        if self._admission is not None and (why := await self._admission()):
            return why
        if awaits_file and (path := self.awaited_file) is not None:
            # Without it Consul would answer as to a stranger: with a refusal, or with an empty list.
            why = f"{path} cannot be read: {self._fault}" if self._fault else f"there is no token in {path} yet"
            return f"CONSUL_HTTP_TOKEN_FILE: {why}; it is waited for"
        return ""

    @property
    def rotates(self) -> bool:
        """Whether the token can change while we run."""
        return self._path is not None or self._token_now is not None
