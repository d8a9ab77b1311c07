"""A server of the old HTTP+SSE transport that restarts again and again while it is called stays listed.

Its one stream is its session, so that each restart ends that. The one rule: a real node, and a port that refuses
connections for half a second.
"""

import asyncio
import contextlib
import time
from collections import Counter
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from agent.client.http.restart import RESTART_PAUSE_S, RESTART_S
from agent.links.state import FLAP_S, FLAPS_MIN
from agent.model import Json
from tests.chaos.test_returning_servers import PAUSE_S, call, served
from tests.integration.servers.sse_hosting import OldServer, old_server
from tests.measured import measured
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

NAME = "old"
# It refuses connections for so long, more often than a link may end within a short time without being held down.
AWAY_S = 0.5
RESTARTS = FLAPS_MIN + 1


async def listed(_: OldServer, __: str) -> Json:
    return {"tools": [{"name": "pid", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}}]}


async def test_a_server_of_http_and_sse_that_restarts_while_it_is_called_stays_listed_and_no_call_fails(
    tmp_path: Path,
) -> None:
    outcomes, pause = Counter[str](), asyncio.Event()
    answered_s = 0.0

    def server() -> OldServer:
        return OldServer(answers={"": listed})

    async def has_lasted(since_s: float) -> bool:
        return time.monotonic() - since_s >= AWAY_S

    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        running = AsyncExitStack()
        stack.push_async_callback(running.aclose)
        url = (await running.enter_async_context(old_server(server()))).url
        node = await stack.enter_async_context(served(tmp_path, {NAME: url}))

        async def keep_calling() -> None:
            nonlocal answered_s
            while True:
                answer = await call(node, NAME)
                outcomes["answered" if "result" in answer else str(answer)] += 1
                answered_s = time.monotonic()
                outcomes["listed" if f"{NAME}__pid" in await node.tool_names() else "not listed"] += 1
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PAUSE_S):
                        await pause.wait()

        async def is_called_again(since_s: float) -> bool:
            return answered_s > since_s

        caller = group.create_task(keep_calling(), name="calls")
        began_s, away_s = time.monotonic(), list[float]()
        for _ in range(RESTARTS):
            gone_s = time.monotonic()
            await running.aclose()
            await eventually(partial(has_lasted, gone_s))
            await running.enter_async_context(old_server(server(), urlsplit(url).port or 0))
            away_s.append(time.monotonic() - gone_s)
            await eventually(partial(is_called_again, time.monotonic()))
        took_s = time.monotonic() - began_s
        caller.cancel()
        shown = (await node.servers())[NAME]
    measured(f"{RESTARTS} restarts in {took_s:.1f} s: {outcomes['answered']} calls, {dict(outcomes)}")
    if max(away_s) > RESTART_S - RESTART_PAUSE_S:
        pytest.skip(f"TOO SLOW A MACHINE: a server that starts again at once was away for {max(away_s):.1f} s")
    assert set(outcomes) == {"answered", "listed"}, outcomes
    assert (shown["state"], shown["reconnects"], shown["last_error"]) == ("ready", 0, "")
    assert took_s < RESTARTS * FLAP_S
