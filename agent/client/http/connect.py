"""Opening a door over HTTP: find out the era, then hand out the door that speaks it.

Called by `agent.client.connect.open_door`. The one rule: only an answer of the server itself decides the era; refused
connections, time-outs and a proxy's 502, 503 or 504 are an outage and say nothing about it.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

from agent.client import jsonrpc
from agent.client.dial_guard import IpNetwork
from agent.client.http.pool import HttpPool, OutgoingBody, open_pool
from agent.client.http.response import HttpRefusal, exchange
from agent.client.http.session import LegacyHttpDoor
from agent.client.http.stateless import ModernHttpDoor
from agent.client.negotiation import (
    DISCOVER,
    FIRST_VERSION,
    Handshake,
    ModernStamp,
    ProbeAgain,
    judge_discovery,
    judge_refusal,
    modern_version_named,
)
from agent.client.server_info import Hello, OnQuestion
from agent.client.sessions.pending_call import OnParked, unheard
from agent.client.sessions.pool import OnNotice, SessionLimits, SessionRefused
from agent.client.sessions.router import AskingDoor, asking
from agent.errors import AuthRefused, CallFailed, CallNotSent, LinkFailed, ProtocolBroken, RpcError, Unreachable
from agent.model import HttpTarget, Json

# A session of one's own is a header here and a little memory there; servers forget idle ones after minutes, too.
SESSION_LIMITS: Final = SessionLimits(sessions_max=64, idle_max=16)

_OUTAGE: Final = frozenset({408, 429, 502, 503, 504})


@asynccontextmanager
async def open_http_door(
    target: HttpTarget,
    *,
    connect_timeout_s: float,
    client_name: str,
    denied: Sequence[IpNetwork] = (),
    own_sessions: bool = False,
    on_parked: OnParked = unheard,
) -> AsyncGenerator[ModernHttpDoor | AskingDoor, None]:
    """As `agent.client.connect.open_door`, for a URL."""
    with open_pool(target, connect_timeout_s=connect_timeout_s, denied=denied) as pool:
        try:
            door = await _negotiate(pool, client_name, connect_timeout_s)
        except TimeoutError as exc:
            raise Unreachable(f"{pool.where} did not answer within {connect_timeout_s:g} s") from exc
        except CallFailed as exc:
            raise Unreachable(str(exc)) from exc
        if isinstance(door, ModernHttpDoor):
            yield door
            return
        try:

            def open_session(
                features: Json, on_question: OnQuestion, on_notice: OnNotice
            ) -> AbstractAsyncContextManager[LegacyHttpDoor]:
                return _one_more(
                    LegacyHttpDoor(
                        pool,
                        client_name,
                        connect_timeout_s,
                        features=features,
                        on_question=on_question,
                        on_notice=on_notice,
                    )
                )

            async with asking(
                door, open_session, limits=SESSION_LIMITS, own_for_all=own_sessions, on_parked=on_parked
            ) as asking_door:
                yield asking_door
        finally:
            await door.close()


@asynccontextmanager
async def _one_more(door: LegacyHttpDoor) -> AsyncGenerator[LegacyHttpDoor, None]:
    """Open one more session with a server that has one with us, as `OpenSession` does."""
    try:
        try:
            await door.open()
        except AuthRefused:
            raise
        except (RpcError, ProtocolBroken) as exc:
            raise SessionRefused(str(exc)) from exc
        except HttpRefusal as exc:
            is_outage = exc.status in _OUTAGE or exc.status >= 500  # noqa: PLR2004 - server errors
            raise CallNotSent(str(exc)) if is_outage else SessionRefused(str(exc)) from exc
        except (LinkFailed, CallFailed, TimeoutError) as exc:
            raise CallNotSent(str(exc) or "the server did not open another session in time") from exc
        yield door
    finally:
        await door.close()


async def _negotiate(pool: HttpPool, client_name: str, timeout_s: float) -> ModernHttpDoor | LegacyHttpDoor:
    verdict = await _discover(pool, client_name, FIRST_VERSION, timeout_s, probed_again=False)
    if isinstance(verdict, ProbeAgain):
        verdict = await _discover(pool, client_name, verdict.version, timeout_s, probed_again=True)
    assert not isinstance(verdict, ProbeAgain), "only the first probe may ask for another"
    if isinstance(verdict, Hello):
        return _modern(pool, client_name, verdict)
    door = LegacyHttpDoor(pool, client_name, timeout_s)
    try:
        await door.open()
    except (RpcError, HttpRefusal) as exc:
        error = exc if isinstance(exc, RpcError) else exc.error
        version = modern_version_named(error) if error is not None else None
        if version is not None:
            again = await _discover(pool, client_name, version, timeout_s, probed_again=True)
            if isinstance(again, Hello):
                return _modern(pool, client_name, again)
        raise _no_handshake(exc, verdict, pool) from exc
    return door


async def _discover(
    pool: HttpPool, client_name: str, version: str, timeout_s: float, *, probed_again: bool
) -> Hello | ProbeAgain | Handshake:
    stamp = ModernStamp(version, client_name)
    params = stamp.params(None)
    body = OutgoingBody(jsonrpc.encode_request(0, DISCOVER, params))
    try:
        async with asyncio.timeout(timeout_s):
            message, _ = await exchange(pool, body, stamp.headers(DISCOVER, params), 0)
        return judge_discovery(jsonrpc.result_of(message), version)
    except RpcError as exc:
        return judge_refusal(exc, probed_again=probed_again)
    except HttpRefusal as exc:
        if exc.error is not None:
            return judge_refusal(exc.error, probed_again=probed_again)
        if exc.status in _OUTAGE:
            raise Unreachable(str(exc)) from exc
        return Handshake(f"it answered server/discover with HTTP {exc.status}")
    except ProtocolBroken as exc:
        # A server that knows only sessions may answer anything at all here; the handshake will tell.
        return Handshake(str(exc))


def _modern(pool: HttpPool, client_name: str, hello: Hello) -> ModernHttpDoor:
    return ModernHttpDoor(pool, ModernStamp(hello.protocol_version, client_name), hello)


def _no_handshake(exc: RpcError | HttpRefusal, verdict: Handshake, pool: HttpPool) -> ProtocolBroken | Unreachable:
    if isinstance(exc, HttpRefusal) and exc.error is None and (exc.status in _OUTAGE or exc.status >= 500):  # noqa: PLR2004 - server errors
        return Unreachable(str(exc))
    return ProtocolBroken(f"no MCP at {pool.where}: {verdict.reason}, and initialize failed: {str(exc)[:200]}")
