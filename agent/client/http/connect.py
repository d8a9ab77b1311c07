"""Opening a client over HTTP: find out the era, then hand out the client that speaks it.

Called by `agent.client.connect.open_client`. The one rule: only an answer of the server itself decides the era; refused
connections, time-outs and a proxy's 502, 503 or 504 are an outage and say nothing about it.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from agent import clock
from agent.client import jsonrpc
from agent.client.capabilities import ASKED_FOR_ALL
from agent.client.exit_stack import SmallExitStack
from agent.client.http.awakening import Awakening
from agent.client.http.open_pool import open_pool
from agent.client.http.pool import HttpPool
from agent.client.http.request import RequestBody
from agent.client.http.response import HttpRefusal, exchange
from agent.client.http.session import HttpSessionClient
from agent.client.http.stateless import HttpStatelessClient
from agent.client.negotiation import (
    DISCOVER,
    FIRST_VERSION,
    Handshake,
    ProbeAgain,
    forced_in_vain,
    handshake_version_named,
    judge_discovery,
    judge_refusal,
    modern_version_named,
    refuses_initialize,
    stamp_of,
)
from agent.client.opening import Opening
from agent.client.server_info import OnServerRequest, ServerInfo
from agent.client.sessions.dedicated import OnNotice, SessionRefused
from agent.client.sessions.dual_era import OPEN_TIMEOUT_S, DualEraRouter
from agent.client.sessions.pool import SessionLimits
from agent.client.sessions.router import SessionRouter
from agent.errors import AuthRefused, CallFailed, CallNotSent, LinkFailed, ProtocolBroken, RpcError, Unreachable
from agent.mcp_terms import LATEST_HANDSHAKE_VERSION, MODERN_PROTOCOL_VERSIONS
from agent.model import HttpTarget, Json
from agent.rpc_codes import INVALID_PARAMS, UNSUPPORTED_PROTOCOL_VERSION

# A session of one's own is a header here and a little memory there; servers forget idle ones after minutes, too.
SESSION_LIMITS: Final = SessionLimits(sessions_max=64, idle_max=16)

# A server that hung and goes on is asked once more for the newer era, which gateways never answer.
AGAIN_TIMEOUT_S: Final = 1.0

_OUTAGE: Final = frozenset({408, 429, 502, 503, 504})
_NOT_IMPLEMENTED: Final = 501
_OK: Final = 200


class NotStreamable(ProtocolBroken):
    """The URL takes no POST of `initialize`, as one of the old HTTP+SSE transport does not. It is no MCP otherwise."""


async def enter_http_client(
    stack: AsyncExitStack, target: HttpTarget, opening: Opening
) -> HttpStatelessClient | DualEraRouter | SessionRouter:
    """As `agent.client.connect.enter_client`, for a URL. A failure leaves nothing on the stack."""
    pool = open_pool(target, connect_timeout_s=opening.connect_timeout_s, outbound=opening.outbound)
    began_s = clock.now_s()
    async with SmallExitStack() as attempt:
        attempt.enter_context(pool)
        awakening = await attempt.enter_async_context(awakening_of(pool, target, opening))
        client = await _first_client(_Asks(pool, opening, awakening, target.url))
        attempt.pop_all()
    stack.enter_context(pool)
    if isinstance(client, HttpSessionClient):
        stack.push_async_callback(client.close)  # Before anything is awaited: a session is ended whatever comes.
    await awakening.end_with(stack)
    if isinstance(client, HttpStatelessClient):
        if opening.protocol is not None or client.server_info.mesh is not None:
            return client
        timeout_s = min(opening.start_timeout_s, OPEN_TIMEOUT_S)
        dual_router = DualEraRouter(
            client,
            _Opener(pool, opening.client_name, timeout_s, LATEST_HANDSHAKE_VERSION, beside_stateless=True),
            limits=SESSION_LIMITS,
            on_pending=opening.on_pending,
            by_session=opening.session_pool,
        )
        await stack.enter_async_context(dual_router)
        return dual_router
    session_router = SessionRouter(
        client,
        _Opener(pool, opening.client_name, opening.start_timeout_s, client.asked_version),
        limits=SESSION_LIMITS,
        own_for_all=opening.session_pool,
        by_session=opening.by_session and client.server_info.keeps_sessions,
        on_pending=opening.on_pending,
        opened_in_s=clock.now_s() - began_s,
    )
    await stack.enter_async_context(session_router)
    return session_router


def awakening_of(
    pool: HttpPool, target: HttpTarget, opening: Opening, question: Callable[[], Awaitable[int]] | None = None
) -> Awakening:
    """Knocks by the first question, which has no effect, where the server is known to answer it, else by nothing.

    By the question also where nothing else gets through: `question`, by default `server/discover`.
    """
    took_s, discover = opening.quick.took_s(target.url), partial(_knock, pool, opening.client_name)
    if took_s is None:
        return Awakening(pool.knock, question=question or discover, knocks=opening.knocks)
    return Awakening(discover, took_s, knocks=opening.knocks)


async def _knock(pool: HttpPool, client_name: str) -> int:
    """The status of an answer to the first question. Raises `MeshError` where there is none."""
    try:
        await _discovered(pool, client_name, FIRST_VERSION)
    except (HttpRefusal, AuthRefused) as exc:
        return exc.status
    except (RpcError, ProtocolBroken):
        pass
    return _OK


async def _discovered(pool: HttpPool, client_name: str, version: str) -> Json:
    """The result of `server/discover`. Raises what `exchange` raises, `RpcError`, `HttpRefusal`."""
    stamp = stamp_of(version, client_name)
    params = stamp.params(ASKED_FOR_ALL)
    body = RequestBody(jsonrpc.encode_request(0, DISCOVER, params), harmless=True)
    message, _ = await exchange(pool, body, stamp.headers(DISCOVER, params), 0)
    return jsonrpc.result_of(message)


async def _first_client(asks: "_Asks") -> HttpStatelessClient | HttpSessionClient:
    """The client of the era that the server speaks, within the time that it may take to start."""
    start_timeout_s, protocol = asks.opening.start_timeout_s, asks.opening.protocol
    try:
        async with asyncio.timeout(start_timeout_s):
            return await (_negotiate(asks) if protocol is None else _forced(asks, protocol))
    except TimeoutError as exc:
        raise Unreachable.about(asks.pool.where, f"did not answer within {start_timeout_s:g} s", hangs=True) from exc
    except CallFailed as exc:
        raise Unreachable.of(exc) from exc


@dataclass(frozen=True, slots=True)
class _Opener:
    """An `OpenSession` that asks for `version`. `beside_stateless`: only sessions with an ID are better than none."""

    pool: HttpPool
    client_name: str
    timeout_s: float
    version: str
    beside_stateless: bool = False

    def __call__(
        self, features: Json, on_server_request: OnServerRequest, on_notice: OnNotice
    ) -> AbstractAsyncContextManager[HttpSessionClient]:
        client = HttpSessionClient(
            self.pool,
            self.client_name,
            self.timeout_s,
            version=self.version,
            features=features,
            on_server_request=on_server_request,
            on_notice=on_notice,
        )
        return _one_more(client, needs_id=self.beside_stateless)


@asynccontextmanager
async def _one_more(client: HttpSessionClient, *, needs_id: bool) -> AsyncGenerator[HttpSessionClient, None]:
    """Open one more session with a server that has one with us, or is stateless, as `OpenSession` does."""
    try:
        try:
            await client.open()
        except AuthRefused:
            raise
        except (RpcError, ProtocolBroken) as exc:
            raise SessionRefused(str(exc)) from exc
        except HttpRefusal as exc:
            raise CallNotSent(str(exc)) if _may_pass(exc) else SessionRefused(str(exc)) from exc
        except (LinkFailed, CallFailed) as exc:
            raise CallNotSent.of(exc) from exc
        except TimeoutError as exc:
            raise CallNotSent("the server did not open another session in time").as_silence() from exc
        if needs_id and not client.has_id:
            raise SessionRefused("it answers initialize, and keeps no session")
        yield client
    finally:
        await client.close()


async def _forced(asks: "_Asks", protocol: str) -> HttpStatelessClient | HttpSessionClient:
    """The client of the one version that may be spoken."""
    pool = asks.pool
    if protocol in MODERN_PROTOCOL_VERSIONS:
        verdict = await asks.discover(protocol, asks.opening.start_timeout_s, probed_again=True)
        if isinstance(verdict, ServerInfo):
            return asks.modern(verdict)
        assert isinstance(verdict, Handshake), "it was probed at the only version"
        raise forced_in_vain(pool.where, protocol, verdict.reason)
    try:
        return await asks.session(protocol)
    except (RpcError, HttpRefusal) as exc:
        if isinstance(exc, HttpRefusal) and _is_outage(exc):
            raise exc.as_outage() from exc
        raise _refused_session(exc, pool, protocol) from exc


def _refused_session(exc: RpcError | HttpRefusal, pool: HttpPool, protocol: str) -> ProtocolBroken:
    failure = forced_in_vain(pool.where, protocol, f"initialize failed: {str(exc)[:200]}")
    if _refuses_the_post(exc):
        failure = NotStreamable(str(failure))
    return failure.as_away(may_be_away=_may_be_away(exc))


async def _negotiate(asks: "_Asks") -> HttpStatelessClient | HttpSessionClient:
    pool, opening, probe_wait_s = asks.pool, asks.opening, asks.opening.connect_timeout_s
    verdict = await asks.discover(FIRST_VERSION, probe_wait_s, probed_again=False)
    if isinstance(verdict, ProbeAgain):
        verdict = await asks.discover(verdict.version, probe_wait_s, probed_again=True)
    assert not isinstance(verdict, ProbeAgain), "only the first probe may ask for another"
    if isinstance(verdict, ServerInfo):
        return asks.modern(verdict)
    try:
        client = await asks.session(LATEST_HANDSHAKE_VERSION)
        return await asks.newer_than(client) if verdict.unanswered else client
    except (RpcError, HttpRefusal) as exc:
        error = exc if isinstance(exc, RpcError) else exc.error
        version = modern_version_named(error) if error is not None else None
        if version is None and verdict.unanswered:
            version = FIRST_VERSION  # It may have been starting, and know nothing else.
        if version is not None:
            again = await asks.discover(version, opening.start_timeout_s, probed_again=True)
            if isinstance(again, ServerInfo):
                return asks.modern(again)
        version = handshake_version_named(error) if error is not None else None
        if version is None:
            raise _no_handshake(exc, verdict, pool) from exc
        try:
            return await asks.session(version)
        except (RpcError, HttpRefusal) as again_refused:
            raise _no_handshake(again_refused, verdict, pool) from again_refused


@dataclass(frozen=True, slots=True)
class _Asks:
    """The first questions to a server, each asked anew where it hung and goes on. `url`: the whole one, for notes."""

    pool: HttpPool
    opening: Opening
    awakening: Awakening
    url: str

    def note(self, took_s: float) -> None:
        """The server has answered `server/discover` after so long."""
        self.opening.quick.note(self.url, took_s)

    async def discover(
        self, version: str, timeout_s: float, *, probed_again: bool
    ) -> ServerInfo | ProbeAgain | Handshake:
        """What it says of `version`, or that it says nothing."""

        async def ask() -> Json:
            began_s = clock.now_s()
            try:
                result = await _discovered(self.pool, self.opening.client_name, version)
            except Exception as exc:
                if not _says_nothing(exc):
                    self.note(clock.now_s() - began_s)
                raise
            self.note(clock.now_s() - began_s)
            return result

        try:
            async with asyncio.timeout(timeout_s):
                result = await self.awakening.answer(ask, says_nothing=_says_nothing)
            return judge_discovery(result, version)
        except RpcError as exc:
            return judge_refusal(exc, probed_again=probed_again)
        except HttpRefusal as exc:
            if exc.error is not None:
                return judge_refusal(exc.error, probed_again=probed_again)
            if exc.status in _OUTAGE:
                raise exc.as_outage() from exc
            return Handshake(f"it answered server/discover with HTTP {exc.status}")
        except ProtocolBroken as exc:
            # A server that knows only sessions may answer anything at all here; the handshake will tell.
            return Handshake(str(exc))
        except TimeoutError:
            # Gateways in front of a server over stdio pass on what it never answers.
            return Handshake(f"it did not answer server/discover within {timeout_s:g} s", unanswered=True)

    async def session(self, version: str) -> HttpSessionClient:
        """One that is open. Raises what `HttpSessionClient.open` raises."""

        async def ask() -> HttpSessionClient:
            opening = self.opening
            client = HttpSessionClient(self.pool, opening.client_name, opening.start_timeout_s, version=version)
            try:
                await client.open()
            except BaseException:
                await client.close()
                raise
            return client

        return await self.awakening.answer(ask, drop=HttpSessionClient.close, says_nothing=_says_nothing)

    async def newer_than(self, client: HttpSessionClient) -> HttpStatelessClient | HttpSessionClient:
        """Of a server that did not answer when it was asked for the newer era: where it hung it may speak both."""
        if not self.awakening.was_silent:
            self.note(math.inf)  # It never answers that.
            return client
        try:
            verdict = await self.discover(FIRST_VERSION, AGAIN_TIMEOUT_S, probed_again=True)
        except LinkFailed:
            return client
        except BaseException:
            await client.close()
            raise
        if not isinstance(verdict, ServerInfo):
            return client
        await client.close()
        return self.modern(verdict)

    def modern(self, server_info: ServerInfo) -> HttpStatelessClient:
        """The client of a server that needs no session."""
        return HttpStatelessClient(
            self.pool, stamp_of(server_info.protocol_version, self.opening.client_name), server_info
        )


def _no_handshake(exc: RpcError | HttpRefusal, verdict: Handshake, pool: HttpPool) -> ProtocolBroken | Unreachable:
    if isinstance(exc, HttpRefusal) and _is_outage(exc):
        return exc.as_outage()
    kind = NotStreamable if _refuses_the_post(exc) else ProtocolBroken
    failure = kind(f"no MCP at {pool.where}: {verdict.reason}, and initialize failed: {str(exc)[:200]}")
    failure.may_be_away = _may_be_away(exc)
    if isinstance(exc, HttpRefusal):
        _, failure.what, _ = exc.about  # A client reads what a person can do something about.
    else:
        failure.what = refuses_initialize(exc)
    return failure


def _refuses_the_post(exc: RpcError | HttpRefusal) -> bool:
    return isinstance(exc, HttpRefusal) and (400 <= exc.status < 500 or exc.status == _NOT_IMPLEMENTED)  # noqa: PLR2004 - client errors


def _says_nothing(failure: Exception) -> bool:
    """Whether it is no answer of the server's: another one that is open may get one."""
    if isinstance(failure, HttpRefusal):
        return failure.error is None and _may_pass(failure)
    return not isinstance(failure, RpcError | AuthRefused | ProtocolBroken)


def _is_outage(refusal: HttpRefusal) -> bool:
    """Whether nothing that serves MCP answered. A gateway may say that a server is away by an error of JSON-RPC."""
    return _may_pass(refusal) if refusal.error is None else refusal.status in _OUTAGE


def _may_be_away(refusal: RpcError | HttpRefusal) -> bool:
    """Whether it may be a proxy's or gateway's word for a server that is away: a page, or an error of JSON-RPC.

    Not where the versions are what is refused.
    """
    error = refusal if isinstance(refusal, RpcError) else refusal.error
    if error is None:
        return isinstance(refusal, HttpRefusal) and refusal.may_be_away
    return error.code not in (UNSUPPORTED_PROTOCOL_VERSION, INVALID_PARAMS)


def _may_pass(refusal: HttpRefusal) -> bool:
    """Whether it is the server's or a proxy's trouble, which says nothing about what the server speaks."""
    return refusal.status in _OUTAGE or refusal.status >= 500  # noqa: PLR2004 - server errors
