"""Session IDs that hold all that a node needs to adopt a session: version, declared capabilities, expiry.

Made and read by `agent.server.sessions.table`. A node that restarts, forgets an idle session or stands behind a
balancer beside others finds in the ID what `initialize` had agreed, so that clients which never initialize again (most
of 2025) go on. The ID is readable and cannot be forged: it carries a MAC under a key that all nodes of a mesh derive
from their secret. It is no authentication, which the token is. The one rule: nothing of an ID is read before its
MAC was verified.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

# A client object may live as long as its process, and never initializes again.
LIFETIME_S: Final = 30 * 86_400
# With the token of the request, well below the 8 KiB of header lines that proxies take. What is longer is not sealed.
ID_LEN_MAX: Final = 2_048
_PREFIX: Final = "mesh1-"
_MAC_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_RANDOM_BYTES: Final = 24
_HEAD: Final = struct.Struct(">QB")  # Expiry in seconds since 1970, and the length of the version.
_PURPOSE: Final = b"mesh-agent/session-id/1"


@dataclass(frozen=True, slots=True)
class Agreed:
    """What `initialize` agreed. `declared`: the client's capabilities as JSON."""

    version: str
    declared: bytes


def is_sealed(session_id: str) -> bool:
    """Whether an ID says what was agreed, so that another process can read it."""
    return session_id.startswith(_PREFIX)


class SessionSeal:
    """Makes and reads the IDs of one endpoint. `keys`: those that are valid now, the one to seal with first."""

    def __init__(self, endpoint: str, keys: Callable[[], Sequence[bytes]]) -> None:
        self._endpoint = endpoint.encode()
        self._keys = keys

    def __repr__(self) -> str:
        return f"<SessionSeal {self._endpoint.decode()}>"

    def seal(self, agreed: Agreed, now_s: float, binding: str = "") -> str:
        """A new ID, valid until `LIFETIME_S` after `now_s` (seconds since 1970), for callers of that binding.

        A client that declares more than an ID can carry gets a random one, which no other node can read.
        """
        version = agreed.version.encode()
        head = _HEAD.pack(int(now_s) + LIFETIME_S, len(version))
        raw = secrets.token_bytes(_NONCE_BYTES) + head + version + zlib.compress(agreed.declared, 9)
        sealed = _written(self._mac(self._keys()[0], raw, binding) + raw)
        return _PREFIX + sealed if len(sealed) <= ID_LEN_MAX - len(_PREFIX) else secrets.token_urlsafe(_RANDOM_BYTES)

    def open(self, session_id: str, now_s: float, binding: str = "") -> Agreed | None:
        """What was agreed; None for an ID that is forged, of another mesh, endpoint or caller, expired, or not sealed.

        `binding`: the present caller's (`agent.authority.grant`).
        """
        if not session_id.startswith(_PREFIX) or len(session_id) > ID_LEN_MAX:
            return None
        text = session_id.removeprefix(_PREFIX)
        try:
            sealed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        if _written(sealed) != text:
            return None  # Another spelling of an ID, by which one that was deleted would come back.
        mac, raw = sealed[:_MAC_BYTES], sealed[_MAC_BYTES:]
        if not any(hmac.compare_digest(mac, self._mac(key, raw, binding)) for key in self._keys()):
            return None
        until_s, version_len = _HEAD.unpack_from(raw, _NONCE_BYTES)
        if now_s >= until_s:
            return None
        rest = raw[_NONCE_BYTES + _HEAD.size :]
        return Agreed(rest[:version_len].decode(), zlib.decompress(rest[version_len:]))

    def _mac(self, key: bytes, raw: bytes, binding: str) -> bytes:
        if binding:  # A key of its own, so that no two pairs of binding and ID are the same bytes.
            key = hmac.digest(key, binding.encode(), hashlib.sha256)
        return hmac.digest(key, self._endpoint + b"\0" + raw, hashlib.sha256)[:_MAC_BYTES]


def _written(sealed: bytes) -> str:
    return base64.urlsafe_b64encode(sealed).decode().rstrip("=")


def seal_keys(secrets: Sequence[bytes], service: str) -> tuple[bytes, ...]:
    """The keys of a mesh, one for each valid secret, the current one first."""
    return _derived(tuple(secrets), service)


@lru_cache(maxsize=4)  # Needed for each session that is adopted, and a third of what that costs.
def _derived(secrets: tuple[bytes, ...], service: str) -> tuple[bytes, ...]:
    return tuple(hmac.digest(_PURPOSE + secret, service.encode(), hashlib.sha256) for secret in secrets)
