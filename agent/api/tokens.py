"""The bearer tokens that are valid now, and what each is good for.

Built by the wiring, asked by `agent.api.security`, replaced when a token file changes. The one rule: a token is kept as
a digest only, and compared in constant time with all of them, so that neither memory dumps nor timing give it away.
"""

import hashlib
import hmac
from collections.abc import Sequence
from enum import StrEnum

# Clients and operators: everything. Peers: what this node serves itself.
TOKENS_MAX = 8  # Two of each kind overlap in a rotation; more only makes every request slower.


class Access(StrEnum):
    """What a token opens."""

    FULL = "full"
    PEER = "peer"


class TokenTable:
    """Valid tokens. Its one writer is whoever calls `replace`; readers take the whole tuple at once."""

    def __init__(self, tokens: Sequence[str] = (), peer_tokens: Sequence[str] = ()) -> None:
        self._entries = _digests(tokens, peer_tokens)

    def __repr__(self) -> str:
        kinds = [access.value for _, access in self._entries]
        return f"<TokenTable full={kinds.count('full')} peer={kinds.count('peer')}>"

    @property
    def anonymous(self) -> bool:
        """Whether clients need no token. Peer tokens alone do not close the door: there would be no key to it."""
        return not any(access is Access.FULL for _, access in self._entries)

    def replace(self, tokens: Sequence[str], peer_tokens: Sequence[str]) -> None:
        """Make exactly these valid, at once. Raises ValueError where this would open a door that was closed."""
        entries = _digests(tokens, peer_tokens)
        if not tokens and not self.anonymous:
            raise ValueError("a rotation must leave at least one client token")
        self._entries = entries

    def access(self, presented: str) -> Access | None:
        """What the presented token opens, or None when it is not valid (any more)."""
        digest = _digest(presented)
        found: Access | None = None
        for known, access in self._entries:
            if hmac.compare_digest(known, digest) and found is not Access.FULL:
                found = access
        return found


def _digests(tokens: Sequence[str], peer_tokens: Sequence[str]) -> tuple[tuple[bytes, Access], ...]:
    given = [(token, Access.FULL) for token in tokens] + [(token, Access.PEER) for token in peer_tokens]
    if len(given) > TOKENS_MAX:
        raise ValueError(f"at most {TOKENS_MAX} tokens may be valid at once")
    if not all(token for token, _ in given):
        raise ValueError("an empty token would open the door to everybody")
    return tuple((_digest(token), access) for token, access in given)


def _digest(token: str) -> bytes:
    # Header bytes that are no UTF-8 arrive as surrogates; they must be refused, not raise.
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
