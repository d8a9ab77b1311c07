"""What a server's refusal says of OAuth (RFC 6750, section 3; RFC 9728, section 5.1; MCP's scope challenge).

Read by `agent.client.oauth.authorizer`, which asks for a token by it. The one rule: it is a stranger's text, so a scope
that is none is left out, and so is what is beyond a bound.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

INSUFFICIENT_SCOPE: Final = "insufficient_scope"
HEADER_LEN_MAX: Final = 4_096
SCOPES_MAX: Final = 50
_SCOPE_LEN_MAX: Final = 256
_PARAMETER: Final = re.compile(r'([A-Za-z_]+)[ \t]*=[ \t]*(?:"([^"]*)"|([^\s,"]+))')
# RFC 6749, section 3.3.
_SCOPE: Final = re.compile(r"[!#-\[\]-~]+")


@dataclass(frozen=True, slots=True)
class Challenge:
    """`metadata`: where those of the protected resource are; texts are empty where it does not say."""

    error: str = ""
    scopes: tuple[str, ...] = ()
    metadata: str = ""


def read_challenge(header: str) -> Challenge:
    """What a `WWW-Authenticate` says; of a parameter that stands there twice, the first."""
    found: dict[str, str] = {}
    for name, quoted, plain in _PARAMETER.findall(header[:HEADER_LEN_MAX]):
        found.setdefault(name.lower(), quoted or plain)
    scopes = (one for one in found.get("scope", "").split() if len(one) <= _SCOPE_LEN_MAX and _SCOPE.fullmatch(one))
    return Challenge(
        found.get("error", ""), tuple(dict.fromkeys(scopes))[:SCOPES_MAX], found.get("resource_metadata", "")
    )


def written_challenge(metadata: str, scopes: Iterable[str]) -> str:
    """The header that asks for these scopes, each once and in their order."""
    parts = [f'resource_metadata="{metadata}"'] if metadata else []
    if words := " ".join(dict.fromkeys(scopes)):
        parts.append(f'scope="{words}"')
    return f"Bearer {', '.join(parts)}".rstrip()


class WantedScopes:
    """What one server's requests have lacked since this node runs, and how an operator gets it.

    `limited`: the entry says which scopes there may be. `missing`: those of the last request that only an operator can
    help.
    """

    __slots__ = ("_limited", "_metadata", "_server", "_wider", "missing")

    def __init__(self, server: str, *, limited: bool) -> None:
        self.missing: tuple[str, ...] = ()
        self._server, self._limited = server, limited
        self._wider: tuple[str, ...] = ()
        self._metadata = ""

    def __repr__(self) -> str:
        return f"<WantedScopes {' '.join(self._wider)!r}>"

    @property
    def way_to_more(self) -> str:
        """What an operator has to do."""
        if self._limited:
            return "oauth.scopes of its entry in the servers file is the limit"
        return f"mesh-agent servers login {self._server}"

    def lacked(self, said: Challenge) -> bool:
        """Note what a request has lacked; whether that is news."""
        is_new = not set(said.scopes) <= set(self._wider)
        self._wider = tuple(dict.fromkeys((*self._wider, *said.scopes)))[:SCOPES_MAX]
        self._metadata = said.metadata
        return is_new

    def asked_with(self, challenge: str, had: Iterable[str]) -> str:
        """The challenge to ask with: the server's own, with the scopes that a token has had or has lacked."""
        if not self._wider:
            return challenge
        first = read_challenge(challenge)
        return written_challenge(first.metadata or self._metadata, (*had, *first.scopes, *self._wider))

    def hint(self) -> str:
        """What an operator has to do so that all calls are taken; empty for nothing."""
        return f"calls want the scopes {' '.join(self.missing)}: {self.way_to_more}" if self.missing else ""
