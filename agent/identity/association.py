"""What two nodes share after a handshake, and the proofs by which each knows the other in every message.

`Association` is one side's half, made by `agent.identity.handshake`. Each request carries a number that is used once,
and its MAC under a key that only the two have; each answer carries the MAC of the same number under another one
(keyed BLAKE2b, RFC 7693). So an answer is believed only from the process that proved who it is, whatever has taken its
address since. The one rule: a number that was seen is never taken again.
"""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

# In requests: ID, number and MAC, parted by dots; in answers the MAC alone. `Authorization` is for tokens.
PROOF_HEADER: Final = "Mesh-Proof"
FORGOTTEN: Final = "unknown"  # In place of an answer's proof, with 401: the association is not known any more.
KEY_BYTES: Final = 32
_MAC_BYTES: Final = 16
# How far requests on several connections may overtake each other; IPsec's windows are as large (RFC 4303, 3.4.3).
WINDOW: Final = 1_024
_NUMBER_DIGITS_MAX: Final = len(str(2**53))
_MASK: Final = (1 << WINDOW) - 1


@dataclass(frozen=True, slots=True)
class Proven:
    """The other side, as it has proven itself. `member`: it knows a secret of our mesh."""

    node_id: str
    member: bool


class Association:
    """See the module. `id` names it in both processes. Written by the event loop alone."""

    __slots__ = ("_answer_key", "_request_key", "_seen", "_sent", "_top", "id", "peer", "secret")

    def __init__(
        self, association_id: str, peer: Proven, request_key: bytes, answer_key: bytes, secret: bytes = b""
    ) -> None:
        """`secret`: the mesh's that both know, empty for none."""
        self.id = association_id
        self.peer = peer
        self.secret = secret
        self._request_key = request_key
        self._answer_key = answer_key
        self._sent = 0
        self._top = 0
        self._seen = 0  # A bit for each of the last numbers; the lowest one is that of `_top`.

    def __repr__(self) -> str:
        return f"<Association with {self.peer.node_id} sent={self._sent} received={self._top}>"

    # Of the node that dialled

    def next_number(self) -> int:
        """The number of the next request."""
        self._sent += 1
        return self._sent

    def request_proof(self, number: int) -> str:
        """What the request of that number carries."""
        return f"{self.id}.{number}.{_mac(self._request_key, number)}"

    def is_answer(self, number: int, shown: str) -> bool:
        """Whether an answer with this proof is of the other side, and to the request of that number."""
        return _is(_mac(self._answer_key, number), shown)

    # Of the node that was dialled

    def takes(self, number_text: str, shown: str) -> tuple[int, bool] | None:
        """The number of a request that is the other side's, and whether it is new; None for any other's."""
        if not (number_text.isascii() and number_text.isdecimal() and len(number_text) <= _NUMBER_DIGITS_MAX):
            return None
        number = int(number_text)
        return (number, self._is_new(number)) if _is(_mac(self._request_key, number), shown) else None

    def answer_proof(self, number: int) -> str:
        """What the answer to the request of that number carries."""
        return _mac(self._answer_key, number)

    def _is_new(self, number: int) -> bool:
        ahead = number - self._top
        if ahead > 0:
            self._seen = (self._seen << min(ahead, WINDOW) | 1) & _MASK
            self._top = number
            return True
        bit = 1 << -ahead
        if -ahead >= WINDOW or self._seen & bit:
            return False
        self._seen |= bit
        return True


def _is(mac: str, shown: str) -> bool:
    """Whether that MAC is shown, in a time that does not tell how much of it is."""
    return shown.isascii() and hmac.compare_digest(mac, shown)


def _mac(key: bytes, number: int) -> str:
    return hashlib.blake2b(b"%d" % number, key=key, digest_size=_MAC_BYTES).hexdigest()
