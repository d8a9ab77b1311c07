"""The bearer tokens of clients and operators that are valid now, and the caller that each one makes.

Built by the wiring, read by `agent.rest.security`, replaced when a file of tokens changes. Nodes have no tokens for
each other (`agent.identity`). A token is looked up by its SHA-256, so a thousand cost as much as one. That digest is
enough: a token of `mesh-agent token new` has 256 random bits, which no dictionary holds, so a slow digest would protect
nothing and cost every request; what a lookup takes depends on digests, for which no token can be chosen. The one rule:
a token is kept as a digest only, so that a memory dump does not give it away.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

from agent.authority.allowance import Allowance
from agent.authority.caller import UNRECORDED, Caller, Recorder
from agent.authority.grant import ANYONE, BY_SHORT_FORM, NODE_PREFIX, Grant, NamedToken

TOKENS_MAX: Final = 8  # Of the short form: two overlap in a rotation, more are a mistake.
_NODES_REMEMBERED_MAX: Final = 1_024


class TokenTable:
    """Valid tokens. Its one writer is the caller of `replace`; readers take the whole dictionary at once."""

    def __init__(
        self,
        tokens: Sequence[str] = (),
        named: Sequence[NamedToken] = (),
        *,
        closed: bool = False,
        recorder: Recorder = UNRECORDED,
    ) -> None:
        """`tokens`: for everything (`MESH_TOKEN`). `named`: of the tokens file. `closed`: no client comes without one.

        `recorder`: keeps the record of what their holders do.
        """
        self._closed = closed
        self._recorder = recorder
        self._by_short_form = Caller(BY_SHORT_FORM, recorder)
        self.anyone: Final = Caller(ANYONE, recorder)
        self._callers: dict[bytes, Caller] = {}
        self._callers = self._new_callers(tokens, named)
        self._nodes: dict[str, Caller] = {}

    def __repr__(self) -> str:
        return f"<TokenTable {len(self._callers)}>"

    @property
    def anonymous(self) -> bool:
        """Whether clients need no token."""
        return not self._callers and not self._closed

    @property
    def generation(self) -> object:
        """Another object since tokens changed."""
        return self._callers

    def replace(self, tokens: Sequence[str], named: Sequence[NamedToken] = ()) -> None:
        """Make these valid, at once. Raises ValueError where this would open a node that was closed."""
        if not tokens and not self._closed and not self.anonymous:
            raise ValueError("a rotation must leave at least one client token")
        self._callers = self._new_callers(tokens, named)

    def find(self, presented: str) -> Caller | None:
        """Whose token this is; None for one that is not valid (any more). It may have expired."""
        return self._callers.get(_digest(presented))

    def accepts(self, presented: str) -> bool:
        """Whether the presented token is valid (still)."""
        return self.find(presented) is not None

    def node(self, node_id: str) -> Caller:
        """Another node of the mesh, which has proven who it is."""
        known = self._nodes.get(node_id)
        if known is None:
            if len(self._nodes) >= _NODES_REMEMBERED_MAX:
                self._nodes.clear()
            known = self._nodes[node_id] = Caller(Grant(f"{NODE_PREFIX}{node_id}", named=False), self._recorder)
        return known

    def _new_callers(self, tokens: Sequence[str], named: Sequence[NamedToken]) -> dict[bytes, Caller]:
        if len(tokens) > TOKENS_MAX:
            raise ValueError(f"at most {TOKENS_MAX} tokens may be valid at once")
        if not all(tokens):
            raise ValueError("an empty token would let everyone in")
        callers = {digest: caller for caller, one in self._named(named) for digest in one.digests}
        return callers | {_digest(token): self._by_short_form for token in tokens}

    def _named(self, named: Sequence[NamedToken]) -> Iterable[tuple[Caller, NamedToken]]:
        """A caller for each; one whose limits are as before goes on with what is left of its allowance."""
        known = {caller.grant.realm: caller.allowance for caller in self._callers.values()}
        for one in named:
            limits = one.grant.calls_per_s, one.grant.concurrent_calls
            allowance = known.get(one.grant.realm)
            if allowance is None or (allowance.calls_per_s, allowance.concurrent_calls) != limits:
                allowance = None if limits == (None, None) else Allowance(*limits)
            yield Caller(one.grant, self._recorder, allowance), one


def _digest(token: str) -> bytes:
    # Header bytes that are no UTF-8 arrive as surrogates; they must be refused, not raise.
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
