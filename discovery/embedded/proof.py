"""PURE: how a node and an embedded catalog show each other that they are of one mesh, before the node is admitted.

Used by both sides, `discovery.embedded.server` and `.http`. A challenge is a fresh number with its HMAC (RFC 2104)
under the mesh's key; the answer, made for such a challenge alone, is an HMAC of that number, of the address that was
dialled and of the catalog's own number of this run. The token that opens the catalog follows from the key and those, so
it is worth nothing at another address, or to what takes the port when this run has ended. The one rule: each HMAC has a
label of its own, and is compared in constant time.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from typing import Final

CHALLENGE_HEADER: Final = "X-Mesh-Challenge"
PROOF_HEADER: Final = "X-Mesh-Catalog-Proof"
_NUMBER_BYTES: Final = 16
_NUMBER: Final = rf"[0-9a-f]{{{_NUMBER_BYTES * 2}}}"
_MAC: Final = r"[0-9a-f]{64}"
# During a rotation a node has two secrets, and more only if it is rotated faster than nodes read it.
_KEYS_MAX: Final = 8
_CHALLENGE: Final = re.compile(rf"({_NUMBER})((?:\.{_MAC}){{1,{_KEYS_MAX}}})")
_PROOF: Final = re.compile(rf"({_NUMBER})\.({_MAC})")


def new_number() -> str:
    """A number that was never used: of a challenge, or of one run of a catalog."""
    return secrets.token_hex(_NUMBER_BYTES)


def challenge(keys: Sequence[bytes], number: str, authority: str) -> str:
    """The header that a node dials `authority` (host and port) with."""
    return ".".join([number, *(_mac(key, "ask", number, authority) for key in keys[:_KEYS_MAX])])


def proof(keys: Iterable[bytes], shown: str, authority: str, run: str) -> str:
    """The header that a catalog at `authority` answers a challenge with; empty where that is no member's."""
    read = _CHALLENGE.fullmatch(shown)
    if read is None:
        return ""
    number, macs = read[1], read[2].split(".")[1:]
    for key in keys:
        expected = _mac(key, "ask", number, authority)
        if any(hmac.compare_digest(expected, mac) for mac in macs):
            return f"{run}.{_mac(key, 'prove', number, authority, run)}"
    return ""


def proven_run(keys: Iterable[bytes], shown: str, number: str, authority: str) -> str:
    """The run of the catalog that has proven itself to this challenge's number; empty where it has not."""
    read = _PROOF.fullmatch(shown)
    if read is None:
        return ""
    run = read[1]
    is_proven = any(hmac.compare_digest(_mac(key, "prove", number, authority, run), read[2]) for key in keys)
    return run if is_proven else ""


def token(key: bytes, authority: str, run: str) -> str:
    """What a node shows to this run of the catalog at this address, as Consul's token."""
    return _mac(key, "token", authority, run)


def _mac(key: bytes, *words: str) -> str:
    """No word has the character between them."""
    return hmac.digest(key, "\n".join(("mesh-agent/embedded-catalog/2", *words)).encode(), hashlib.sha256).hex()
