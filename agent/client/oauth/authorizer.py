"""The access token of one server: got, kept, refreshed before it ends and when it is refused, once for all calls.

Made by `Authorizers` for each server by URL, and asked by `agent.client.http.authorized` for every request. A token
that only a person can get is waited for: requests fail with `LoginNeeded`, and `begin_login` and `finish_login` are
what an operator does about it. The one rule: a token goes to the URL that it was got for, and no client's token is one.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import parse_qs, urlsplit

from agent import clock
from agent.client.oauth.challenge import INSUFFICIENT_SCOPE, WantedScopes, read_challenge
from agent.client.oauth.issuer_http import IssuerHttp
from agent.client.outbound import Outbound
from agent.config.client_secret import ClientSecret
from agent.errors import AuthRefused, LoginNeeded, MeshError, ProtocolBroken, ScopesNeeded
from agent.harmless_text import one_line
from agent.late import Late
from agent.model import HttpTarget, OAuthClient, OAuthGrant, ServerSpec
from agent.state.logins import Login, LoginStore

if TYPE_CHECKING:
    from types import ModuleType

    from agent.client.oauth.sdk_flow import Flow

log = logging.getLogger(__name__)

T = TypeVar("T")
# Of servers whose entries say nothing of tokens, which are most.
_UNCONFIGURED: Final = OAuthClient()
_NO_SECRET: Final = ClientSecret("", "")
# Runs something as a task of the node, by this name.
Start = Callable[[Coroutine[Any, Any, None], str], None]

# A token is refreshed so long before its end, or in the last tenth of a short life.
REFRESH_BEFORE_END_S: Final = 60.0
# After this long a token that is refused is worth another one; a server that refuses new ones is not to be asked again.
RENEW_EVERY_S: Final = 1.0
# What a person may take to log in.
LOGIN_TIMEOUT_S: Final = 600.0
# Until the URL for the browser is there: metadata, and the registration.
BEGIN_TIMEOUT_S: Final = 12.0


def _import_flow() -> "ModuleType":
    from agent.client.oauth import sdk_flow  # noqa: PLC0415 - imports the SDK

    return sdk_flow


_SDK: Final[Late["ModuleType"]] = Late(_import_flow)


def _future() -> "asyncio.Future[Any]":
    """One whose failure may go unread, when no request waits for it any more."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future


async def _told(outcome: "asyncio.Future[T]", work: Awaitable[T]) -> None:
    """Tell a future how some work ended, since a failure of a task would end the node."""
    try:
        result = await work
    except asyncio.CancelledError:
        outcome.cancel()
        raise
    except Exception as exc:  # noqa: BLE001 - what waits for it raises it
        if not outcome.done():
            outcome.set_exception(exc)
    else:
        if not outcome.done():
            outcome.set_result(result)


@dataclass(slots=True)
class _Pending:
    """A login that a person is at. `query`: what the browser came back with."""

    redirect_uri: str
    url: "asyncio.Future[str]" = field(default_factory=_future)
    query: "asyncio.Future[Mapping[str, str]]" = field(default_factory=_future, repr=False)
    outcome: "asyncio.Future[Login]" = field(default_factory=_future, repr=False)

    async def show(self, url: str) -> None:
        """What the flow calls with the URL for the browser."""
        self.url.set_result(url)

    async def came_back(self) -> Mapping[str, str]:
        """What the flow waits for."""
        async with asyncio.timeout(LOGIN_TIMEOUT_S):
            return await self.query


