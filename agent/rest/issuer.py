"""Access tokens of an OAuth issuer, and what clients read to get one (MCP 2026-07-28, authorization; RFC 9728).

Asked by `agent.rest.security` for bearer tokens that are none of ours. Signatures and claims are checked by joserfc;
the issuer's keys are read from where its metadata says, kept, and read again for a key that is not known. About tokens
that are no JWTs the issuer is asked (`agent.rest.introspection`). The one rule: a token is believed by its signature or
the issuer's word, issuer, audience and time alone; an issuer that is out of reach lets none in.
"""

import asyncio
import hashlib
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from agent import clock
from agent.authority.allowance import Allowance
from agent.authority.caller import UNRECORDED, Caller, Witness
from agent.authority.oauth import OAuthRules
from agent.harmless_text import one_line
from agent.rest.introspection import LEEWAY_S, Introspection, TokenRefused, asking_issuer, fetched, issuer_metadata

if TYPE_CHECKING:
    from joserfc.jwk import KeySet

log = logging.getLogger(__name__)

METADATA_PATH: Final = "/.well-known/oauth-protected-resource"
# A key that is not known may be new; a stranger with made-up ones must not have the issuer asked for each.
KEYS_AGAIN_S: Final = 10.0
# Keys that were withdrawn are forgotten after so long.
KEYS_KEPT_S: Final = 600.0
# Tokens that were checked; of more, the oldest are checked again.
CHECKED_MAX: Final = 4_096
TOKEN_LEN_MAX: Final = 16_384
_PARTS: Final = 3
# Asymmetric ones alone: a program that checks tokens must not be able to make one.
ALGORITHMS: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "Ed25519",
)
# RFC 6750, section 2.1.
_OPAQUE: Final = re.compile(r"[A-Za-z0-9._~+/-]{16,}=*")


