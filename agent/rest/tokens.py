"""The bearer tokens of clients and operators that are valid now.

Built by the wiring, read by `agent.rest.security`, replaced when a token file changes. Nodes have no tokens for each
other (`agent.identity`). The one rule: a token is kept as a digest only, and compared in constant time with all of
them, so that neither memory dumps nor timing give it away.
"""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

TOKENS_MAX: Final = 8  # Two overlap in a rotation; more only makes every request slower.


class TokenTable:
    """Valid tokens. Its one writer is the caller of `replace`; readers take the whole tuple at once."""

    def __init__(self, tokens: Sequence[str] = ()) -> None:
        self._digests = _digests(tokens)

    def __repr__(self) -> str:
        return f"<TokenTable {len(self._digests)}>"

    @property
    def anonymous(self) -> bool:
        """Whether clients need no token."""
        return not self._digests

    def replace(self, tokens: Sequence[str]) -> None:
        """Make these valid, at once. Raises ValueError where this would open a node that was closed."""
        digests = _digests(tokens)
        if not tokens and not self.anonymous:
            raise ValueError("a rotation must leave at least one client token")
        self._digests = digests

    def accepts(self, presented: str) -> bool:
        """Whether the presented token is valid (still)."""
        digest, found = _digest(presented), False
        for known in self._digests:
            found |= hmac.compare_digest(known, digest)
        return found


def _digests(tokens: Sequence[str]) -> tuple[bytes, ...]:
    if len(tokens) > TOKENS_MAX:
        raise ValueError(f"at most {TOKENS_MAX} tokens may be valid at once")
    if not all(tokens):
        raise ValueError("an empty token would let everyone in")
    return tuple(_digest(token) for token in tokens)


def _digest(token: str) -> bytes:
    # Header bytes that are no UTF-8 arrive as surrogates; they must be refused, not raise.
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
