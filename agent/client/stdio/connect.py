"""Opening a client to a child process: start it, find out the era, hand out the client, and end the child on leaving.

Called by `agent.client.connect.open_client`. A child may be slow to start, may ignore `server/discover` for ever, or
may die of it. So `initialize` follows when the probe stays unanswered, the first usable answer to either wins, and a
child that hung up on the probe is started once more without it. The one rule: a started child is always ended here.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

from agent.client import jsonrpc
from agent.client.capabilities import EVERY_FEATURE
from agent.client.negotiation import (
    DISCOVER,
    FIRST_VERSION,
    INITIALIZE,
    INITIALIZED,
    Handshake,
    ModernStamp,
    ProbeAgain,
    initialize_params,
    judge_discovery,
    judge_initialize,
    judge_refusal,
    modern_version_named,
)
from agent.client.server_info import OnServerRequest, ServerInfo
from agent.client.sessions.pending_call import OnPending, unheard
from agent.client.sessions.pool import OnNotice, SessionLimits
from agent.client.sessions.router import SessionRouter, asking
from agent.client.stdio.client import StdioClient
from agent.errors import CallFailed, CallNotSent, LinkFailed, ProtocolBroken, RpcError, Unreachable
from agent.model import Era, Json, StdioTarget

# A child costs tens of megabytes; who needs more callers at once runs the server over HTTP.
CHILD_LIMITS: Final = SessionLimits(sessions_max=8, idle_max=8)


class _HungUpOnProbe(Exception):
    """The child ended while `server/discover` was all that it had been asked."""


@asynccontextmanager
async def open_stdio_client(
    target: StdioTarget,
    *,
    probe_wait_s: float,
    start_timeout_s: float,
    client_name: str,
    label: str,
    session_pool: bool = False,
    on_pending: OnPending = unheard,
) -> AsyncGenerator[StdioClient | SessionRouter, None]:
    """As `agent.client.connect.open_client`, for a command."""
    # Where every caller gets a child of its own, the first one is there to list what a caller with all features sees.
    features = EVERY_FEATURE if session_pool else {}
    client = StdioClient(label, client_name)
    try:
        try:
            async with asyncio.timeout(start_timeout_s):
                await client.start(target)
                try:
                    server_info = await _negotiate(client, client_name, probe_wait_s, features)
                except _HungUpOnProbe:
                    await client.close()
                    client = StdioClient(label, client_name)
                    await client.start(target)
                    server_info = await _handshake(client, client_name, None, features)
        except TimeoutError as exc:
            raise Unreachable(_silence(client, start_timeout_s)) from exc
        except CallFailed as exc:
            raise Unreachable(str(exc)) from exc
        client.adopt(server_info)
        if not session_pool or server_info.era is Era.MODERN:
            yield client  # A stateless server asks in its answers, and keeps nothing for anybody.
            return

        def open_session(
            features: Json, on_server_request: OnServerRequest, on_notice: OnNotice
        ) -> AbstractAsyncContextManager[StdioClient]:
            child = StdioClient(label, client_name, on_server_request=on_server_request, on_notice=on_notice)
            return _one_more(child, target, client_name, features, start_timeout_s)

        async with asking(
            client, open_session, limits=CHILD_LIMITS, own_for_all=True, lists_apart=False, on_pending=on_pending
        ) as session_router:
            yield session_router
    finally:
        await client.close()


@asynccontextmanager
async def _one_more(
    client: StdioClient, target: StdioTarget, client_name: str, features: Json, start_timeout_s: float
) -> AsyncGenerator[StdioClient, None]:
    """Start one more child of a server whose era is known, as `OpenSession` does."""
    try:
        try:
            async with asyncio.timeout(start_timeout_s):
                await client.start(target)
                client.adopt(await _handshake(client, client_name, None, features))
        except TimeoutError as exc:
            raise CallNotSent(_silence(client, start_timeout_s)) from exc
        except (LinkFailed, CallFailed) as exc:
            raise CallNotSent(str(exc)) from exc
        yield client
    finally:
        await client.close()


async def _negotiate(client: StdioClient, client_name: str, probe_wait_s: float, features: Json) -> ServerInfo:
    version, probed_again = FIRST_VERSION, False
    while True:
        probe = client.ask(DISCOVER, ModernStamp(version, client_name).params(None))
        await asyncio.wait((probe,), timeout=probe_wait_s)
        if not probe.done():
            return await _handshake(client, client_name, probe, features)
        message = probe.result()
        if message is None:
            raise _HungUpOnProbe
        verdict = _judge_probe(message, version, probed_again=probed_again)
        if isinstance(verdict, ServerInfo):
            return verdict
        if isinstance(verdict, Handshake):
            return await _handshake(client, client_name, None, features)
        version, probed_again = verdict.version, True


async def _handshake(
    client: StdioClient, client_name: str, probe: asyncio.Future[Json | None] | None, features: Json
) -> ServerInfo:
    """Initialize; the answer to a `probe` that is still out may come first and then decides."""
    opening = client.ask(INITIALIZE, initialize_params(client_name, features))
    waiting = {opening} if probe is None else {opening, probe}
    try:
        while True:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if probe is not None and probe in done:
                waiting.discard(probe)
                message = probe.result()
                verdict = _judge_probe(message, FIRST_VERSION, probed_again=True) if message is not None else None
                if isinstance(verdict, ServerInfo):
                    return verdict
            if opening in done:
                waiting.discard(opening)
                server_info = _judge_opening(client, opening.result(), probe_is_out=probe in waiting)
                if server_info is not None:
                    return server_info
            if not waiting:
                raise ProtocolBroken(f"{client.label} refuses both server/discover and initialize")
    finally:
        opening.cancel()
        if probe is not None:
            probe.cancel()


def _judge_probe(message: Json, version: str, *, probed_again: bool) -> ServerInfo | ProbeAgain | Handshake:
    try:
        return judge_discovery(jsonrpc.result_of(message), version)
    except RpcError as exc:
        return judge_refusal(exc, probed_again=probed_again)
    except ProtocolBroken as exc:
        return Handshake(str(exc))


def _judge_opening(client: StdioClient, message: Json | None, *, probe_is_out: bool) -> ServerInfo | None:
    """What the server says of itself, or None when the child is modern and its answer to the probe is on its way."""
    if message is None:
        raise Unreachable(client.lost_reason)
    try:
        server_info = judge_initialize(jsonrpc.result_of(message))
    except RpcError as exc:
        if probe_is_out and modern_version_named(exc) is not None:
            return None
        raise ProtocolBroken(f"{client.label} refuses initialize: {exc.message[:200]}") from exc
    client.notify(INITIALIZED)
    return server_info


def _silence(client: StdioClient, start_timeout_s: float) -> str:
    words = client.child.stderr_lines
    said = f"; its last words: {words[-1]}" if words else ""
    return f"{client.label} did not answer within {start_timeout_s:g} s{said}"
