"""The bearer tokens that are valid now, and what each one opens.

Built by the wiring, read by `agent.rest.security`, replaced when a token file changes. The one rule: a token is kept as
a digest only, and compared in constant time with all of them, so that neither memory dumps nor timing give it away.
"""

import hashlib
import hmac
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final

TOKENS_MAX = 8  # Two of each kind overlap in a rotation; more only makes every request slower.
# After a rotation peers still send the old token until they have read the new one. A client's old token ends at once:
# it opens everything, and the operator who replaces it wants it closed.
PEER_GRACE_S: Final = 30.0

Entries = tuple[tuple[bytes, "Access"], ...]


class Access(StrEnum):
    """What a token opens: everything (clients and operators), or what this node serves itself (peers)."""

    FULL = "full"
    PEER = "peer"


class TokenTable:
    """Valid tokens. Its one writer is the caller of `replace`; readers take the whole tuple at once.

    Peer tokens that were replaced stay valid for `PEER_GRACE_S` more, by `clock`.
    """

    def __init__(
        self,
        tokens: Sequence[str] = (),
        peer_tokens: Sequence[str] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._entries = _digests(tokens, peer_tokens)
        self._former: tuple[tuple[bytes, float], ...] = ()  # And until when.
        self._clock = clock

    def __repr__(self) -> str:
        kinds = [access.value for _, access in self._entries]
        return f"<TokenTable full={kinds.count('full')} peer={kinds.count('peer')}>"

    @property
    def anonymous(self) -> bool:
        """Whether clients need no token. Peer tokens alone do not close the node: no client could enter then."""
        return not any(access is Access.FULL for _, access in self._entries)

    def replace(self, tokens: Sequence[str], peer_tokens: Sequence[str]) -> None:
        """Make these valid, at once. Raises ValueError where this would open a node that was closed."""
        entries = _digests(tokens, peer_tokens)
        if not tokens and not self.anonymous:
            raise ValueError("a rotation must leave at least one client token")
        until_s = self._clock() + PEER_GRACE_S
        gone = [(digest, until_s) for digest, access in set(self._entries) - set(entries) if access is Access.PEER]
        # Each has a time of its own: the tokens of clients, in another file, may be replaced a moment later.
        self._former = (*self._former, *gone)[-TOKENS_MAX:]
        self._entries = entries

    def access(self, presented: str) -> Access | None:
        """What the presented token opens, or None when it is not valid (any more)."""
        digest = _digest(presented)
        found: Access | None = None
        if self._former:
            now_s = self._clock()
            self._former = tuple(former for former in self._former if now_s < former[1])
        for known, access in (*self._entries, *((known, Access.PEER) for known, _ in self._former)):
            if hmac.compare_digest(known, digest) and found is not Access.FULL:
                found = access
        return found


def _digests(tokens: Sequence[str], peer_tokens: Sequence[str]) -> Entries:
    given = [(token, Access.FULL) for token in tokens] + [(token, Access.PEER) for token in peer_tokens]
    if len(given) > TOKENS_MAX:
        raise ValueError(f"at most {TOKENS_MAX} tokens may be valid at once")
    if not all(token for token, _ in given):
        raise ValueError("an empty token would let everyone in")
    return tuple((_digest(token), access) for token, access in given)


def _digest(token: str) -> bytes:
    # Header bytes that are no UTF-8 arrive as surrogates; they must be refused, not raise.
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
