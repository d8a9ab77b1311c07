"""Access tokens of one OAuth issuer: which holders they are of, and what the issuer's keys say of them.

Held by `agent.rest.oauth`, one for each issuer. Signatures and claims are checked by joserfc; the issuer's keys are
read from where its metadata says, kept, and read again for a key that is not known. About tokens that are no JWTs the
issuer is asked (`agent.rest.introspection`). The one rule: a token is believed by its signature or the issuer's word,
issuer, audience and time alone; an issuer that is out of reach lets none in.
"""

import asyncio
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from agent import clock
from agent.authority.allowance import Allowance
from agent.authority.caller import UNRECORDED, Caller, Recorder
from agent.authority.oauth import OAuthRules
from agent.harmless_text import one_line
from agent.rest.introspection import LEEWAY_S, Introspection, TokenRefused, asking_issuer, fetched, issuer_metadata

if TYPE_CHECKING:
    from joserfc.jwk import KeySet

log = logging.getLogger(__name__)

# A key that is not known may be new; a stranger with made-up ones must not have the issuer asked for each.
KEYS_AGAIN_S: Final = 10.0
# Keys that were withdrawn are forgotten after so long.
KEYS_KEPT_S: Final = 600.0
# Tokens that were checked; of more, the oldest are checked again.
CHECKED_MAX: Final = 4_096
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


class Issuer:
    """See the module. `rules`: which issuer it is, and what its tokens allow."""

    def __init__(self, rules: OAuthRules, recorder: Recorder = UNRECORDED) -> None:
        self.rules: Final = rules
        self._recorder = recorder
        self._keys: KeySet | None = None
        self._asked_s = self._read_s = -KEYS_KEPT_S
        self._reading = asyncio.Lock()
        self._checked: OrderedDict[bytes, Caller] = OrderedDict()
        self._allowances: dict[str, Allowance] = {}
        self._opaque = Introspection(rules)

    def __repr__(self) -> str:
        return f"<Issuer {self.rules.issuer} {len(self._checked)} checked>"

    def known(self, digest: bytes) -> Caller | None:
        """Whose token with this SHA-256 it is, where it was checked before and has not ended."""
        known = self._checked.get(digest)
        return None if known is None or known.grant.has_ended(time.time() - LEEWAY_S) else known

    async def holder_of_jwt(self, digest: bytes, token: str) -> Caller:
        """Whose token it is. Raises `TokenRefused`."""
        return self._let_in(digest, await self._claims(token))

    async def holder_of_opaque(self, digest: bytes, token: str) -> Caller:
        """The same of a token that is no JWT, about which the issuer is asked. Raises `TokenRefused`."""
        return self._let_in(digest, await self._opaque.claims(digest, token, self.rules))

    def _let_in(self, digest: bytes, claims: Mapping[str, Any]) -> Caller:
        grant = self.rules.grant_of(claims)
        if grant is None:
            raise TokenRefused("no rule of this node fits the claims of this token")
        limits = grant.calls_per_s, grant.concurrent_calls
        allowance = None if limits == (None, None) else self._allowances.setdefault(grant.realm, Allowance(*limits))
        caller = self._checked[digest] = Caller(grant, self._recorder, allowance)
        if len(self._checked) > CHECKED_MAX:
            self._opaque.forget(self._checked.popitem(last=False)[0])
        return caller

    async def _claims(self, token: str) -> Mapping[str, Any]:
        from joserfc import jwt  # noqa: PLC0415 - most nodes trust no issuer
        from joserfc.errors import ExpiredTokenError, JoseError  # noqa: PLC0415 - as above

        try:
            key_id = _key_id(token)
            keys = await self._keys_with(key_id)
            decoded = jwt.decode(token, keys, algorithms=ALGORITHMS)
            registry = jwt.JWTClaimsRegistry(
                leeway=LEEWAY_S,
                iss={"essential": True, "value": self.rules.issuer},
                aud={"essential": True, "value": self.rules.audience},
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

    async def _keys_with(self, key_id: str) -> "KeySet":
        """The issuer's keys, read again where they are old or have none of this ID. Raises `TokenRefused`."""
        async with self._reading:
            now_s = clock.now_s()
            fits = self._keys is not None and (not key_id or any(key.kid == key_id for key in self._keys.keys))
            is_due = not fits or self._read_s + KEYS_KEPT_S <= now_s
            if is_due and self._asked_s + KEYS_AGAIN_S <= now_s:
                self._asked_s = now_s
                try:
                    self._keys, self._read_s = await _issuer_keys(self.rules.issuer), now_s
                except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError) as exc:
                    reason = one_line(str(exc), 200) or type(exc).__name__
                    log.warning(
                        "OAuth issuer could not be asked", extra={"issuer": self.rules.issuer, "reason": reason}
                    )
            if self._keys is None:
                raise TokenRefused("the issuer of access tokens cannot be reached, so none can be checked; try again")
            return self._keys

    async def look_again(self) -> None:
        """Ask about tokens that are no JWTs and are open for a while: what was revoked, is not believed any more."""
        for digest in await self._opaque.look_again(self.rules):
            self._checked.pop(digest, None)

    def bindings(self) -> frozenset[str]:
        """What binds what the holders of tokens have open, without those that have ended."""
        now_s = time.time() - LEEWAY_S
        for digest in [digest for digest, one in self._checked.items() if one.grant.has_ended(now_s)]:
            del self._checked[digest]
            self._opaque.forget(digest)
        return frozenset(one.grant.binding for one in self._checked.values())


async def _issuer_keys(issuer: str) -> "KeySet":
    """Raises what fetching and reading them raises."""
    from joserfc.jwk import KeySet  # noqa: PLC0415 - as above

    async with asking_issuer() as http:
        metadata = await issuer_metadata(http, issuer)
        keys = await fetched(http, str(metadata["jwks_uri"]))
        if keys is None:
            raise ValueError("its keys cannot be read")
        return KeySet.import_key_set(keys)  # type: ignore[arg-type]  # it checks the shape itself


def claimed_issuer(token: str) -> str:
    """The issuer that a JWT says it is of, unproven yet. Raises `TokenRefused`."""
    from joserfc.errors import JoseError  # noqa: PLC0415 - most nodes trust no issuer
    from joserfc.jws import extract_compact  # noqa: PLC0415 - as above

    try:
        claims = json.loads(extract_compact(token.encode()).payload)
        return str(claims["iss"])
    except (JoseError, ValueError, TypeError, KeyError, RecursionError) as exc:
        raise TokenRefused(f"the access token is not valid: {one_line(str(exc), 200) or type(exc).__name__}") from exc


def _key_id(token: str) -> str:
    from joserfc.jws import extract_compact  # noqa: PLC0415 - as above

    key_id = extract_compact(token.encode()).headers().get("kid", "")
    return key_id if isinstance(key_id, str) else ""
