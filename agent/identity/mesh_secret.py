"""PURE: the secrets that the nodes of a mesh have in common, made of what the settings give.

Called by the wiring at the start and at each rotation. The one rule: every node makes the same secret of the same
words, and slowly, so that guessing a word by a proof takes long.
"""

import hashlib
import hmac
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

# Part of the wire contract. Never change it.
_SALT: Final = b"mesh-agent/mesh-secret/1"
_CATALOG: Final = b"mesh-agent/embedded-catalog/1"
# 16 MiB and some 50 ms for each guess, and once for each word at a start (RFC 7914).
_COST: Final = 2**14
_BLOCK: Final = 8
SECRET_BYTES: Final = 32


def mesh_secrets(peer_tokens: Sequence[str], tokens: Sequence[str]) -> tuple[bytes, ...]:
    """One for each word, the current one first: of the words between nodes, or else of the clients' tokens."""
    return tuple(_secret(word) for word in peer_tokens or tokens)


def catalog_keys(secrets: Sequence[bytes]) -> tuple[bytes, ...]:
    """By which the nodes of a mesh and their embedded catalog know each other (`discovery.embedded.proof`)."""
    return tuple(hmac.digest(secret, _CATALOG, hashlib.sha256) for secret in secrets)


@lru_cache(maxsize=4)
def _secret(word: str) -> bytes:
    return hashlib.scrypt(word.encode(), salt=_SALT, n=_COST, r=_BLOCK, p=1, dklen=SECRET_BYTES)
