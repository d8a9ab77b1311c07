"""Calls at a constant rate: `python -m bench.steady URL RATE SECONDS CONNECTIONS`, the head and body on standard input.

For what wrk cannot tell: how long calls take while they come at their own pace. Each call has its time in a timetable
and its latency counts from then, also where it had to wait for a free connection, so that a slow answer cannot hide the
calls behind it. Waiting with `select` is exact to some hundredths of a millisecond (epoll would round up to one); how
late this process itself was is one of the figures. The one rule: a refused call is counted, never measured.
"""

import asyncio
import selectors
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final
from urllib.parse import urlsplit

import orjson

from bench.figures import percentile

# What in an answer to a call says that it failed.
REFUSALS: Final = (b'"isError":true', b'"isError": true', b'"error":')
# A call that was not answered by then has failed, and so has its connection.
ANSWER_TIMEOUT_S: Final = 10.0
# In the body, stands for the number of the call.
NUMBER: Final = b"@NUMBER@"
SEPARATOR: Final = b"\0"


@dataclass(frozen=True, slots=True)
class Told:
    """What a run has seen. `late_ms`: how late this process was at 99 of 100 calls."""

    calls: int
    failed: int
    p50_ms: float
    p99_ms: float
    longest_ms: float
    late_ms: float


class Load:
    """A timetable of calls, and the connections that are free for them."""

    def __init__(self, host: str, port: int, head: bytes, body: bytes) -> None:
        self._address, self._head, self._body = (host, port), head, body
        self._free: deque[Connection] = deque()
        self._waiting: deque[float] = deque()
        self._number = 0
        self.latencies_s: list[float] = []
        self.late_s: list[float] = []
        self.failed = 0

    async def run(self, rate: float, seconds: float, connections: int) -> Told:
        """Send so many calls a second for so long; returns once all are answered or failed."""
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            await self.dial()
        started_s, count = loop.time() + 0.05, int(rate * seconds)
        for number in range(count):
            at_s = started_s + number / rate
            if (wait_s := at_s - loop.time()) > 0:
                await asyncio.sleep(wait_s)
            self.late_s.append(loop.time() - at_s)
            self.send(at_s)
        while len(self.latencies_s) + self.failed < count:
            await asyncio.sleep(0.01)
            while self._waiting and loop.time() - self._waiting[0] > ANSWER_TIMEOUT_S:
                self._waiting.popleft()
                self.failed += 1
        took = self.latencies_s or [0.0]
        return Told(
            calls=count,
            failed=self.failed,
            p50_ms=percentile(took, 0.5) * 1000,
            p99_ms=percentile(took, 0.99) * 1000,
            longest_ms=max(took) * 1000,
            late_ms=percentile(self.late_s, 0.99) * 1000,
        )

    def send(self, at_s: float) -> None:
        """Send the call of that time, over a free connection or the next one that is."""
        if not self._free:
            self._waiting.append(at_s)
            return
        self._number += 1
        body = self._body.replace(NUMBER, b"%d" % self._number)
        self._free.popleft().call(b"%bContent-Length: %d\r\n\r\n%b" % (self._head, len(body), body), at_s)

    def answered(self, connection: "Connection", sent_at_s: float, *, is_refused: bool) -> None:
        """Count an answer; the connection is free again."""
        if is_refused:
            self.failed += 1
        else:
            self.latencies_s.append(asyncio.get_running_loop().time() - sent_at_s)
        self._is_free(connection)

    def broken(self, connection: "Connection", *, had_call: bool) -> None:
        """A connection is gone, and the call that it had failed; dial another one."""
        self.failed += had_call
        if connection in self._free:
            self._free.remove(connection)
        asyncio.get_running_loop().create_task(self.dial(), name="dial")

    async def dial(self) -> None:
        """Open one more connection, however long it takes."""
        while True:
            try:
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self), *self._address
                )
            except OSError:
                await asyncio.sleep(0.05)
                continue
            self._is_free(connection)
            return

    def _is_free(self, connection: "Connection") -> None:
        self._free.append(connection)
        if self._waiting:
            self.send(self._waiting.popleft())


class Connection(asyncio.Protocol):
    """One connection, with one call under way at most."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._received = b""
        self._sent_at_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def call(self, request: bytes, at_s: float) -> None:
        """Send a call of that time."""
        assert self._transport is not None
        self._sent_at_s = at_s
        self._timer = asyncio.get_running_loop().call_later(ANSWER_TIMEOUT_S, self._transport.abort)
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """As `asyncio.Protocol`."""
        self._received += data
        if self._sent_at_s is None or not is_whole(self._received):
            return
        answer, self._received = self._received, b""
        sent_at_s, self._sent_at_s = self._sent_at_s, None
        assert self._timer is not None
        self._timer.cancel()
        is_refused = not answer.startswith(b"HTTP/1.1 200") or any(refusal in answer for refusal in REFUSALS)
        self._load.answered(self, sent_at_s, is_refused=is_refused)

    def connection_lost(self, exc: Exception | None) -> None:
        """As `asyncio.Protocol`."""
        del exc
        if self._timer is not None:
            self._timer.cancel()
        self._load.broken(self, had_call=self._sent_at_s is not None)


def is_whole(answer: bytes) -> bool:
    """Whether an answer of HTTP/1.1 is there to its end."""
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        return False
    lines = [line.partition(b":") for line in head.lower().split(b"\r\n")[1:]]
    headers = {name: value.strip() for name, _, value in lines}
    if headers.get(b"transfer-encoding") == b"chunked":
        return body.endswith(b"0\r\n\r\n")
    return len(body) >= int(headers.get(b"content-length", b"0"))


def request(url: str, tool: str, headers: Mapping[str, str], envelope: Mapping[str, object] | None = None) -> bytes:
    """What standard input has: the head of a POST without its length, and the body. Arguments as of `wrk.script`."""
    params: dict[str, object] = {"name": tool, "arguments": {"text": "sixteen bytes ok"}}
    if envelope is not None:
        params["_meta"] = envelope
    body = orjson.dumps({"jsonrpc": "2.0", "id": NUMBER.decode(), "method": "tools/call", "params": params})
    parts = urlsplit(url)
    accepted = "application/json, text/event-stream"
    sent = {"Host": parts.netloc, "Content-Type": "application/json", "Accept": accepted, **headers}
    lines = [f"POST {parts.path} HTTP/1.1", *(f"{name}: {it}" for name, it in sent.items()), ""]
    return "\r\n".join(lines).encode() + SEPARATOR + body.replace(b'"%b"' % NUMBER, NUMBER)


async def run(url: str, sent: bytes, *, rate: float, seconds: float, connections: int) -> Told:
    """Run this module in a process of its own; `sent`: see `request`."""
    command = [sys.executable, "-m", "bench.steady", url, str(rate), str(seconds), str(connections)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    said, _ = await process.communicate(sent)
    assert process.returncode == 0, said
    return Told(**orjson.loads(said))


async def _main() -> None:
    parts = urlsplit(sys.argv[1])
    head, _, body = sys.stdin.buffer.read().partition(SEPARATOR)
    load = Load(parts.hostname or "127.0.0.1", parts.port or 80, head, body)
    told = await load.run(float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
    sys.stdout.buffer.write(orjson.dumps(asdict(told)))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(_main())
