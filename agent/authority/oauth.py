"""PURE: what an access token of an OAuth issuer allows: the rules of an operator over its claims.

Read from the tokens file by `agent.config.oauth_rules`, used by `agent.rest.oauth`, which has checked the token. The
one rule: the first rule that fits decides, and a token that none fits allows nothing.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from agent.authority.grant import Grant
from agent.harmless_text import one_line

# Claims that hold several words in one text (RFC 9068; RFC 8693, section 4.2).
_WORDS: Final = frozenset({"scope"})
_NAME_LEN_MAX: Final = 100
# Seconds since 1970, in the year 5138.
_MOMENT_MAX_S: Final = 100_000_000_000


@dataclass(frozen=True, slots=True)
class ClaimRule:
    """A token whose claim `claim` is `value`, or has it among its values, gets `grant`. An empty `claim` fits all."""

    claim: str
    value: str
    grant: Grant


@dataclass(frozen=True, slots=True)
class IntrospectionClient:
    """What this node is to the issuer when it asks about a token (RFC 7662). `secret_file`: read at each use."""

    client_id: str
    secret: str = field(default="", repr=False)
    secret_file: str = ""


@dataclass(frozen=True, slots=True)
class OAuthRules:
    """`issuer`: its identifier, a URL. `audience`: what tokens for this mesh are for, the URL that clients know it by.

    `name_claim`: who a token's holder is, for records and limits. `introspection`: for tokens that are no JWTs; None
    where those are refused.
    """

    issuer: str
    audience: str
    rules: tuple[ClaimRule, ...]
    name_claim: str = "sub"
    introspection: IntrospectionClient | None = None

    def grant_of(self, claims: Mapping[str, Any]) -> Grant | None:
        """What a token with these claims allows; None for nothing. It ends with the token."""
        name, until_s = claims.get(self.name_claim), claims.get("exp")
        if not isinstance(name, str) or not name or not isinstance(until_s, int | float):
            return None
        if not 0 < until_s < _MOMENT_MAX_S:  # Nor one that is no number, which no moment would ever reach.
            return None
        rule = next((rule for rule in self.rules if _fits(rule, claims)), None)
        if rule is None:
            return None
        # Holders of one name are one only where one issuer says so, and none may be taken for a token with a name.
        return replace(rule.grant, name=f"{_shown(name)} of {self.issuer}", until_s=float(until_s), made=self.issuer)


def _shown(name: str) -> str:
    """A name as one line of so many characters; what is changed or cut still tells names apart."""
    shown = one_line(name, _NAME_LEN_MAX)
    if shown == name:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{one_line(name, _NAME_LEN_MAX - len(digest))}~{digest}"


def _fits(rule: ClaimRule, claims: Mapping[str, Any]) -> bool:
    if not rule.claim:
        return True
    held = claims.get(rule.claim)
    if isinstance(held, str):
        return rule.value in held.split(" ") if rule.claim in _WORDS else rule.value == held
    return isinstance(held, list) and rule.value in held