class OAuthVerifier:
    """See the module. `rules` may be replaced; None: no issuer is trusted."""

    def __init__(self, rules: OAuthRules | None, witness: Witness = UNRECORDED) -> None:
        self._rules, self._witness = rules, witness
        self._keys: KeySet | None = None
        self._asked_s = self._read_s = -KEYS_KEPT_S
        self._reading = asyncio.Lock()
        self._checked: OrderedDict[bytes, Caller] = OrderedDict()
        self._allowances: dict[str, Allowance] = {}
        self._opaque = Introspection()

    def __repr__(self) -> str:
        return f"<OAuthVerifier {'off' if self._rules is None else self._rules.issuer} {len(self._checked)} checked>"

    @property
    def rules(self) -> OAuthRules | None:
        """What is trusted."""
        return self._rules

    def replace(self, rules: OAuthRules | None) -> None:
        """Trust this from now on; what was checked by other rules is checked again."""
        if rules != self._rules:
            self._rules, self._keys = rules, None
            self._asked_s = self._read_s = -KEYS_KEPT_S
            self._checked.clear()
            self._allowances.clear()
            self._opaque = Introspection()

    def is_for_us(self, token: str) -> bool:
        """Whether a bearer token may be one of the issuer."""
        rules = self._rules
        if rules is None or len(token) > TOKEN_LEN_MAX:
            return False
        return _is_jwt(token) or (rules.introspection is not None and _OPAQUE.fullmatch(token) is not None)

    async def caller_of(self, token: str) -> Caller:
        """Whose token it is. Raises `TokenRefused`."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        known = self._checked.get(digest)
        if known is not None and not known.grant.has_ended(time.time() - LEEWAY_S):
            return known
        assert self._rules is not None, "it was asked first whether a token may be one of the issuer"
        rules = self._rules
        claims = await (self._claims(token, rules) if _is_jwt(token) else self._opaque.claims(digest, token, rules))
        grant = rules.grant_of(claims)
        if grant is None:
            raise TokenRefused("no rule of this node fits the claims of this token")
        limits = grant.calls_per_s, grant.concurrent_calls
        allowance = None if limits == (None, None) else self._allowances.setdefault(grant.realm, Allowance(*limits))
        caller = self._checked[digest] = Caller(grant, self._witness, allowance)
        if len(self._checked) > CHECKED_MAX:
            self._opaque.forget(self._checked.popitem(last=False)[0])
        return caller

    async def _claims(self, token: str, rules: OAuthRules) -> Mapping[str, Any]:
        from joserfc import jwt  # noqa: PLC0415 - most nodes trust no issuer
        from joserfc.errors import ExpiredTokenError, JoseError  # noqa: PLC0415 - as above

        try:
            key_id = _key_id(token)
            keys = await self._keys_with(key_id, rules)
            decoded = jwt.decode(token, keys, algorithms=ALGORITHMS)
            registry = jwt.JWTClaimsRegistry(
                leeway=LEEWAY_S,
                iss={"essential": True, "value": rules.issuer},
                aud={"essential": True, "value": rules.audience},
                exp={"essential": True},
                sub={"essential": True},
            )
            registry.validate(decoded.claims)
        except ExpiredTokenError as exc:
            raise TokenRefused("the access token has expired") from exc
        except (JoseError, ValueError, TypeError) as exc:
            reason = one_line(str(exc), 200) or type(exc).__name__
            raise TokenRefused(f"the access token is not valid: {reason}") from exc
        return decoded.claims

    async def _keys_with(self, key_id: str, rules: OAuthRules) -> "KeySet":
        """The issuer's keys, read again where they are old or have none of this ID. Raises `TokenRefused`."""
        async with self._reading:
            now_s = clock.now_s()
            fits = self._keys is not None and (not key_id or any(key.kid == key_id for key in self._keys.keys))
            is_due = not fits or self._read_s + KEYS_KEPT_S <= now_s
            if is_due and self._asked_s + KEYS_AGAIN_S <= now_s:
                self._asked_s = now_s
                try:
                    self._keys, self._read_s = await _issuer_keys(rules.issuer), now_s
                except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError) as exc:
                    reason = one_line(str(exc), 200) or type(exc).__name__
                    log.warning("OAuth issuer could not be asked", extra={"issuer": rules.issuer, "reason": reason})
            if self._keys is None:
                raise TokenRefused("the issuer of access tokens cannot be reached, so none can be checked; try again")
            return self._keys

    async def look_again(self) -> None:
        """Ask about tokens that are no JWTs and are open for a while: what was revoked, is not believed any more."""
        if self._rules is not None:
            for digest in await self._opaque.look_again(self._rules):
                self._checked.pop(digest, None)

    def bindings(self) -> frozenset[str]:
        """What binds what the holders of tokens have open, without those that have ended."""
        now_s = time.time() - LEEWAY_S
        for digest in [digest for digest, one in self._checked.items() if one.grant.has_ended(now_s)]:
            del self._checked[digest]
            self._opaque.forget(digest)
        return frozenset(one.grant.binding for one in self._checked.values())

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
        assert self._rules is not None, "there is an issuer"
        parts = urlsplit(self._rules.audience)
        return f"{parts.scheme}://{parts.netloc}{METADATA_PATH}{parts.path.rstrip('/')}"

    def metadata(self) -> dict[str, Any] | None:
        """What clients read to know where to get a token (RFC 9728, section 2); None where there is no issuer."""
        if self._rules is None:
            return None
        metadata: dict[str, Any] = {
            "resource": self._rules.audience,
            "authorization_servers": [self._rules.issuer],
            "bearer_methods_supported": ["header"],
            "resource_name": "MCP Mesh Agent",
        }
        # The issuer's scopes, not ours: clients ask it for all that stand here, and issuers refuse those of others.
        if scopes := list(dict.fromkeys(rule.value for rule in self._rules.rules if rule.claim == "scope")):
            metadata["scopes_supported"] = scopes
        return metadata


async def _issuer_keys(issuer: str) -> "KeySet":
    """Raises what fetching and reading them raises."""
    from joserfc.jwk import KeySet  # noqa: PLC0415 - as above

    async with asking_issuer() as http:
        metadata = await issuer_metadata(http, issuer)
        keys = await fetched(http, str(metadata["jwks_uri"]))
        if keys is None:
            raise ValueError("its keys cannot be read")
        return KeySet.import_key_set(keys)  # type: ignore[arg-type]  # it checks the shape itself


def _is_jwt(token: str) -> bool:
    return token.count(".") == _PARTS - 1


def _key_id(token: str) -> str:
    from joserfc.jws import extract_compact  # noqa: PLC0415 - as above

    key_id = extract_compact(token.encode()).headers().get("kid", "")
    return key_id if isinstance(key_id, str) else ""
