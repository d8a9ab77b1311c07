"""What it costs a node that has just started to adopt ten thousand sessions, and to hold them.

The sessions were opened at another node of the mesh, which is gone; each is adopted by the first request that shows its
ID. The client writes bytes to its sockets that were made before, so that it takes little of the machine. Each figure is
a median of five nodes; memory is resident and read from the kernel. The one rule: every session is adopted, or the run
fails.
"""

import asyncio
import re
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import orjson

from bench.figures import Figure
from bench.loads import CALLERS
from bench.processes import cpu_s, node, node_process, resident_bytes

SESSIONS = 10_000
RUNS = 5
VERSION = "2025-11-25"
# Beyond what as many requests cost in any case: the noise of other processes is no part of processor time.
CPU_GOAL_MS = 2000
SESSION_GOAL_KB = 3
# For what a node does after its start.
SETTLE_S = 2.0

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_SESSION = re.compile(rb"(?i)\r\nmcp-session-id: *(\S+)")


async def measure() -> list[Figure]:
    """Open the sessions once, and adopt them at five nodes in turn; nothing where the kernel does not tell."""
    if sys.platform != "linux":
        print("adopting is not measured: /proc tells it on Linux only", file=sys.stderr)
        return []
    async with node("opener", MESH_DISCOVERY="off") as base:
        heads = await _answers(base, (_initialize(base) for _ in range(SESSIONS)))
    found = [_SESSION.search(head) for head in heads]
    ids = [one[1].decode() for one in found if one is not None]
    assert len(ids) == SESSIONS, "every initialize opens a session"
    runs = [await _adopted(ids) for _ in range(RUNS)]
    return [
        Figure(
            f"a node's time for adopting {SESSIONS:,} sessions", _mid(run.cpu_ms for run in runs), "ms", CPU_GOAL_MS
        ),
        Figure(f"their first requests over HTTP, {CALLERS} callers", _mid(run.first_ms for run in runs), "ms"),
        Figure("as many requests of sessions that are there", _mid(run.later_ms for run in runs), "ms"),
        Figure("one adopted session", _mid(run.each_kb for run in runs), "KB", SESSION_GOAL_KB),
    ]


@dataclass(frozen=True, slots=True)
class Run:
    """One node. `cpu_ms`: its processor time for the first requests, less that for as many later ones."""

    cpu_ms: float
    first_ms: float
    later_ms: float
    each_kb: float


async def _adopted(ids: Sequence[str]) -> Run:
    async with node_process("adopter", MESH_DISCOVERY="off") as (base, process_id):
        await asyncio.sleep(SETTLE_S)
        before, begun_s = resident_bytes(process_id), cpu_s(process_id)
        first_ms = await _ping_all(base, ids)
        after, adopted_s = resident_bytes(process_id), cpu_s(process_id)
        later_ms = await _ping_all(base, ids)
        cpu_ms = 1000 * ((adopted_s - begun_s) - (cpu_s(process_id) - adopted_s))
    return Run(cpu_ms, first_ms, later_ms, (after - before) / len(ids) / 1024)


def _mid(samples: Iterable[float]) -> float:
    return statistics.median(samples)


async def _ping_all(base: str, ids: Sequence[str]) -> float:
    """Milliseconds for one request of each session."""
    requests = [_request(base, {"id": 1, "method": "ping"}, f"Mcp-Session-Id: {one}\r\n") for one in ids]
    started_s = time.perf_counter()
    heads = await _answers(base, iter(requests))
    took_s = time.perf_counter() - started_s
    assert len(heads) == len(ids)
    return took_s * 1000


def _initialize(base: str) -> bytes:
    client = {"name": "bench", "version": "1"}
    declared = {"elicitation": {}, "sampling": {}, "roots": {"listChanged": True}}
    params = {"protocolVersion": VERSION, "capabilities": declared, "clientInfo": client}
    return _request(base, {"id": 1, "method": "initialize", "params": params}, "")


def _request(base: str, message: dict[str, object], more: str) -> bytes:
    body = orjson.dumps({"jsonrpc": "2.0", **message})
    head = (
        f"POST /mcp HTTP/1.1\r\nHost: {urlsplit(base).netloc}\r\nContent-Type: application/json\r\n"
        f"Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: {VERSION}\r\n{more}"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _answers(base: str, requests: Iterator[bytes]) -> list[bytes]:
    """The heads of the answers, by as many connections as there are callers."""
    heads: list[bytes] = []
    async with asyncio.TaskGroup() as group:
        for number in range(CALLERS):
            group.create_task(_sent(base, requests, heads), name=f"caller {number}")
    return heads


async def _sent(base: str, requests: Iterator[bytes], heads: list[bytes]) -> None:
    where = urlsplit(base)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        for request in requests:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            assert head.startswith(b"HTTP/1.1 200"), head
            assert length is not None, head
            await reader.readexactly(int(length[1]))
            heads.append(head)
    finally:
        writer.close()
