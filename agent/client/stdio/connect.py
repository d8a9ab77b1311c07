"""Opening a client to a child process: start it, find out the era, hand out the client, and end the child on leaving.

Called by `agent.client.connect.open_client`. A child may be slow to start, may ignore `server/discover` for ever, or
may die of it, at once or at the next line. So `initialize` follows when the probe stays unanswered, and a child that
ended before either was answered is started once more without the probe. The one rule: a started child is
always ended here.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

from agent import clock
from agent.client import jsonrpc
from agent.client.capabilities import ASKED_FOR_ALL, EVERY_FEATURE, SHOWS_PAGES
from agent.client.negotiation import (
    DISCOVER,
    FIRST_VERSION,
    INITIALIZE,
    INITIALIZED,
    Handshake,
    ModernStamp,
    ProbeAgain,
    forced_in_vain,
    handshake_version_named,
    initialize_params,
    judge_discovery,
    judge_initialize,
    judge_refusal,
    modern_version_named,
    refuses_initialize,
)
from agent.client.opening import Opening
from agent.client.server_info import OnServerRequest, ServerInfo
from agent.client.sessions.dedicated import OnNotice, SessionRefused
from agent.client.sessions.dual_era import OPEN_TIMEOUT_S, DualEraRouter
from agent.client.sessions.pool import SessionLimits
from agent.client.sessions.router import SessionRouter
from agent.client.stdio.client import StdioClient
from agent.errors import CallFailed, CallNotSent, LinkFailed, ProtocolBroken, RpcError, Unreachable
from agent.mcp_terms import MODERN_PROTOCOL_VERSIONS
from agent.model import Era, Json, Sessions, StdioTarget

# A child costs tens of megabytes; an operator that needs more callers at once runs the server over HTTP.
CHILD_LIMITS: Final = SessionLimits(sessions_max=8, idle_max=8)


class _ChildEnded(Unreachable):
    """The child ended before it had answered what it was asked."""


@asynccontextmanager
async def open_stdio_client(
    target: StdioTarget, opening: Opening
) -> AsyncGenerator[StdioClient | DualEraRouter | SessionRouter, None]:
    """As `agent.client.connect.open_client`, for a command."""
    client_name, start_timeout_s, protocol = opening.client_name, opening.start_timeout_s, opening.protocol
    sessions, label = opening.sessions, opening.label or target.command.rpartition("/")[2]
    # Where every caller gets a child of its own, the first one is there to list what a caller with all features sees.
    own = sessions is Sessions.OWN
    features = EVERY_FEATURE if own else SHOWS_PAGES
    client, began_s = StdioClient(label, client_name), clock.now_s()
    try:
        try:
            async with asyncio.timeout(start_timeout_s):
                await client.start(target)
                try:
                    server_info = await (
                        _negotiate(client, client_name, opening.connect_timeout_s, features)
                        if protocol is None
                        else _forced(client, client_name, protocol, features)
                    )
                except _ChildEnded:
                    if protocol is not None:
                        raise
                    await client.close()
                    client = StdioClient(label, client_name)
                    await client.start(target)
                    server_info = await _initialize(client, client_name, features)
        except TimeoutError as exc:
            raise Unreachable.about(*_silence(client, start_timeout_s)) from exc
        except (_ChildEnded, CallFailed) as exc:
            raise Unreachable.of(exc) from exc
        client.adopt(server_info)
        stateless = server_info.era is Era.MODERN
        one_child = protocol is not None or server_info.mesh is not None or sessions is Sessions.SHARED
        if one_child if stateless else not own:
            yield client
            return
        # A caller waits for a child that it did not ask for, so only about as long as the first one took.
        open_timeout_s = start_timeout_s
        if not own:
            open_timeout_s = min(start_timeout_s, max(OPEN_TIMEOUT_S, 2 * (clock.now_s() - began_s)))

        def open_session(
            features: Json, on_server_request: OnServerRequest, on_notice: OnNotice
        ) -> AbstractAsyncContextManager[StdioClient]:
            child = StdioClient(label, client_name, on_server_request=on_server_request, on_notice=on_notice)
            return _one_more(child, target, client_name, features, start_timeout_s=open_timeout_s, protocol=protocol)

        if stateless:
            # A stateless server asks in its answers and keeps nothing for a caller, so that callers share the child,
            # but for those that only a session lets be asked meanwhile.
            async with DualEraRouter(
                client, open_session, limits=CHILD_LIMITS, on_pending=opening.on_pending, tries_again=own
            ) as router:
                yield router
            return
        async with SessionRouter(
            client,
            open_session,
            limits=CHILD_LIMITS,
            own_for_all=True,
            lists_apart=False,
            on_pending=opening.on_pending,
        ) as session_router:
            yield session_router
    finally:
        await client.close()


@asynccontextmanager
async def _one_more(
    client: StdioClient,
    target: StdioTarget,
    client_name: str,
    features: Json,
    *,
    start_timeout_s: float,
    protocol: str | None,
) -> AsyncGenerator[StdioClient, None]:
    """Start one more child, which has to open a session, as `OpenSession` does."""
    try:
        try:
            async with asyncio.timeout(start_timeout_s):
                await client.start(target)
                if protocol is None:
                    client.adopt(await _initialize(client, client_name, features))
                else:
                    client.adopt(await _forced(client, client_name, protocol, features))
        except TimeoutError as exc:
            raise CallNotSent.about(*_silence(client, start_timeout_s)) from exc
        except ProtocolBroken as exc:
            raise SessionRefused(str(exc)) from exc
        except (LinkFailed, CallFailed) as exc:
            raise CallNotSent.of(exc) from exc
        if client.server_info.era is Era.MODERN:
            raise SessionRefused(f"{client.label} speaks {client.server_info.protocol_version} alone")
        yield client
    finally:
        await client.close()


async def _negotiate(client: StdioClient, client_name: str, probe_wait_s: float, features: Json) -> ServerInfo:
    version, probed_again = FIRST_VERSION, False
    while True:
        probe = client.ask(DISCOVER, ModernStamp(version, client_name).params(ASKED_FOR_ALL))
        await asyncio.wait((probe,), timeout=probe_wait_s)
        if not probe.done():
            return await _initialize_beside(client, client_name, probe, features, probe_wait_s)
        verdict = _judge_probe(_answer(client, probe), version, probed_again=probed_again)
        if isinstance(verdict, ServerInfo):
            return verdict
        if isinstance(verdict, Handshake):
            return await _initialize(client, client_name, features)
        version, probed_again = verdict.version, True


async def _forced(client: StdioClient, client_name: str, protocol: str, features: Json) -> ServerInfo:
    """What the child says in the one version that may be spoken."""
    if protocol in MODERN_PROTOCOL_VERSIONS:
        probe = client.ask(DISCOVER, ModernStamp(protocol, client_name).params(ASKED_FOR_ALL))
        await asyncio.wait((probe,))
        verdict = _judge_probe(_answer(client, probe), protocol, probed_again=True)
        if isinstance(verdict, ServerInfo):
            return verdict
        assert isinstance(verdict, Handshake), "it was probed at the only version"
        raise forced_in_vain(client.label, protocol, verdict.reason)
    opening = client.ask(INITIALIZE, initialize_params(client_name, features, protocol))
    await asyncio.wait((opening,))
    try:
        return _session(client, _answer(client, opening))
    except RpcError as exc:
        raise forced_in_vain(client.label, protocol, f"initialize failed: {exc.message[:200]}") from exc


async def _initialize(client: StdioClient, client_name: str, features: Json) -> ServerInfo:
    opening = client.ask(INITIALIZE, initialize_params(client_name, features))
    await asyncio.wait((opening,))
    try:
        return _session(client, _answer(client, opening))
    except RpcError as refusal:
        return await _as_named(client, client_name, refusal, features)


async def _initialize_beside(
    client: StdioClient, client_name: str, probe: asyncio.Future[Json | None], features: Json, patience_s: float
) -> ServerInfo:
    """Initialize while the answer to `probe` is out.

    The server may act on both, in this order, so a result of `initialize` decides: the session is of that era then,
    whatever the answer to the probe says (TypeScript SDK 2.0 serves nothing else on that pipe any more). Once one of
    the two is answered otherwise, the other may take `patience_s`.
    """
    opening = client.ask(INITIALIZE, initialize_params(client_name, features))
    waiting = {opening, probe}
    modern: ServerInfo | None = None
    refusal: RpcError | None = None
    try:
        while waiting:
            # A refusal that names the modern version says that the answer to the probe is on its way.
            certain = modern is None and (refusal is None or modern_version_named(refusal) is not None)
            done, _ = await asyncio.wait(
                waiting, timeout=None if certain else patience_s, return_when=asyncio.FIRST_COMPLETED
            )
            if opening in done:
                try:
                    return _session(client, _answer(client, opening))
                except RpcError as exc:
                    refusal = exc
            if probe in done:
                verdict = _judge_probe(_answer(client, probe), FIRST_VERSION, probed_again=True)
                modern = verdict if isinstance(verdict, ServerInfo) else None
            waiting = waiting - done if done else set()
        if modern is not None:
            return modern
        assert refusal is not None, "the wait for initialize has no end of its own"
        return await _as_named(client, client_name, refusal, features)
    finally:
        opening.cancel()
        probe.cancel()


async def _as_named(client: StdioClient, client_name: str, refusal: RpcError, features: Json) -> ServerInfo:
    """Try one of the versions that a refused `initialize` names, once."""
    fault = ProtocolBroken.about(client.label, refuses_initialize(refusal), f": {refusal.message[:200]}")
    if (version := modern_version_named(refusal)) is not None:
        probe = client.ask(DISCOVER, ModernStamp(version, client_name).params(ASKED_FOR_ALL))
        await asyncio.wait((probe,))
        verdict = _judge_probe(_answer(client, probe), version, probed_again=True)
        if isinstance(verdict, ServerInfo):
            return verdict
    if (version := handshake_version_named(refusal)) is None:
        raise fault from refusal
    opening = client.ask(INITIALIZE, initialize_params(client_name, features, version))
    await asyncio.wait((opening,))
    try:
        return _session(client, _answer(client, opening))
    except RpcError as exc:
        raise fault from exc


def _answer(client: StdioClient, asked: asyncio.Future[Json | None]) -> Json:
    message = asked.result()
    if message is None:
        raise client.child.ended_as(_ChildEnded)
    return message


def _judge_probe(message: Json, version: str, *, probed_again: bool) -> ServerInfo | ProbeAgain | Handshake:
    try:
        return judge_discovery(jsonrpc.result_of(message), version)
    except RpcError as exc:
        return judge_refusal(exc, probed_again=probed_again)
    except ProtocolBroken as exc:
        return Handshake(str(exc))


def _session(client: StdioClient, message: Json) -> ServerInfo:
    """The session that an answered `initialize` opens. Raises `RpcError` where it is refused."""
    server_info = judge_initialize(jsonrpc.result_of(message))
    client.notify(INITIALIZED)
    return server_info


def _silence(client: StdioClient, start_timeout_s: float) -> tuple[str, str, str]:
    """What `MeshError.about` takes."""
    return client.label, f"did not answer within {start_timeout_s:g} s", client.child.last_words()
