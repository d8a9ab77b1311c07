"""PURE: what a token allows: its scopes, the part of the mesh that it shows, its end, and its rates.

Read from the tokens file by `agent.config.tokens_file`, found for each request by `agent.rest.tokens`. The one rule:
what a grant does not name is not allowed; only `MESH_TOKEN`, and a node without tokens, allow everything.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Final


class Scope(StrEnum):
    """What the routes of a node want (`agent.authority.routes`)."""

    MCP = "mcp"
    READ = "read"
    ADMIN = "admin"
    METRICS = "metrics"
    PEER = "peer"


# Of the tools, where a token may call none.
NO_TOOLS: Final = ("!*",)


@dataclass(frozen=True)
class Reach:
    """The part of the mesh that clients of a grant see, and all that they may call.

    `tools`: globs of public names, with `!` before those to leave out; none: all. `read_only`: of these, only those
    that say so of themselves (`readOnlyHint`). `reads_node`: the node's settings and health too. `reloads`: the tools
    that dial servers anew, too.
    """

    tools: tuple[str, ...] = ()
    read_only: bool = False
    reads_node: bool = True
    reloads: bool = True

    @property
    def limits_tools(self) -> bool:
        """Whether it shows less than all tools of servers."""
        return bool(self.tools) or self.read_only

    @cached_property
    def key(self) -> str:
        """Names it, the same on every node; empty for all there is."""
        if self == WHOLE:
            return ""
        words = "\n".join((*self.tools, "", str(self.read_only), str(self.reads_node), str(self.reloads)))
        return hashlib.sha256(words.encode()).hexdigest()[:16]

    def has_name(self, public_name: str) -> bool:
        """Whether a tool of that public name may be called, as far as names decide."""
        wanted = [pattern for pattern in self.tools if not pattern.startswith("!")]
        if wanted and not any(fnmatchcase(public_name, pattern) for pattern in wanted):
            return False
        return not any(fnmatchcase(public_name, pattern[1:]) for pattern in self.tools if pattern.startswith("!"))


WHOLE: Final = Reach()
# How the names of other nodes' grants begin; no token of the tokens file can have a blank in its name.
NODE_PREFIX: Final = "node "


@dataclass(frozen=True)
class Grant:
    """See the module. `name`: what operators call it, for errors and records; `made`: when, as they wrote it.

    `until_s`: seconds since 1970 when it ends, None for never. `calls_per_s`, `concurrent_calls`: None for no limit.
    """

    name: str
    scopes: frozenset[Scope] = frozenset(Scope)
    reach: Reach = WHOLE
    until_s: float | None = None
    calls_per_s: float | None = None
    concurrent_calls: int | None = None
    made: str = ""
    named: bool = True

    @cached_property
    def realm(self) -> str:
        """Binds what its holder begins (tasks, states, keys of affinity) to it; empty for what all share.

        A token that is made anew under the name of a revoked one does not come by what that had.
        """
        return f"{self.name}/{self.made}" if self.named else ""

    @cached_property
    def binding(self) -> str:
        """Binds sessions and streams, which show a part of the mesh: another part makes them other ones."""
        return f"{self.realm}/{self.reach.key}" if self.named else ""

    @property
    def is_of_node(self) -> bool:
        """Whether its holder may speak for clients of its own, as nodes do; so may all that share `MESH_TOKEN`."""
        return not self.named or Scope.PEER in self.scopes

    @property
    def is_another_node(self) -> bool:
        """Whether its holder is a node that has proven so (`agent.rest.tokens`)."""
        return not self.named and self.name.startswith(NODE_PREFIX)

    def has_any(self, scopes: Iterable[Scope]) -> bool:
        """Whether it has one of these scopes."""
        return not self.scopes.isdisjoint(scopes)

    def has_ended(self, now_s: float) -> bool:
        """Whether it has expired. `now_s`: seconds since 1970."""
        return self.until_s is not None and now_s >= self.until_s


@dataclass(frozen=True, slots=True)
class NamedToken:
    """A grant of the tokens file, and the SHA-256 of each token that it is for: two while one replaces the other."""

    grant: Grant
    digests: tuple[bytes, ...] = field(repr=False)


# Holders of `MESH_TOKEN`, clients of a node without tokens, and other nodes: one realm, as before there were names.
BY_SHORT_FORM: Final = Grant("MESH_TOKEN", named=False)
ANYONE: Final = Grant("anonymous", named=False)


def reach_of(scopes: Iterable[Scope], tools: tuple[str, ...] | None, *, read_only: bool) -> Reach:
    """The reach of a token with these scopes. `tools`: None where it names none, which is all of them."""
    held = frozenset(scopes)
    patterns = NO_TOOLS if tools == () else () if tools in (None, ("*",)) else tools
    return Reach(
        tools=patterns or (),
        read_only=read_only,
        reads_node=not held.isdisjoint({Scope.READ, Scope.ADMIN}),
        reloads=Scope.ADMIN in held,
    )