class Authorizer:
    """See the module. Its one writer is the event loop.

    Long because requests, renewals and logins change one token, which each of them has to find as it is by then.
    `is_asked_for`: the entry has an `oauth`, so that any 401 means a token; else a server that names its metadata.
    """

    __slots__ = (
        "_challenge",
        "_client",
        "_failure",
        "_is_asked_for",
        "_made_at_s",
        "_name",
        "_outbound",
        "_own",
        "_pending",
        "_renewing",
        "_secret",
        "_start",
        "_store",
        "_where",
        "scopes",
        "target",
    )

    def __init__(self, spec: ServerSpec, store: LoginStore, outbound: Outbound, start: Start) -> None:
        assert isinstance(spec.target, HttpTarget), "it is for servers by URL"
        self.target: Final = spec.target
        self._name, self._store, self._start = spec.name, store, start
        self._client = spec.target.oauth or _UNCONFIGURED
        has_secret = self._client.secret or self._client.secret_file
        self._secret = ClientSecret(self._client.secret, self._client.secret_file) if has_secret else _NO_SECRET
        self._is_asked_for = spec.target.oauth is not None
        self._outbound = outbound
        self._where = spec.target.url.partition("?")[0]
        self._own: Login | None = None  # Of the node itself: in memory, since it can always have another.
        self._challenge = ""
        self.scopes: Final = WantedScopes(self._name, limited=bool(self._client.scopes))
        self._made_at_s = -RENEW_EVERY_S
        self._renewing: asyncio.Future[str | None] | None = None
        self._failure: tuple[float, MeshError] | None = None
        self._pending: _Pending | None = None

    def __repr__(self) -> str:
        return f"<Authorizer {self._name} {self._client.grant}>"

    # For requests

    @property
    def has_token(self) -> bool:
        """Whether `token` gives any; it may have ended."""
        if self._client.grant is OAuthGrant.CLIENT:
            return self._own is not None
        return self._store.get(self._name, self.target.url) is not None

    async def token(self) -> str | None:
        """What the next request carries; None where nothing is known to be wanted.

        Raises:
            LoginNeeded: the last token has ended, and only a person can get another one.
            AuthRefused, CallNotSent: it has ended, and the issuer gives no other.
        """
        login = self._login()
        if login is None:
            return None
        left_s = None if login.ends_at_s is None else login.ends_at_s - time.time()
        if left_s is None or left_s > self._margin_s(login):
            return login.access_token
        try:
            return await self._renewed_once()
        except MeshError:
            if left_s > 0 and self._login() is login:
                return login.access_token
            raise

    async def renewed(self, stale: str | None, challenge: str) -> str | None:
        """Another token than `stale`, which a server refused with this `WWW-Authenticate`; None: nothing to be done.

        Raises as `token`.
        """
        if challenge:
            self._challenge = challenge[:4096]
        wants_token = self._is_asked_for or stale is not None or "resource_metadata" in challenge
        if not wants_token:
            return None
        login = self._login()
        if login is not None and login.access_token != stale:
            return login.access_token
        if stale is not None and clock.now_s() < self._made_at_s + RENEW_EVERY_S:
            return None
        return await self._renewed_once()

    async def widened(self, stale: str | None, challenge: str) -> str | None:
        """Another token than `stale`, whose scopes a server says are too few; None where it does not say so.

        Raises as `token`, and `ScopesNeeded` where a person, or the servers file, has to allow more.
        """
        said, login = read_challenge(challenge), self._login()
        if stale is None or said.error != INSUFFICIENT_SCOPE or not said.scopes:
            return None
        if login is not None and login.access_token != stale:
            return login.access_token
        is_new = self.scopes.lacked(said)
        if self._client.grant is OAuthGrant.CLIENT and not self._client.scopes:
            return await self._renewed_once() if is_new else None
        self.scopes.missing = said.scopes
        what = f"wants more scopes than its token has ({' '.join(said.scopes)})"
        raise ScopesNeeded.about(self._where, what, f": {self.scopes.way_to_more}")

    def _wanted(self) -> str:
        """What a token is asked for by: the server's last challenge, and what requests have lacked since."""
        login = self._login()
        return self.scopes.asked_with(self._challenge, () if login is None else login.scopes)

    def _login(self) -> Login | None:
        return self._own if self._client.grant is OAuthGrant.CLIENT else self._store.get(self._name, self.target.url)

    def _margin_s(self, login: Login) -> float:
        lives_s = login.tokens.get("expires_in")
        tenth_s = lives_s / 10 if isinstance(lives_s, int | float) else REFRESH_BEFORE_END_S
        return min(REFRESH_BEFORE_END_S, tenth_s)

    async def _renewed_once(self) -> str | None:
        """One renewal for all that wait. It goes on without them: an issuer may take each refresh token once."""
        if self._renewing is None:
            if self._failure is not None and clock.now_s() < self._failure[0]:
                raise type(self._failure[1]).of(self._failure[1])
            self._renewing = _future()
            self._renewing.add_done_callback(self._settle)
            self._start(_told(self._renewing, self._renew()), f"token for {self._name}")
        return await asyncio.shield(self._renewing)

    def _settle(self, outcome: "asyncio.Future[str | None]") -> None:
        self._renewing = None
        failure = None if outcome.cancelled() else outcome.exception()
        self._failure = (clock.now_s() + RENEW_EVERY_S, failure) if isinstance(failure, MeshError) else None

    async def _renew(self) -> str | None:
        login = self._login()
        if self._client.grant is OAuthGrant.CLIENT:
            flow = await self._flow()
            self._own = login = await flow.by_own_secret(self._wanted())
        else:
            login = None if login is None else await self._refreshed(login)
        if login is None:
            raise self._login_needed()
        self._made_at_s = clock.now_s()
        log.info("token of a server renewed", extra={"server": self._name})
        return login.access_token

    async def _refreshed(self, login: Login) -> Login | None:
        refreshed = None
        if login.tokens.get("refresh_token"):
            refreshed = await (await self._flow()).refreshed(login)
        if self._login() is not login:  # A person has logged in meanwhile, or out.
            return self._login()
        await self._keep(refreshed)
        return refreshed

    async def _keep(self, login: Login | None) -> None:
        try:
            await self._store.put(self._name, login)
        except OSError as exc:
            # The node goes on with it, and has none after its next start.
            log.warning("a login could not be kept", extra={"server": self._name, "reason": exc.strerror or str(exc)})

    async def _flow(self) -> "Flow":
        """Raises `AuthRefused` where the secret cannot be read."""
        try:
            secret = await self._secret.current()
        except (OSError, ValueError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else str(exc)
            what = "needs a token, and the file of this node's secret cannot be read"
            raise AuthRefused.about(self._where, what, f": {reason}") from exc
        sdk = await _SDK.get()
        http = IssuerHttp(self.target, self._outbound)
        made: Flow = sdk.Flow(self.target.url, self._where, self._client, secret, http)
        return made

    def _login_needed(self) -> LoginNeeded:
        what = "needs a login"
        return LoginNeeded.about(self._where, what, f": mesh-agent servers login {self._name}")

    # For operators

    @property
    def logs_in(self) -> bool:
        """Whether a person gets the token."""
        return self._client.grant is OAuthGrant.CODE

    async def begin_login(self, redirect_uri: str) -> tuple[str, str]:
        """The URL for a person's browser, and the redirect URI that it comes back to. A former login is given up.

        Raises `AuthRefused`, `CallNotSent`, `DialRefused`, `ProtocolBroken`.
        """
        self._give_up()
        flow, pending = await self._flow(), _Pending(self._client.redirect_uri or redirect_uri)
        login = flow.by_login(self._wanted(), pending.redirect_uri, pending.show, pending.came_back)
        self._pending = pending
        self._start(_told(pending.outcome, login), f"login at {self._name}")
        both: set[asyncio.Future[Any]] = {pending.url, pending.outcome}
        await asyncio.wait(both, timeout=BEGIN_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if pending.url.done():
            return _checked(pending.url.result(), self._where), pending.redirect_uri
        self._give_up()
        if pending.outcome.done() and not pending.outcome.cancelled():
            pending.outcome.result()
        raise AuthRefused.about(self._where, f"has an issuer that does not answer within {BEGIN_TIMEOUT_S:g} s")

    async def finish_login(self, redirected_to: str) -> None:
        """Take the URL that the browser was sent to.

        Raises `AuthRefused`, `CallNotSent`, `OSError` for a disk that refuses, and `ValueError` for a wrong URL.
        """
        pending = self._pending
        if pending is None or not pending.url.done() or pending.outcome.done():
            raise ValueError("no login is under way; begin again")
        query = _query_of(redirected_to)
        wanted = _query_of(pending.url.result()).get("state", "")
        if not wanted or query.get("state") != wanted:
            raise ValueError("this is not where the issuer led this login; paste the whole URL that the browser shows")
        self._pending = None
        if "code" not in query:
            pending.query.cancel()
            said = ": ".join(query[name] for name in ("error", "error_description") if query.get(name))
            raise AuthRefused.about(self._where, "has an issuer that refuses the login", f": {one_line(said, 300)}")
        pending.query.set_result(query)
        login = await pending.outcome
        self._made_at_s, self._failure = clock.now_s(), None
        self.scopes.missing = ()
        await self._store.put(self._name, login)
        log.info("logged in at a server's issuer", extra={"server": self._name})

    async def forget_login(self) -> bool:
        """Drop what a login gave; whether there was anything."""
        self._give_up()
        known = self._store.get(self._name, self.target.url) is not None
        await self._store.put(self._name, None)
        return known

    def _give_up(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.query.cancel()


class Authorizers:
    """Those of one node, by server. One lives as long as the entry says the same, whatever its links do."""

    def __init__(self, store: LoginStore, outbound: Outbound, tasks: asyncio.TaskGroup) -> None:
        self._store, self._outbound, self._tasks = store, outbound, tasks
        self._known: dict[str, Authorizer] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._start(store.keep_reading(), "logins at servers")

    def __repr__(self) -> str:
        return f"<Authorizers {len(self._known)}>"

    def of(self, spec: ServerSpec) -> Authorizer | None:
        """Who has the tokens for a server; None for one that is a command, or has an Authorization of its own."""
        if not isinstance(spec.target, HttpTarget) or spec.target.has_own_authorization:
            return None
        known = self._known.get(spec.name)
        if known is None or known.target != spec.target:
            known = self._known[spec.name] = Authorizer(spec, self._store, self._outbound, self._start)
        return known

    def hint(self, server: str) -> str:
        """What an operator has to do so that a server takes all calls; empty for nothing."""
        known = self._known.get(server)
        return "" if known is None else known.scopes.hint()

    def close(self) -> None:
        """Give up what is under way: a person may take minutes to log in, and the node is stopping."""
        for task in self._running:
            task.cancel()

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = self._tasks.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)


def _query_of(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url.strip()).query).items() if len(values) == 1}


def _checked(url: str, where: str) -> str:
    """What a person is to open: a web page, whatever the issuer's metadata say. Raises `ProtocolBroken`."""
    if not url.startswith(("https://", "http://")) or not url.isascii() or not url.isprintable() or " " in url:
        raise ProtocolBroken.about(where, "has an issuer whose login is no web page")
    return url
