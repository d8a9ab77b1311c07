"""The key pair of a node (Ed25519, RFC 8032), and the node ID that follows from it.

Made at the first start by `agent.state.identity`, which keeps it, and used by `agent.identity.handshake`. The one rule:
a node ID is a digest of a public key, so only the holder of the key can prove it, and no list of known keys is needed.
"""

import hashlib
import secrets
from typing import TYPE_CHECKING, Final
from uuid import UUID

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SEED_BYTES: Final = 32
_PURPOSE: Final = b"mesh-agent/node-id/1"
_UUID_OF_OUR_OWN_MAKING: Final = 8  # RFC 9562, section 5.8.


class NodeKey:
    """A node's private key, by its seed. The library is imported when it is first needed: many nodes have no peers."""

    __slots__ = ("_private", "_public", "seed")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a key has {SEED_BYTES} bytes")
        self.seed = seed
        self._private: Ed25519PrivateKey | None = None
        self._public = b""

    def __repr__(self) -> str:
        return "<NodeKey>"

    @classmethod
    def new(cls) -> "NodeKey":
        """A new key, by chance."""
        return cls(secrets.token_bytes(SEED_BYTES))

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        if not self._public:
            self._public = self._key().public_key().public_bytes_raw()
        return self._public

    @property
    def node_id(self) -> str:
        """The ID of the node that has this key."""
        return node_id_of(self.public)

    def sign(self, message: bytes) -> bytes:
        """The signature, 64 bytes."""
        return self._key().sign(message)

    def _key(self) -> "Ed25519PrivateKey":
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - see the class

        if self._private is None:
            self._private = Ed25519PrivateKey.from_private_bytes(self.seed)
        return self._private


def node_id_of(public: bytes) -> str:
    """The node ID that belongs to a public key: a UUID of 122 bits of its SHA-256."""
    digest = bytearray(hashlib.sha256(_PURPOSE + public).digest()[:16])
    digest[6] = (digest[6] & 0x0F) | (_UUID_OF_OUR_OWN_MAKING << 4)
    digest[8] = (digest[8] & 0x3F) | 0x80
    return str(UUID(bytes=bytes(digest)))
