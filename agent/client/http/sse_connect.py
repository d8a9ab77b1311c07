"""Opening a client by URL: of streamable HTTP, or of the old HTTP+SSE transport that some gateways still speak.

Called by `agent.client.connect.open_client`. Where the target does not say which, a URL that refuses to be posted
`initialize` is asked for a stream, as the specification has it (MCP 2025-11-25, transports, backwards compatibility).
The one rule: what a URL without either says is why streamable HTTP failed, which is what most of them should be.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial

from agent import clock
from agent.client.http.connect import SESSION_LIMITS, NotStreamable, awakening_of, enter_http_client
from agent.client.http.open_pool import open_pool
from agent.client.http.pool import HttpPool
from agent.client.http.response import SSE_TYPE, HttpRefusal
from agent.client.http.siblings import Siblings
from agent.client.http.sse_session import SseSessionClient
from agent.client.http.stateless import HttpStatelessClient
from agent.client.negotiation import forced_in_vain, refuses_initialize
from agent.client.opening import Opening
from agent.client.server_info import OnServerRequest
from agent.client.sessions.dedicated import OnNotice, SessionRefused
from agent.client.sessions.dual_era import DualEraRouter
from agent.client.sessions.router import SessionRouter
from agent.errors import AuthRefused, CallFailed, CallNotSent, LinkFailed, ProtocolBroken, RpcError, Unreachable
from agent.mcp_terms import LATEST_HANDSHAKE_VERSION, MODERN_PROTOCOL_VERSIONS
from agent.model import HttpTarget, HttpTransport, Json


async def enter_client_by_url(
    stack: AsyncExitStack, target: HttpTarget, opening: Opening
) -> HttpStatelessClient | DualEraRouter | SessionRouter:
    """As `agent.client.connect.enter_client`, for a URL."""
    if target.transport is HttpTransport.SSE:
        return await stack.enter_async_context(_open_sse_client(target, opening, opening.start_timeout_s))
    try:
        return await enter_http_client(stack, target, opening)
    except NotStreamable as exc:
        if target.transport is HttpTransport.STREAMABLE:
            raise
        try:
            # A stream that is silent is one of streamable HTTP: `endpoint` is the first word of the old one.
            return await stack.enter_async_context(_open_sse_client(target, opening, opening.connect_timeout_s))
        except AuthRefused:
            raise
        except LinkFailed:
            raise exc from None


@asynccontextmanager
async def _open_sse_client(
    target: HttpTarget, opening: Opening, endpoint_timeout_s: float
) -> AsyncGenerator[SessionRouter, None]:
    """A server of the old transport, within the time that it may take to start."""
    client_name, start_timeout_s, protocol = opening.client_name, opening.start_timeout_s, opening.protocol
    with open_pool(target, connect_timeout_s=opening.connect_timeout_s, outbound=opening.outbound) as pool:
        if protocol in MODERN_PROTOCOL_VERSIONS:
            raise forced_in_vain(pool.where, protocol, "HTTP+SSE has sessions alone")
        version = protocol or LATEST_HANDSHAKE_VERSION
        siblings = Siblings()

        def open_session(
            features: Json, on_server_request: OnServerRequest, on_notice: OnNotice
        ) -> AbstractAsyncContextManager[SseSessionClient]:
            def make(group: asyncio.TaskGroup) -> SseSessionClient:
                return SseSessionClient(
                    pool,
                    client_name,
                    group,
                    siblings,
                    version=version,
                    features=features,
                    on_server_request=on_server_request,
                    on_notice=on_notice,
                )

            return _one_more(make, pool, start_timeout_s)

        async with _grouped() as group:
            began_s = clock.now_s()
            client: SseSessionClient | None = None

            async def open_first() -> SseSessionClient:
                one = SseSessionClient(pool, client_name, group, siblings, version=version, renews=True)
                try:
                    await _opened(one, pool, start_timeout_s, endpoint_timeout_s)
                except BaseException:
                    one.close()
                    raise
                return one

            try:
                async with awakening_of(pool, target, opening, partial(_streams, pool)) as awakening:
                    client = await awakening.answer(open_first, drop=_closed, says_nothing=_says_nothing)
                opening.quick.note(target.url, 0.0)  # A POST there starts nothing.
                async with SessionRouter(
                    client,
                    open_session,
                    limits=SESSION_LIMITS,
                    own_for_all=opening.session_pool,
                    by_session=opening.by_session,
                    on_pending=opening.on_pending,
                    opened_in_s=clock.now_s() - began_s,
                ) as session_router:
                    yield session_router
            finally:
                if client is not None:
                    client.close()


async def _streams(pool: HttpPool) -> int:
    """The status by which a stream begins. Raises `MeshError` where none does."""
    response = await pool.get({"Accept": SSE_TYPE})
    response.close()
    return response.status


async def _closed(client: SseSessionClient) -> None:
    client.close()


def _says_nothing(failure: Exception) -> bool:
    return not isinstance(failure, AuthRefused | ProtocolBroken)


async def _opened(client: SseSessionClient, pool: HttpPool, start_timeout_s: float, endpoint_timeout_s: float) -> None:
    try:
        async with asyncio.timeout(start_timeout_s):
            await client.open(endpoint_timeout_s)
    except TimeoutError as exc:
        raise Unreachable.about(pool.where, f"did not answer within {start_timeout_s:g} s") from exc
    except HttpRefusal as exc:
        failure = exc.as_failure()
        if isinstance(failure, CallFailed):
            raise Unreachable.of(failure) from exc
        # A stream is no request, so that what refuses it is no server of this transport, whatever its error says.
        raise failure if isinstance(failure, LinkFailed) else ProtocolBroken(str(exc)) from exc
    except CallFailed as exc:
        raise Unreachable.of(exc).with_nothing_sent(nothing_sent=False) from exc  # It has opened a stream.
    except RpcError as exc:
        raise ProtocolBroken.about(pool.where, refuses_initialize(exc), f": {str(exc)[:200]}") from exc


@asynccontextmanager
async def _one_more(
    make: Callable[[asyncio.TaskGroup], SseSessionClient], pool: HttpPool, start_timeout_s: float
) -> AsyncGenerator[SseSessionClient, None]:
    """Open one more session, as `OpenSession` does: one more stream, with its own memory at the server."""
    async with _grouped() as group:
        client = make(group)
        try:
            try:
                await _opened(client, pool, start_timeout_s, start_timeout_s)
            except AuthRefused:
                raise
            except ProtocolBroken as exc:
                raise SessionRefused(str(exc)) from exc
            except LinkFailed as exc:
                raise CallNotSent.of(exc) from exc
            yield client
        finally:
            client.close()


@asynccontextmanager
async def _grouped() -> AsyncGenerator[asyncio.TaskGroup, None]:
    """A group whose owner ends its tasks; by hand, so that what ended the block is not wrapped."""
    group = asyncio.TaskGroup()
    await group.__aenter__()
    try:
        yield group
    finally:
        await group.__aexit__(None, None, None)
