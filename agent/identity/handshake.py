"""The handshake by which two nodes prove to each other who they are, and that they belong to one mesh.

It is SIGMA (Krawczyk 2003, as in IKEv2 and TLS 1.3): an X25519 exchange, each side's Ed25519 signature of it, and a MAC
of each side's identity under a key that follows from the exchange. The mesh's secret goes into that key as a pre-shared
key goes into TLS 1.3's (HKDF, RFC 5869), so that only members get through; it is never sent. The side that dials says
which host and port it dialled, and both sign that: who passes the messages on to the genuine node has another address,
and is refused. Imported late by `agent.identity.keeper` and `agent.client.http.prover`. ADR 14 has the messages and
what they withstand. The one rule: nothing of the other side is believed before its signature and MAC are verified.
"""

import base64
import binascii
import hashlib
import hmac
import secrets as chance
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from agent.errors import IdentityRefused
from agent.identity.association import KEY_BYTES, Association, Proven
from agent.identity.node_key import NodeKey, node_id_of
from agent.model import Json

_LABEL: Final = b"mesh-agent/handshake/1"
_ID_BYTES: Final = 12
_FIELD_CHARS_MAX: Final = 400


class NotAMember(IdentityRefused):
    """The other side knows no secret of this mesh."""


@dataclass(frozen=True, slots=True)
class _Keys:
    initiator: bytes
    responder: bytes
    request: bytes
    answer: bytes


class Initiator:
    """The side that dials. `secret`: of the mesh, empty to prove the key alone; `authority`: the host and port."""

    def __init__(self, key: NodeKey, secret: bytes, authority: str) -> None:
        self._key = key
        self._secret = secret
        self._authority = authority
        self._private = X25519PrivateKey.generate()
        self._share = self._private.public_key().public_bytes_raw()

    def opening(self) -> Json:
        """The first message."""
        membership = _membership(self._secret, self._share, self._authority)
        return {"share": _text(self._share), "authority": self._authority, "membership": _text(membership)}

    def confirm(self, reply: Json) -> tuple[Json, Association]:
        """The last message, and what both have now. Raises `IdentityRefused`: the reply proves nothing."""
        share, association_id = _bytes(reply, "share"), _field(reply, "association")
        membership = _membership(self._secret, self._share, self._authority)
        transcript = _transcript(self._share, self._authority, membership, share, association_id)
        keys = _keys(self._private, share, self._secret, transcript)
        theirs = _verified(reply, keys.responder, b"responder", transcript)
        last = _identity(self._key, keys.initiator, b"initiator", transcript)
        peer = Proven(node_id_of(theirs), bool(self._secret))
        association = Association(association_id, peer, keys.request, keys.answer, self._secret)
        return {"association": association_id, **last}, association


@dataclass(frozen=True, slots=True)
class Pending:
    """A handshake that lacks its last message, at the side that was dialled. `secret`: empty for a stranger's."""

    association_id: str
    secret: bytes
    _transcript: bytes
    _keys: _Keys

    def complete(self, last: Json) -> Association:
        """What both have now. Raises `IdentityRefused`."""
        theirs = _verified(last, self._keys.initiator, b"initiator", self._transcript)
        peer = Proven(node_id_of(theirs), bool(self.secret))
        return Association(self.association_id, peer, self._keys.request, self._keys.answer, self.secret)


def reply_to(opening: Json, key: NodeKey, secrets: Sequence[bytes]) -> tuple[Json, Pending]:
    """The second message. `secrets`: those of the mesh that are valid now.

    A member's proof is verified before anything costly is done. Without one, the key alone is proven.

    Raises:
        NotAMember: it proves a secret that is not among them.
        IdentityRefused: it is no opening.
    """
    share, authority, membership = _bytes(opening, "share"), _field(opening, "authority"), _bytes(opening, "membership")
    secret = b""
    if membership:
        known = (s for s in secrets if hmac.compare_digest(_membership(s, share, authority), membership))
        secret = next(known, b"")
        if not secret:
            raise NotAMember("it has another secret than this mesh: give all nodes one MESH_PEER_TOKEN or MESH_TOKEN")
    private = X25519PrivateKey.generate()
    ours, association_id = private.public_key().public_bytes_raw(), chance.token_hex(_ID_BYTES)
    transcript = _transcript(share, authority, membership, ours, association_id)
    keys = _keys(private, share, secret, transcript)
    proof = _identity(key, keys.responder, b"responder", transcript)
    reply = {"share": _text(ours), "association": association_id, **proof}
    return reply, Pending(association_id, secret, transcript, keys)


def _membership(secret: bytes, share: bytes, authority: str) -> bytes:
    """What only a member can say of a share; empty where no secret is to be proven."""
    if not secret:
        return b""
    return hmac.digest(secret, _joined(_LABEL, b"member", share, authority.encode()), hashlib.sha256)


def _transcript(share: bytes, authority: str, membership: bytes, reply_share: bytes, association_id: str) -> bytes:
    parts = _joined(_LABEL, share, authority.encode(), membership, reply_share, association_id.encode())
    return hashlib.sha256(parts).digest()


def _keys(private: X25519PrivateKey, share: bytes, secret: bytes, transcript: bytes) -> _Keys:
    try:
        agreed = private.exchange(X25519PublicKey.from_public_bytes(share))
    except ValueError as exc:
        raise IdentityRefused("its share of the key is none") from exc
    derived = HKDF(SHA256(), 4 * KEY_BYTES, secret, _joined(_LABEL, b"keys", transcript)).derive(agreed)
    return _Keys(*(derived[start : start + KEY_BYTES] for start in range(0, len(derived), KEY_BYTES)))


def _identity(key: NodeKey, mac_key: bytes, role: bytes, transcript: bytes) -> Json:
    """A side's public key, with what proves it."""
    signature = key.sign(_joined(_LABEL, role, transcript))
    mac = hmac.digest(mac_key, _joined(key.public, signature), hashlib.sha256)
    return {"key": _text(key.public), "signature": _text(signature), "mac": _text(mac)}


def _verified(message: Json, mac_key: bytes, role: bytes, transcript: bytes) -> bytes:
    """The public key in a message that proves it. Raises `IdentityRefused`."""
    public, signature = _bytes(message, "key"), _bytes(message, "signature")
    mac = hmac.digest(mac_key, _joined(public, signature), hashlib.sha256)
    if not hmac.compare_digest(mac, _bytes(message, "mac")):
        raise NotAMember("it does not know the secret of this mesh")
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _joined(_LABEL, role, transcript))
    except (InvalidSignature, ValueError) as exc:
        raise IdentityRefused("it does not have the key that it names") from exc
    return public


def _joined(*parts: bytes) -> bytes:
    """Each with its length, so that no two lists of parts give the same bytes."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode()


def _field(message: Json, name: str) -> str:
    value = message.get(name) if isinstance(message, dict) else None
    if not isinstance(value, str) or len(value) > _FIELD_CHARS_MAX:
        raise IdentityRefused(f"its message has no usable {name!r}")
    return value


def _bytes(message: Json, name: str) -> bytes:
    try:
        return base64.b64decode(_field(message, name), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as exc:
        raise IdentityRefused(f"its message has no usable {name!r}") from exc
