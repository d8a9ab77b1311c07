"""The lifespan of one ASGI application: started, asked to stop, and never left hanging.

Used by `agent.server.asgi_bridge` alone. The application's lifespan coroutine runs in one task from start to end,
because the MCP SDK opens and closes anyio task groups in it. The one rule: `start` returns only when the application
says that it is ready, and raises whatever kept it from that.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

STOP_TIMEOUT_S = 10.0  # Longer than the SDK needs to end its sessions, shorter than a container's patience (30 s).


class LifespanFailed(Exception):
    """The application did not start, or ended before it was asked to; the cause is chained where there is one."""


class AsgiLifespan:
    """One run of the protocol. `run` belongs in a task of its own; `state` is what the application shares."""

    def __init__(self, asgi_app: AsgiApp) -> None:
        self.state: dict[str, Any] = {}
        self._app = asgi_app
        self._stop_wanted = asyncio.Event()
        self._start_asked = False
        loop = asyncio.get_running_loop()
        # Each resolves to the reason of a failure, empty for success: an exception here might never be looked at.
        self._started: asyncio.Future[str] = loop.create_future()
        self._stopped: asyncio.Future[str] = loop.create_future()
        self._failure: Exception | None = None

    async def run(self) -> None:
        """Run the application's lifespan to its end; never raises but when cancelled, the outcome is kept."""
        scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        reason = "the application's lifespan ended by itself"
        try:
            await self._app(scope, self._receive, self._send)
        except Exception as exc:  # noqa: BLE001 - anything an application raises here is the outcome, not our crash
            self._failure = exc
            reason = f"{type(exc).__name__}: {exc}"
        finally:
            _settle(self._started, reason)
            _settle(self._stopped, "" if self._stop_wanted.is_set() and self._failure is None else reason)

    async def start(self) -> None:
        """Wait until the application is ready. Raises LifespanFailed."""
        if reason := await self._started:
            raise LifespanFailed(reason) from self._failure

    async def stop(self) -> str:
        """Ask the application to stop and wait, at most STOP_TIMEOUT_S; returns why it failed, or an empty text."""
        self._stop_wanted.set()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                return await asyncio.shield(self._stopped)
        except TimeoutError:
            return f"no answer within {STOP_TIMEOUT_S:g} s"

    async def _receive(self) -> Message:
        if not self._start_asked:
            self._start_asked = True
            return {"type": "lifespan.startup"}
        await self._stop_wanted.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        match message["type"]:
            case "lifespan.startup.complete":
                _settle(self._started, "")
            case "lifespan.startup.failed":
                _settle(self._started, message.get("message") or "the application refused to start")
            case "lifespan.shutdown.complete":
                _settle(self._stopped, "")
            case "lifespan.shutdown.failed":
                _settle(self._stopped, message.get("message") or "the application failed to stop")
            case other:
                raise RuntimeError(f"not a lifespan message: {other!r}")


def _settle(future: asyncio.Future[str], reason: str) -> None:
    if not future.done():
        future.set_result(reason)
