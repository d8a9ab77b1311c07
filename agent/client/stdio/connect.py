"""Opening a door to a child process: start it, find out the era, hand out the door, and end the child on leaving.

Called by `agent.client.connect.open_door`. A child may be slow to start, may ignore `server/discover` for ever, or may
die of it. So `initialize` follows when the probe stays unanswered, the first usable answer to either wins, and a child
that hung up on the probe is started once more without it. The one rule: a started child is always ended here.
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
from agent.client.server_info import Hello, OnQuestion
from agent.client.sessions.pending_call import OnParked, unheard
from agent.client.sessions.pool import OnNotice, SessionLimits
from agent.client.sessions.router import AskingDoor, asking
from agent.client.stdio.client import StdioDoor
from agent.errors import CallFailed, CallNotSent, LinkFailed, ProtocolBroken, RpcError, Unreachable
from agent.model import Era, Json, StdioTarget

# A child costs tens of megabytes; who needs more clients at once runs the server over HTTP.
CHILD_LIMITS: Final = SessionLimits(sessions_max=8, idle_max=8)


class _HungUpOnProbe(Exception):
    """The child ended while `server/discover` was all that it had been asked."""


@asynccontextmanager
async def open_stdio_door(
    target: StdioTarget,
    *,
    probe_wait_s: float,
    start_timeout_s: float,
    client_name: str,
    label: str,
    own_sessions: bool = False,
    on_parked: OnParked = unheard,
) -> AsyncGenerator[StdioDoor | AskingDoor, None]:
    """As `agent.client.connect.open_door`, for a command."""
    # Where every caller gets a child of its own, the first one is there to list what a client with all features sees.
    features = EVERY_FEATURE if own_sessions else {}
    door = StdioDoor(label, client_name)
    try:
        try:
            async with asyncio.timeout(start_timeout_s):
                await door.start(target)
                try:
                    hello = await _negotiate(door, client_name, probe_wait_s, features)
                except _HungUpOnProbe:
                    await door.close()
                    door = StdioDoor(label, client_name)
                    await door.start(target)
                    hello = await _handshake(door, client_name, None, features)
        except TimeoutError as exc:
            raise Unreachable(_silence(door, start_timeout_s)) from exc
        except CallFailed as exc:
            raise Unreachable(str(exc)) from exc
        door.adopt(hello)
        if not own_sessions or hello.era is Era.MODERN:
            yield door  # A stateless server asks in its answers, and keeps nothing for anybody.
            return

        def open_session(
            features: Json, on_question: OnQuestion, on_notice: OnNotice
        ) -> AbstractAsyncContextManager[StdioDoor]:
            child = StdioDoor(label, client_name, on_question=on_question, on_notice=on_notice)
            return _one_more(child, target, client_name, features, start_timeout_s)

        async with asking(
            door, open_session, limits=CHILD_LIMITS, own_for_all=True, lists_apart=False, on_parked=on_parked
        ) as asking_door:
            yield asking_door
    finally:
        await door.close()


@asynccontextmanager
async def _one_more(
    door: StdioDoor, target: StdioTarget, client_name: str, features: Json, start_timeout_s: float
) -> AsyncGenerator[StdioDoor, None]:
    """Start one more child of a server whose era is known, as `OpenSession` does."""
    try:
        try:
            async with asyncio.timeout(start_timeout_s):
                await door.start(target)
                door.adopt(await _handshake(door, client_name, None, features))
        except TimeoutError as exc:
            raise CallNotSent(_silence(door, start_timeout_s)) from exc
        except (LinkFailed, CallFailed) as exc:
            raise CallNotSent(str(exc)) from exc
        yield door
    finally:
        await door.close()


async def _negotiate(door: StdioDoor, client_name: str, probe_wait_s: float, features: Json) -> Hello:
    version, probed_again = FIRST_VERSION, False
    while True:
        probe = door.ask(DISCOVER, ModernStamp(version, client_name).params(None))
        await asyncio.wait((probe,), timeout=probe_wait_s)
        if not probe.done():
            return await _handshake(door, client_name, probe, features)
        message = probe.result()
        if message is None:
            raise _HungUpOnProbe
        verdict = _judge_probe(message, version, probed_again=probed_again)
        if isinstance(verdict, Hello):
            return verdict
        if isinstance(verdict, Handshake):
            return await _handshake(door, client_name, None, features)
        version, probed_again = verdict.version, True


async def _handshake(
    door: StdioDoor, client_name: str, probe: asyncio.Future[Json | None] | None, features: Json
) -> Hello:
    """Initialize; the answer to a `probe` that is still out may come first and then decides."""
    opening = door.ask(INITIALIZE, initialize_params(client_name, features))
    waiting = {opening} if probe is None else {opening, probe}
    try:
        while True:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if probe is not None and probe in done:
                waiting.discard(probe)
                message = probe.result()
                verdict = _judge_probe(message, FIRST_VERSION, probed_again=True) if message is not None else None
                if isinstance(verdict, Hello):
                    return verdict
            if opening in done:
                waiting.discard(opening)
                hello = _judge_opening(door, opening.result(), probe_is_out=probe in waiting)
                if hello is not None:
                    return hello
            if not waiting:
                raise ProtocolBroken(f"{door.label} refuses both server/discover and initialize")
    finally:
        opening.cancel()
        if probe is not None:
            probe.cancel()


def _judge_probe(message: Json, version: str, *, probed_again: bool) -> Hello | ProbeAgain | Handshake:
    try:
        return judge_discovery(jsonrpc.result_of(message), version)
    except RpcError as exc:
        return judge_refusal(exc, probed_again=probed_again)
    except ProtocolBroken as exc:
        return Handshake(str(exc))


def _judge_opening(door: StdioDoor, message: Json | None, *, probe_is_out: bool) -> Hello | None:
    """The session's hello, or None when the child is modern after all and its answer to the probe is on its way."""
    if message is None:
        raise Unreachable(door.lost_reason)
    try:
        hello = judge_initialize(jsonrpc.result_of(message))
    except RpcError as exc:
        if probe_is_out and modern_version_named(exc) is not None:
            return None
        raise ProtocolBroken(f"{door.label} refuses initialize: {exc.message[:200]}") from exc
    door.notify(INITIALIZED)
    return hello


def _silence(door: StdioDoor, start_timeout_s: float) -> str:
    words = door.child.stderr_lines
    said = f"; its last words: {words[-1]}" if words else ""
    return f"{door.label} did not answer within {start_timeout_s:g} s{said}"
