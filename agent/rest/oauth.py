"""Access tokens of OAuth issuers, and what clients read to get one (MCP 2026-07-28, authorization; RFC 9728).

Asked by `agent.rest.security` for bearer tokens that are none of ours. Which issuer a token is of, its own claim says,
and that issuer's keys alone then prove it (`agent.rest.issuer`). The one rule: no issuer speaks for another one, nor
sees a token of another.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import web

from agent.authority.caller import UNRECORDED, Caller, Recorder
from agent.authority.oauth import OAuthRules
from agent.rest.introspection import TokenRefused
from agent.rest.issuer import Issuer, claimed_issuer

METADATA_PATH: Final = "/.well-known/oauth-protected-resource"
TOKEN_LEN_MAX: Final = 16_384
_PARTS: Final = 3
# RFC 6750, section 2.1.
_OPAQUE: Final = re.compile(r"[A-Za-z0-9._~+/-]{16,}=*")


class OAuthVerifier:
    """See the module. `rules` may be replaced, one for each issuer; none: no issuer is trusted."""

    def __init__(self, rules: Sequence[OAuthRules] = (), recorder: Recorder = UNRECORDED) -> None:
        self._recorder = recorder
        self._issuers: tuple[Issuer, ...] = ()
        self.replace(rules)

    def __repr__(self) -> str:
        return f"<OAuthVerifier {list(self._issuers)}>"

    @property
    def is_on(self) -> bool:
        """Whether any issuer is trusted."""
        return bool(self._issuers)

    def replace(self, rules: Sequence[OAuthRules]) -> None:
        """Trust these from now on; what was checked by other rules is checked again."""
        known = {issuer.rules.issuer: issuer for issuer in self._issuers}
        self._issuers = tuple(
            before
            if (before := known.get(one.issuer)) is not None and before.rules == one
            else Issuer(one, self._recorder)
            for one in rules
        )

    def is_for_us(self, token: str) -> bool:
        """Whether a bearer token may be one of an issuer."""
        if not self._issuers or len(token) > TOKEN_LEN_MAX:
            return False
        return _is_jwt(token) or (self._asked() is not None and _OPAQUE.fullmatch(token) is not None)

    async def caller_of(self, token: str) -> Caller:
        """Whose token it is. Raises `TokenRefused`."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        for issuer in self._issuers:
            if (known := issuer.known(digest)) is not None:
                return known
        if not _is_jwt(token):
            asked = self._asked()
            assert asked is not None, "it was asked first whether a token may be one of an issuer"
            return await asked.holder_of_opaque(digest, token)
        claimed = claimed_issuer(token)
        named = next((issuer for issuer in self._issuers if issuer.rules.issuer == claimed), None)
        if named is None:
            raise TokenRefused("the access token is of no issuer that this node trusts (iss)")
        return await named.holder_of_jwt(digest, token)

    def _asked(self) -> Issuer | None:
        """Who is asked about tokens that are no JWTs: one at most, for those do not say whose they are."""
        return next((issuer for issuer in self._issuers if issuer.rules.introspection is not None), None)

    async def look_again(self) -> None:
        """Ask about tokens that are no JWTs and are open for a while: what was revoked, is not believed any more."""
        for issuer in self._issuers:
            await issuer.look_again()

    def bindings(self) -> frozenset[str]:
        """What binds what the holders of tokens have open, without those that have ended."""
        return frozenset[str]().union(*(issuer.bindings() for issuer in self._issuers))

    # For clients

    def routes(self) -> list[web.RouteDef]:
        """The metadata, at the root and with the path of the endpoint, for clients look at either."""
        return [web.get(METADATA_PATH, self._metadata), web.get(METADATA_PATH + "/{path:.*}", self._metadata)]

    async def _metadata(self, _request: web.Request) -> web.Response:
        metadata = self.metadata()
        if metadata is None:
            raise web.HTTPNotFound
        return web.json_response(metadata, headers={"Cache-Control": "max-age=300"})

    def metadata_url(self) -> str:
        """Where the metadata of the protected resource is, as clients reach it (RFC 9728, section 3.1)."""
        parts = urlsplit(self._issuers[0].rules.audience)
        return f"{parts.scheme}://{parts.netloc}{METADATA_PATH}{parts.path.rstrip('/')}"

    def metadata(self) -> dict[str, Any] | None:
        """What clients read to know where to get a token (RFC 9728, section 2); None where there is no issuer."""
        if not self._issuers:
            return None
        trusted = [issuer.rules for issuer in self._issuers]
        metadata: dict[str, Any] = {
            "resource": trusted[0].audience,
            "authorization_servers": [rules.issuer for rules in trusted],
            "bearer_methods_supported": ["header"],
            "resource_name": "MCP Mesh Agent",
        }
        # The issuers' scopes, not ours: clients ask for all that stand here, and issuers refuse those of others.
        listed = (rule.value for rules in trusted for rule in rules.rules if rule.claim == "scope")
        if scopes := list(dict.fromkeys(listed)):
            metadata["scopes_supported"] = scopes
        return metadata


def _is_jwt(token: str) -> bool:
    return token.count(".") == _PARTS - 1
