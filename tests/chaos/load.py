"""Steady calls with an ID each, and what became of every one of them.

Used by the chaos tests. The one rule: every call gets one verdict, and the books are compared with the servers' own
journals only when nothing is under way any more.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from tests.chaos.journal_server import READ, WRITE, JournalServer
from tests.e2e.running import RunningNode
from tests.waiting import eventually

CALLERS_EACH = 4
# Between a caller's calls: without it the callers would take the time of what is started and dialled again.
PAUSE_S = 0.05
_PREFIX = "io.modelcontextprotocol/"
_ENVELOPE = {
    f"{_PREFIX}protocolVersion": "2026-07-28",
    f"{_PREFIX}clientInfo": {"name": "chaos", "version": "1"},
    f"{_PREFIX}clientCapabilities": {},
}
_KNOWN_CODES = {"not_executed": -32000, "unknown": -32001}


@dataclass(frozen=True)
class Ended:
    """One call: `outcome` is ok, unknown or not_executed; `error` what the client got, None when all went well."""

    call_id: str
    tool: str
    outcome: str
    began_s: float
    took_s: float
    error: dict[str, Any] | None = None

    @property
    def timed_out(self) -> bool:
        """Whether the node gave it up by its limit."""
        return self.error is not None and self.error["data"].get("timed_out") is True


@dataclass
class Books:
    """Every call that has ended."""

    ended: list[Ended] = field(default_factory=list)
    begun: int = 0

    def failed(self, tool: str | None = None) -> list[Ended]:
        """Calls (of one tool) that were answered with an error."""
        return [call for call in self.ended if call.outcome != "ok" and tool in (None, call.tool)]

    def outcomes(self) -> dict[str, str]:
        """Outcome by ID."""
        return {call.call_id: call.outcome for call in self.ended}

    async def grows(self, more: int) -> list[Ended]:
        """Wait until so many calls more were begun and have ended; returns those."""
        began_s, start = time.monotonic(), len(self.ended)

        def since() -> list[Ended]:
            return [call for call in self.ended[start:] if call.began_s >= began_s]

        async def enough() -> bool:
            return len(since()) >= more

        await eventually(enough)
        return since()

    def figures(self, since_s: float) -> str:
        """For messages only: how long the calls took that were begun before `since_s`, and after it."""
        return f"before: {spread(self.ended, before_s=since_s)}; after: {spread(self.ended, since_s=since_s)}"

    def compare(self, *servers: JournalServer) -> list[str]:
        """What the calls got as answers that the journals do not bear out; empty when all of it was true."""
        journals = [server.executed() for server in servers]
        found = []
        for call in self.ended:
            times = sum(journal[call.call_id] for journal in journals)
            if call.tool == WRITE and times > 1:
                found.append(f"executed {times} times: {call}")
            if call.outcome == "ok" and times == 0:
                found.append(f"never executed: {call}")
            if call.outcome == "not_executed" and times > 0:
                found.append(f"executed all the same: {call}")
            if call.outcome not in ("ok", *_KNOWN_CODES):
                found.append(f"says neither: {call}")
            elif call.error is not None and call.error["code"] != _KNOWN_CODES[call.outcome]:
                found.append(f"code and outcome disagree: {call}")
        known = {call.call_id for call in self.ended}
        found += [
            f"executed, but never called: {call_id}" for journal in journals for call_id in journal.keys() - known
        ]
        return found


@asynccontextmanager
async def steady_load(node: RunningNode, *, callers_each: int = CALLERS_EACH) -> AsyncGenerator[Books, None]:
    """Call both tools of the `journal` over and over until the context is left; then every call has ended."""
    books, over = Books(), asyncio.Event()
    # A node closes idle connections; a call must never meet that moment.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=3)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30)) as session:

        async def keep_calling(tool: str) -> None:
            while not over.is_set():
                books.begun += 1
                books.ended.append(await _call(session, node.url, tool, f"{tool}-{books.begun}"))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PAUSE_S):
                        await over.wait()

        async with asyncio.TaskGroup() as group:
            for tool in (READ, WRITE):
                for number in range(callers_each):
                    group.create_task(keep_calling(tool), name=f"{tool} {number}")
            try:
                yield books
            finally:
                over.set()


async def _call(session: aiohttp.ClientSession, url: str, tool: str, call_id: str) -> Ended:
    name = f"journal__{tool}"
    params = {"name": name, "arguments": {"id": call_id}, "_meta": _ENVELOPE}
    headers = {
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": name,
    }
    body = orjson.dumps({"jsonrpc": "2.0", "id": call_id, "method": "tools/call", "params": params})
    began_s = time.monotonic()
    async with session.post(url, data=body, headers=headers) as response:
        answer = orjson.loads(await response.read())
    took_s = time.monotonic() - began_s
    if "error" in answer:
        told = answer["error"].get("data")
        outcome = told.get("outcome", "none") if isinstance(told, dict) else "none"
        return Ended(call_id, tool, outcome, began_s, took_s, answer["error"])
    is_right = answer["result"]["content"] == [{"type": "text", "text": call_id}]
    return Ended(call_id, tool, "ok" if is_right else "another's answer", began_s, took_s)


def percentile(calls: list[Ended], share: float, *, since_s: float = 0.0, before_s: float = float("inf")) -> float:
    """Seconds that this share of the calls did not exceed that began in this time."""
    took_s = sorted(call.took_s for call in calls if since_s <= call.began_s < before_s)
    return took_s[int(len(took_s) * share)]


def spread(calls: list[Ended], since_s: float = 0.0, before_s: float = float("inf")) -> str:
    """For messages: how long calls took that began in this time."""
    took_ms = sorted(call.took_s * 1000 for call in calls if since_s <= call.began_s < before_s)
    if not took_ms:
        return "none"
    p50, p99 = (took_ms[int(len(took_ms) * share)] for share in (0.5, 0.99))
    return f"{len(took_ms)} calls, p50 {p50:.0f} ms, p99 {p99:.0f} ms, longest {took_ms[-1]:.0f} ms"
