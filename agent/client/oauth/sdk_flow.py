"""The MCP SDK's OAuth client, driven without its HTTP: what it wants sent is sent by `issuer_http`, and no MCP by it.

Imported late, by `agent.client.oauth.authorizer` alone (ADR 13). The SDK's flow is a generator of requests: the one
that it is to authorise stands for our server's, and is answered here with the challenge that the server gave us. The
one rule: what the SDK decides (discovery, registration, PKCE, resource, refresh) is decided nowhere else.
"""

import json
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import parse_qs

import httpx2
from mcp.client.auth import OAuthClientProvider, OAuthFlowError, OAuthRegistrationError, OAuthTokenError
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.client.auth.utils import is_valid_client_metadata_url
from mcp.shared.auth import (
    AuthorizationCodeResult,
    OAuthClientInformationFull,
    OAuthClientMetadata,
    OAuthMetadata,
    OAuthToken,
    ProtectedResourceMetadata,
)
from pydantic import BaseModel

from agent.client.oauth.issuer_http import Answer, IssuerHttp
from agent.errors import AuthRefused
from agent.harmless_text import one_line
from agent.mcp_terms import LATEST_HANDSHAKE_VERSION
from agent.model import MASK, Json, OAuthClient
from agent.state.logins import Login

CLIENT_NAME: Final = "MCP Mesh Agent"
SAID_LEN_MAX: Final = 300
_RESOURCE_METADATA: Final = re.compile(r'resource_metadata=(?:"([^"]+)"|([^\s,]+))')
_SECRET_FIELDS: Final = ("client_secret", "refresh_token", "code", "code_verifier")
# Ways to give a secret (RFC 7591, section 2).
_BASIC, _POST = "client_secret_basic", "client_secret_post"
_WORST_SECRET: Final = 6
# It logs failures with tracebacks, and with what issuers answer; ours say the same without secrets.
logging.getLogger("mcp.client.auth").setLevel(logging.CRITICAL + 1)


class Refused(AuthRefused):
    """The issuer gives no token, or what it and the server say does not fit together."""


class _Memory:
    """The SDK's storage: what a flow begins with and ends with."""

    def __init__(self, tokens: OAuthToken | None, client: OAuthClientInformationFull | None) -> None:
        self.tokens, self.client, self.is_new = tokens, client, False

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens, self.is_new = tokens, True

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


