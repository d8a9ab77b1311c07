"""Six clients behind a balancer, three of each era, and how every one of their calls went.

Used by the tests of rolling restarts. Each request goes to the next node; one that takes no connection is passed over,
as balancers do, and nothing else is tried again, but for what a node without a core could not dial in time. The one
rule: a session is opened once, and its ID is all that its client ever shows.
"""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from agent.dispatch.renewals import DIAL_WAIT_S
from tests.e2e.running import RunningNode
from tests.e2e.steady_calls import PAUSE_S
from tests.integration.servers.raw_session import ACCEPT, VERSION, initialize_request, messages, request
from tests.integration.stateless_requests import headers as stateless_headers
from tests.integration.stateless_requests import request as stateless_request
from tests.processor_time import Stopwatch
from tests.waiting import eventually

CALLERS_EACH = 3
CALL_TIMEOUT_S = 30.0
# A node waits by the clock for a server that it dials. Where there was no core for half of that time, it could not be
# done, and what was not executed may be called again.
STARVED_S = DIAL_WAIT_S / 2


@dataclass
class Tally:
    """`answers`: how often each text came back, by tool. `failures`: whatever else became of a call.

    `starved`: calls that were made again, see `STARVED_S`.
    """

    answers: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    starved: int = 0

    @property
    def done(self) -> int:
        """How many calls were answered with a result."""
        return sum(counter.total() for counter in self.answers.values())

    async def grows(self, more: int) -> None:
        """Wait until so many more calls have gone well."""
        aim = self.done + more

        async def reached() -> bool:
            assert not self.failures, self.failures[:5]
            return self.done >= aim

        await eventually(reached)

    def take(self, tool: str, status: int, message: dict[str, Any]) -> None:
        """Note how a call went."""
        result = message.get("result")
        if status == 200 and isinstance(result, dict) and result.get("isError") is not True:
            text = result["content"][0]["text"]
            self.answers.setdefault(tool, Counter())[text] += 1
        else:
            self.failures.append(f"{tool}: HTTP {status} {message}")


class Balancer:
    """Sends each request to the next node that takes the connection."""

    def __init__(self, http: aiohttp.ClientSession, nodes: Sequence[RunningNode]) -> None:
        self._http = http
        self._urls = itertools.cycle([node.url for node in nodes])
        self._nodes = len(nodes)

    async def post(self, body: dict[str, Any], headers: Any) -> tuple[int, dict[str, Any], str | None]:
        """The status, the last message, and the session ID of the answer."""
        for _ in range(2 * self._nodes):
            try:
                async with self._http.post(next(self._urls), json=body, headers=headers) as response:
                    told = [message async for message in messages(response)] if response.status == 200 else []
                    text = {"text": await response.text()} if response.status != 200 else {}
                    return response.status, told[-1] if told else text, response.headers.get("Mcp-Session-Id")
            except aiohttp.ClientConnectorError:
                continue
        return 0, {"error": "no node takes a connection"}, None


class Callers:
    """Clients that call `tools` in turn until `over` is set; how it goes is in `tally`."""

    def __init__(self, http: aiohttp.ClientSession, nodes: Sequence[RunningNode], tools: Sequence[str]) -> None:
        self.tally = Tally()
        self.over = asyncio.Event()
        self._http = http
        self._nodes = nodes
        self._tools = tools

    async def recorded(self, calls: Coroutine[Any, Any, None]) -> None:
        """Run one client's calls; what breaks a connection is a failure of the node's."""
        try:
            await calls
        except (aiohttp.ClientError, TimeoutError) as exc:
            self.tally.failures.append(repr(exc))

    async def stateless(self) -> None:
        """One client of 2026-07-28."""
        balancer = Balancer(self._http, self._nodes)
        for tool in itertools.cycle(self._tools):
            body = stateless_request("tools/call", {"name": tool, "arguments": {}})
            await self._call(balancer, tool, body, stateless_headers("tools/call", tool))
            if await self._is_over():
                return

    async def in_session(self) -> None:
        """One client of before, with one session for all its calls."""
        balancer = Balancer(self._http, self._nodes)
        _, _, session_id = await balancer.post(initialize_request(), ACCEPT)
        assert session_id is not None
        shown = {**ACCEPT, "Mcp-Session-Id": session_id, "MCP-Protocol-Version": VERSION}
        await balancer.post({"jsonrpc": "2.0", "method": "notifications/initialized"}, shown)
        for number, tool in enumerate(itertools.cycle(self._tools)):
            await self._call(balancer, tool, request("tools/call", {"name": tool}, number), shown)
            if await self._is_over():
                return

    async def _call(self, balancer: Balancer, tool: str, body: dict[str, Any], headers: Any) -> None:
        while True:
            watch = Stopwatch(*(node.process.pid for node in self._nodes))
            status, message, _ = await balancer.post(body, headers)
            if "not_executed" not in str(message) or watch() > STARVED_S:
                break
            self.tally.starved += 1
        self.tally.take(tool, status, message)

    async def _is_over(self) -> bool:
        """Looked up after a pause, without which the callers would take the time of what is restarted."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PAUSE_S):
                await self.over.wait()
        return self.over.is_set()


@asynccontextmanager
async def calling(nodes: Sequence[RunningNode], tools: Sequence[str]) -> AsyncGenerator[Tally, None]:
    """Call the tools in turn through all nodes, until the context is left."""
    timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT_S)
    # A connection each: one that is kept may be closed just as the next request goes out, and HTTP leaves it to the
    # client then whether to repeat a POST (RFC 9112, section 9.3.1). A new one is refused or served.
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http, asyncio.TaskGroup() as group:
        callers = Callers(http, nodes, tools)
        for number in range(CALLERS_EACH):
            group.create_task(callers.recorded(callers.stateless()), name=f"stateless {number}")
            group.create_task(callers.recorded(callers.in_session()), name=f"session {number}")
        try:
            yield callers.tally
        finally:
            callers.over.set()
