"""Sends our heartbeats in time, whatever else the registration waits for: several may be on their way at once.

Kept by the registration. An agent under load may take longer for an answer than our TTL lasts. What counts is that it
gets one heartbeat in each TTL, not that it has answered the last one, nor any other request. The one rule: no heartbeat
waits for an answer, and of those without one the oldest is given up for a new one.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, NoReturn

from discovery import clock
from discovery.consul.client import ConsulClient
from discovery.model import AgentSlow, RegistrationLost

# On their way at once: with one every 5 s an agent may take 20 s for each, and a node has few connections.
ON_THEIR_WAY_MAX: Final = 4
# What an answer may usually take before the agent is asked what it holds; after a slower one so many times as long.
ANSWER_S: Final = 5.0
_SLACK: Final = 1.5
# So much later than usual one is sent beside what the registration waits for; else it sends them itself.
_LATE: Final = 1.1


@asynccontextmanager
async def heartbeats(
    client: ConsulClient,
    check_id: str,
    heartbeat_s: float,
    is_held: Callable[[], bool],
    lost: Callable[[], None],
) -> "AsyncGenerator[Heartbeats, None]":
    """Those of one check, one every `heartbeat_s`, while the block runs.

    `is_held`: whether the agent has the check, as far as we know. `lost`: called where it says that it has not.
    """
    async with asyncio.TaskGroup() as tasks:
        sent = Heartbeats(client, check_id, tasks)
        beside = tasks.create_task(sent.beside(heartbeat_s, is_held, lost), name="heartbeats beside other requests")
        try:
            yield sent
        finally:
            beside.cancel()


class Heartbeats:
    """See the module. Sole writer: the registrar, whose `tasks` they are."""

    def __init__(self, client: ConsulClient, check_id: str, tasks: asyncio.TaskGroup) -> None:
        self._client, self._check_id, self._tasks = client, check_id, tasks
        self._on_their_way: deque[asyncio.Task[Exception | None]] = deque()
        self._sent_at_s = clock.now_s()
        self._took_s = 0.0

    def __repr__(self) -> str:
        return f"<Heartbeats {self._check_id} on_their_way={len(self._on_their_way)} took_s={self._took_s:.1f}>"

    async def beat(self) -> None:
        """Send one, and wait for its answer, but no longer than the last ones make likely; it may arrive all the same.

        Raises:
            AgentSlow: there is no answer yet.
            RegistrationLost, CatalogUnavailable: the answer.
        """
        limit_s = max(ANSWER_S, _SLACK * self._took_s)
        beat = self._send()
        await asyncio.wait([beat], timeout=limit_s)
        if not beat.done() or beat.cancelled():
            raise AgentSlow(f"no answer within {limit_s:.1f} s")
        if (failure := beat.result()) is not None:
            raise failure

    async def beside(self, heartbeat_s: float, is_held: Callable[[], bool], lost: Callable[[], None]) -> NoReturn:
        """Send those that something else holds up, until cancelled."""

        def told(beat: asyncio.Task[Exception | None]) -> None:
            if not beat.cancelled() and isinstance(beat.result(), RegistrationLost):
                lost()

        while True:
            sent_at_s = self._sent_at_s
            await asyncio.sleep(max(0.0, sent_at_s + _LATE * heartbeat_s - clock.now_s()))
            if self._sent_at_s != sent_at_s:
                continue  # The registration has sent one itself.
            if is_held():
                self._send().add_done_callback(told)
            else:
                self._sent_at_s = clock.now_s()

    def _send(self) -> "asyncio.Task[Exception | None]":
        if len(self._on_their_way) >= ON_THEIR_WAY_MAX:
            self._on_their_way.popleft().cancel()
        self._sent_at_s = clock.now_s()
        beat = self._tasks.create_task(self._outcome(), name="heartbeat")
        self._on_their_way.append(beat)
        beat.add_done_callback(self._forget)
        return beat

    async def _outcome(self) -> Exception | None:
        """How it ended, as a value: a failure of one of them would end them all."""
        sent_s = clock.now_s()
        try:
            await self._client.pass_check(self._check_id)
        except Exception as exc:  # noqa: BLE001 - what waits for it raises it
            return exc
        self._took_s = clock.now_s() - sent_s
        return None

    def _forget(self, beat: "asyncio.Task[Exception | None]") -> None:
        with suppress(ValueError):  # It was given up.
            self._on_their_way.remove(beat)