class Flow:
    """One way to a token. `secret`: of `client`, as it is now. `where`: the server, for messages."""

    def __init__(self, url: str, where: str, client: OAuthClient, secret: str, http: IssuerHttp) -> None:
        self._url, self._where, self._client, self._secret, self._http = url, where, client, secret, http
        self._sent: set[str] = {secret}
        self._refusal = ""

    def __repr__(self) -> str:
        return f"<Flow {self._where} {self._client.grant}>"

    async def by_own_secret(self, challenge: str) -> Login:
        """A token for this node itself. Raises `Refused`, and what `IssuerHttp.send` raises."""
        memory = _Memory(None, None)
        provider = ClientCredentialsOAuthProvider(
            self._url,
            memory,
            self._client.client_id,
            self._secret,
            scope=" ".join(self._client.scopes) or None,
            issuer=self._client.issuer,
        )
        return await self._run(provider, memory, challenge)

    async def by_login(
        self,
        challenge: str,
        redirect_uri: str,
        show: Callable[[str], Awaitable[None]],
        came_back: Callable[[], Awaitable[Mapping[str, str]]],
    ) -> Login:
        """A token for a person: `show` gets the URL to open, `came_back` waits for the query that it comes back with.

        Raises as `by_own_secret`.
        """

        async def result() -> AuthorizationCodeResult:
            query = await came_back()
            return AuthorizationCodeResult(code=query.get("code", ""), state=query.get("state"), iss=query.get("iss"))

        memory = _Memory(None, self._registered(redirect_uri))
        provider = self._provider(memory, redirect_uri, show, result)
        return await self._run(provider, memory, challenge)

    async def refreshed(self, login: Login) -> Login | None:
        """The login with new tokens; None where the issuer gives none for its refresh token any more.

        Raises as `by_own_secret`.
        """
        client = OAuthClientInformationFull.model_validate(login.client)
        if self._secret and client.client_id == self._client.client_id:
            client.client_secret = self._secret
        memory = _Memory(OAuthToken.model_validate(login.tokens), client)
        provider = self._provider(memory, "http://127.0.0.1/unused", None, None)
        provider.context.token_expiry_time = 1.0  # Long ago, so that it begins with the refresh.
        if login.issuer:
            provider.context.oauth_metadata = OAuthMetadata.model_validate(login.issuer)
        if login.resource:
            provider.context.protected_resource_metadata = ProtectedResourceMetadata.model_validate(login.resource)
        await self._drive(provider, None)
        return self._login(provider, memory) if memory.is_new else None

    def _registered(self, redirect_uri: str) -> OAuthClientInformationFull | None:
        """What an operator registered us as; None where the flow registers us, or a document says who we are."""
        client = self._client
        if not client.client_id or (is_valid_client_metadata_url(client.client_id) and not self._secret):
            return None
        method = _BASIC if self._secret else "none"
        return OAuthClientInformationFull(
            client_id=client.client_id,
            client_secret=self._secret or None,
            token_endpoint_auth_method=method,
            redirect_uris=[redirect_uri],  # type: ignore[list-item]  # pydantic reads it
            issuer=client.issuer or None,
        )

    def _provider(
        self,
        memory: _Memory,
        redirect_uri: str,
        show: Callable[[str], Awaitable[None]] | None,
        result: Callable[[], Awaitable[AuthorizationCodeResult]] | None,
    ) -> OAuthClientProvider:
        client_id = self._client.client_id
        return OAuthClientProvider(
            self._url,
            OAuthClientMetadata(
                client_name=CLIENT_NAME,
                redirect_uris=[redirect_uri],  # type: ignore[list-item]  # as above
                scope=" ".join(self._client.scopes) or None,
            ),
            memory,
            show,
            result,
            client_metadata_url=client_id if is_valid_client_metadata_url(client_id) else None,
        )

    async def _run(self, provider: OAuthClientProvider, memory: _Memory, challenge: str) -> Login:
        await self._drive(provider, self._challenge(challenge))
        if not memory.is_new:
            raise self._refused("gave no token")
        return self._login(provider, memory)

    def _challenge(self, given: str) -> str:
        """What the server wants, with the scopes of the configuration in the place of its own."""
        found = _RESOURCE_METADATA.search(given)
        if not self._client.scopes or found is None:
            scopes = f'scope="{" ".join(self._client.scopes)}"' if self._client.scopes else ""
            return f"{given}, {scopes}" if given and scopes else given or f"Bearer {scopes}"
        return f'Bearer resource_metadata="{found[1] or found[2]}", scope="{" ".join(self._client.scopes)}"'

    async def _drive(self, provider: OAuthClientProvider, challenge: str | None) -> None:
        """Send what the flow wants sent, until the request that it is for is authorised or cannot be.

        `challenge`: None where the flow begins with a refresh.
        """
        request = httpx2.Request("POST", self._url, headers={"MCP-Protocol-Version": LATEST_HANDSHAKE_VERSION})
        flow = provider.async_auth_flow(request)
        try:
            await self._exchange(flow, request, challenge, provider)
        except (OAuthFlowError, OAuthRegistrationError, OAuthTokenError, ValueError) as exc:
            raise self._refused(one_line(str(exc), SAID_LEN_MAX)) from None  # Its cause may hold what was sent.
        finally:
            await flow.aclose()

    async def _exchange(
        self,
        flow: AsyncGenerator[httpx2.Request, httpx2.Response],
        request: httpx2.Request,
        challenge: str | None,
        provider: OAuthClientProvider,
    ) -> None:
        try:
            outgoing = await anext(flow)
            while outgoing is not request or challenge is not None:
                if outgoing is request:
                    headers, challenge = {"WWW-Authenticate": challenge or "Bearer"}, None
                    response = httpx2.Response(401, headers=headers, request=request)
                else:
                    response = await self._answered(outgoing)
                    _fit(provider, response)
                outgoing = await flow.asend(response)
        except StopAsyncIteration:
            return

    async def _answered(self, outgoing: httpx2.Request) -> httpx2.Response:
        body = outgoing.content
        form = parse_qs(body.decode(errors="replace")) if b"grant_type=" in body else {}
        self._sent |= {value for name in _SECRET_FIELDS for value in form.get(name, ())}
        answer = await self._http.send(outgoing.method, str(outgoing.url), dict(outgoing.headers), body)
        if form and answer.status >= 400:  # noqa: PLR2004 - client errors
            self._refusal = _said(answer)
        kept = {name: value for name, value in answer.headers.items() if name.lower() == "content-type"}
        return httpx2.Response(answer.status, headers=kept, content=answer.body, request=outgoing)

    def _refused(self, reason: str) -> Refused:
        text = self._refusal or reason
        for secret in filter(lambda one: len(one) >= _WORST_SECRET, self._sent):
            text = text.replace(secret, MASK)
        return Refused.about(self._where, "needs a token, which its issuer does not give", f": {text}")

    def _login(self, provider: OAuthClientProvider, memory: _Memory) -> Login:
        context = provider.context
        assert memory.tokens is not None, "a flow that ended well has tokens"
        client = _plain(memory.client or context.client_info)
        if self._secret and client.get("client_id") == self._client.client_id:
            client.pop("client_secret", None)  # It stays where the operator keeps it.
        return Login(
            self._url,
            _plain(memory.tokens),
            context.token_expiry_time,
            client,
            _plain(context.oauth_metadata),
            _plain(context.protected_resource_metadata),
        )


def _fit(provider: OAuthClientProvider, response: httpx2.Response) -> None:
    """Give the secret in the form of the token request where the issuer's metadata say that it takes no other way."""
    client = provider.context.client_info
    if client is None or client.token_endpoint_auth_method != _BASIC or response.request.method != "GET":
        return
    with suppress(ValueError):
        said = json.loads(response.content)
        ways = said.get("token_endpoint_auth_methods_supported") if isinstance(said, dict) else None
        if isinstance(ways, list) and _BASIC not in ways and _POST in ways:
            client.token_endpoint_auth_method = _POST


def _plain(model: BaseModel | None) -> Json:
    return {} if model is None else model.model_dump(mode="json", exclude_none=True)


def _said(answer: Answer) -> str:
    """An issuer's own words for a refusal (RFC 6749, section 5.2)."""
    try:
        said: Any = json.loads(answer.body)
    except ValueError:
        said = None
    error, about = (said.get("error"), said.get("error_description")) if isinstance(said, dict) else ("", "")
    words = ": ".join(part for part in (error, about) if isinstance(part, str) and part)
    return one_line(f"the issuer answered HTTP {answer.status}{f', {words}' if words else ''}", SAID_LEN_MAX)
