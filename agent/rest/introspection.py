"""What an OAuth issuer says: its metadata, and whether an access token that is no JWT is good (RFC 7662).

Used by `agent.rest.oauth`. A token that was let in is asked about again every `INTROSPECTED_S`, so that one that was
revoked ends. The one rule: an issuer that does not answer lets nothing in that it has not let in a short while ago.
"""

import json
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urlsplit

import aiohttp

from agent import clock
from agent.authority.oauth import OAuthRules
from agent.client.dial_guard import GuardedResolver
from agent.config.client_secret import ClientSecret

# What clocks may differ by.
LEEWAY_S: Final = 60
# Of the issuer's metadata and keys together, or of one question.
FETCH_TIMEOUT_S: Final = 5.0
FETCH_BYTES_MAX: Final = 1 << 20
# So long a revoked token goes on; each that is in use costs the issuer one question in this time.
INTROSPECTED_S: Final = 10.0
# So long an issuer that is out of reach leaves in who was in.
UNASKED_MAX_S: Final = 600.0
# Of tokens that were refused, so that the same one is not asked about at once again.
REFUSED_MAX: Final = 1_024
# Questions at once; a stranger with made-up tokens must not flood the issuer.
ASKED_AT_ONCE_MAX: Final = 8
_METADATA: Final = ("oauth-authorization-server", "openid-configuration")


class TokenRefused(Exception):
    """A token that is not believed; the message says why, for its holder."""


class Introspection:
    """Tokens of one issuer that are no JWTs, by their digests. Written by the event loop alone."""

    def __init__(self, rules: OAuthRules) -> None:
        us = rules.introspection
        self._secret = None if us is None else ClientSecret(us.secret, us.secret_file)
        self._asked: dict[bytes, tuple[str, float]] = {}  # The token, and when the issuer let it in.
        self._refused: OrderedDict[bytes, float] = OrderedDict()
        self._under_way = 0
        self._endpoint = ""

    def __repr__(self) -> str:
        return f"<Introspection {len(self._asked)} tokens>"

    def forget(self, digest: bytes) -> None:
        """It is not in use any more."""
        self._asked.pop(digest, None)

    async def claims(self, digest: bytes, token: str, rules: OAuthRules) -> Mapping[str, Any]:
        """What the issuer says of a token. Raises `TokenRefused`."""
        if self._refused.get(digest, 0.0) > clock.now_s():
            raise TokenRefused("the issuer does not know this token, or not any more")
        if self._under_way >= ASKED_AT_ONCE_MAX:
            raise TokenRefused("too many tokens are being asked about; try again")
        self._under_way += 1
        try:
            said = await self._said(token, rules)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError) as exc:
            raise TokenRefused("the issuer of access tokens cannot be asked about this one; try again") from exc
        finally:
            self._under_way -= 1
        try:
            claims = _checked(said, rules)
        except TokenRefused:
            self.forget(digest)
            self._refused[digest] = clock.now_s() + INTROSPECTED_S
            if len(self._refused) > REFUSED_MAX:
                self._refused.popitem(last=False)
            raise
        self._asked[digest] = token, clock.now_s()
        return claims

    async def look_again(self, rules: OAuthRules) -> list[bytes]:
        """Ask about those whose time is over; which ones are not believed any more."""
        now_s, gone = clock.now_s(), []
        due = [(digest, *known) for digest, known in self._asked.items() if known[1] + INTROSPECTED_S <= now_s]
        is_away = False
        for digest, token, since_s in due:
            if not is_away:
                with suppress(TokenRefused):
                    await self.claims(digest, token, rules)
                is_away = self._asked.get(digest) == (token, since_s)
            if digest not in self._asked or (is_away and since_s + UNASKED_MAX_S <= now_s):
                self.forget(digest)
                gone.append(digest)
        return gone

    async def _said(self, token: str, rules: OAuthRules) -> Mapping[str, Any]:
        assert rules.introspection is not None, "it was asked first whether such tokens are taken"
        assert self._secret is not None, "the rules of an issuer stay the same"
        secret = await self._secret.current()
        auth = aiohttp.BasicAuth(quote(rules.introspection.client_id, safe=""), quote(secret, safe=""))
        async with asking_issuer() as http:
            if not self._endpoint:
                self._endpoint = str((await issuer_metadata(http, rules.issuer))["introspection_endpoint"])
            form = {"token": token, "token_type_hint": "access_token"}
            async with http.post(self._endpoint, data=form, auth=auth, allow_redirects=False) as response:
                if response.status != HTTPStatus.OK:
                    self._endpoint = ""
                    raise ValueError(f"it answered HTTP {response.status}")
                said = json.loads(await response.content.read(FETCH_BYTES_MAX))
        return said if isinstance(said, dict) else {}


def _checked(said: Mapping[str, Any], rules: OAuthRules) -> Mapping[str, Any]:
    """The claims of a token that is good, and for us. Raises `TokenRefused`."""
    if said.get("active") is not True:
        raise TokenRefused("the issuer does not know this token, or not any more")
    audience = said.get("aud")
    if rules.audience not in (audience if isinstance(audience, list) else [audience]):
        raise TokenRefused("the access token is not for this resource (aud)")
    if said.get("iss", rules.issuer) != rules.issuer:
        raise TokenRefused("the access token is of another issuer")
    ends_s = said.get("exp")
    if not isinstance(ends_s, int | float):
        raise TokenRefused("the issuer does not say when the access token ends (exp)")
    if ends_s <= time.time() - LEEWAY_S:
        raise TokenRefused("the access token has expired")
    return said if "sub" in said else {**said, "sub": said.get("client_id")}


@asynccontextmanager
async def asking_issuer() -> AsyncGenerator[aiohttp.ClientSession, None]:
    """A session for a few requests to an issuer."""
    connector = aiohttp.TCPConnector(resolver=GuardedResolver())
    timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=True) as http:
        yield http


async def issuer_metadata(http: aiohttp.ClientSession, issuer: str) -> dict[str, Any]:
    """Raises `ValueError` where there are none that name the issuer, and what fetching raises."""
    parts = urlsplit(issuer)
    base, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    # RFC 8414, section 3.1, and OpenID Connect Discovery, section 4, which differ in where the path goes.
    for place in (f"{base}/.well-known/{_METADATA[0]}{path}", f"{base}{path}/.well-known/{_METADATA[1]}"):
        metadata = await fetched(http, place)
        if metadata is not None and metadata.get("issuer") == issuer:
            return metadata
    raise ValueError("it has no metadata that name it")


async def fetched(http: aiohttp.ClientSession, url: str) -> dict[str, Any] | None:
    """A JSON object; None where there is none."""
    async with http.get(url, allow_redirects=False, headers={"Accept": "application/json"}) as response:
        if response.status != HTTPStatus.OK:
            return None
        body = await response.content.read(FETCH_BYTES_MAX)
    value = json.loads(body)
    return value if isinstance(value, dict) else None
