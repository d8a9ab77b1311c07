"""The member `oauth` of an entry of a servers file: how this node gets tokens for a server that wants OAuth.

Called by `server_entry`. Names as Claude Code, Gemini CLI and OpenCode write them (`clientId`) are understood, and what
only they know is left alone. The one rule: a secret is for one issuer, which is named beside it, so that no server can
lead it to another one.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from agent.config.endpoint import url_fault
from agent.config.relaxed_json import JsonPath
from agent.config.variables import Expand
from agent.model import Json, OAuthClient, OAuthGrant
from discovery.ordinary_file import open_to_read

SECRET_BYTES_MAX: Final = 16 * 1024
_FIELDS: Final = ("grant", "client_id", "client_secret", "client_secret_file", "scopes", "issuer", "redirect_uri")
_OTHER_NAMES: Final = {
    "clientId": "client_id",
    "clientSecret": "client_secret",
    "scope": "scopes",
    "redirectUri": "redirect_uri",
}
# RFC 6749, section 3.3.
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


@dataclass(slots=True)
class ReadClient:
    """What was read; with `faults` it is not to be used. Each is a path below `oauth` and a sentence."""

    client: OAuthClient = field(default_factory=OAuthClient)
    faults: list[tuple[JsonPath, str]] = field(default_factory=list)
    notes: list[tuple[JsonPath, str]] = field(default_factory=list)

    def fault(self, key: str, text: str) -> None:
        """Add one."""
        self.faults.append(((key,), text))

    def text(self, key: str, value: str, expand: Expand) -> str:
        """A text with its variables put in."""
        expanded = expand(value)
        for fault in expanded.faults:
            self.fault(key, fault)
        return expanded.text


def read_oauth_client(
    value: Json, expand: Expand, folder: Path, from_home: Callable[[str], str], *, looks: bool
) -> ReadClient:
    """Read it. `expand` puts variables into texts. `folder`: where a relative `client_secret_file` starts.

    `looks`: whether all variables are there and the server is switched on, so that what the texts say is judged and
    the file has to be there.
    """
    read = ReadClient()
    fields: dict[str, Any] = {}
    for key, part in value.items():
        name = _OTHER_NAMES.get(key, key)
        if name in _FIELDS:
            fields.setdefault(name, part)
        else:
            read.notes.append(((key,), f"is ignored; oauth has {', '.join(_FIELDS)}"))
    texts = _texts(read, fields, expand)
    scopes = _scopes(read, fields.get("scopes"), expand)
    path = texts.get("client_secret_file", "")
    if path and "${" not in path:
        path = str(folder / from_home(path))
    grant = _grant(read, fields.get("grant"), has_secret=bool(path or texts.get("client_secret")))
    read.client = OAuthClient(
        grant,
        texts.get("client_id", ""),
        texts.get("client_secret", ""),
        path,
        scopes,
        texts.get("issuer", ""),
        texts.get("redirect_uri", ""),
    )
    if not read.faults:
        _judge(read, looks=looks)
    return read


def as_oauth_entry(client: OAuthClient | None) -> Json | None:
    """Write it as a servers file has it."""
    if client is None:
        return None
    entry = {
        "grant": client.grant.value,
        "client_id": client.client_id,
        "client_secret": client.secret,
        "client_secret_file": client.secret_file,
        "scopes": list(client.scopes),
        "issuer": client.issuer,
        "redirect_uri": client.redirect_uri,
    }
    return {key: part for key, part in entry.items() if part}


def secret_of(client: OAuthClient) -> str:
    """The secret as it is now; empty for a client without one. Raises `OSError`, `ValueError`."""
    return client.secret if not client.secret_file else read_secret(client.secret_file)


def read_secret(path: str) -> str:
    """The first line of a file. Raises `OSError`, `ValueError`."""
    with open_to_read(path, SECRET_BYTES_MAX) as file:
        lines = file.read(SECRET_BYTES_MAX).decode().split("\n")
    secret = lines[0].strip()
    if not secret or not secret.isprintable():
        raise ValueError("it has no secret in its first line")
    return secret


def _texts(read: ReadClient, fields: Mapping[str, Any], expand: Expand) -> dict[str, str]:
    texts = {}
    for key in ("client_id", "client_secret", "client_secret_file", "issuer", "redirect_uri"):
        part = fields.get(key)
        if part in (None, ""):
            continue
        if not isinstance(part, str) or not part.isprintable():
            read.fault(key, "must be text")
        else:
            texts[key] = read.text(key, part, expand)
    return texts


def _scopes(read: ReadClient, value: Any, expand: Expand) -> tuple[str, ...]:
    """An array of texts, or one text with blanks between them, as OAuth itself writes it."""
    parts = value.split() if isinstance(value, str) else value or []
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        read.fault("scopes", "must be an array of texts")
        return ()
    scopes = tuple(read.text("scopes", part, expand) for part in parts)
    if not all(_SCOPE.fullmatch(scope) for scope in scopes if "${" not in scope):
        read.fault("scopes", "must be an array of texts without blanks and quotes")
    return scopes


def _grant(read: ReadClient, value: Any, *, has_secret: bool) -> OAuthGrant:
    if value in (None, ""):
        return OAuthGrant.CLIENT if has_secret else OAuthGrant.CODE
    if value not in list(OAuthGrant):
        read.fault("grant", f"must be one of {', '.join(OAuthGrant)}")
        return OAuthGrant.CODE
    return OAuthGrant(value)


def _judge(read: ReadClient, *, looks: bool) -> None:
    client = read.client
    has_secret = bool(client.secret or client.secret_file)
    if client.secret and client.secret_file:
        read.fault("client_secret", "and client_secret_file are two ways to say one thing; leave one out")
    if has_secret and not client.client_id:
        read.fault("client_id", "is missing; a secret belongs to one")
    if has_secret and not client.issuer:
        read.fault("issuer", "is missing: the URL of the issuer that the secret is for; it is sent to no other")
    if client.grant is OAuthGrant.CLIENT and not has_secret:
        read.fault("client_secret", f"or client_secret_file is missing; the grant {client.grant} needs it")
    if not looks:
        return
    if client.issuer and not _is_safe(client.issuer):
        read.fault("issuer", "must be a URL with https://; http:// is for this machine only")
    if client.redirect_uri and not _is_safe(client.redirect_uri):
        read.fault(
            "redirect_uri", "must be a URL with https://, or one of this machine like http://127.0.0.1:8521/back"
        )
    if client.secret_file:
        try:
            secret_of(client)
        except (OSError, ValueError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else str(exc)
            read.fault("client_secret_file", f"{client.secret_file} cannot be read: {reason}")


def _is_safe(url: str) -> bool:
    if url_fault(url):
        return False
    parts = urlsplit(url)
    return parts.scheme == "https" or parts.hostname in _LOOPBACK
