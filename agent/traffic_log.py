"""The line that the log gets for each MCP request, written as JSON without a log record: every call passes here.

Set up by `agent.logs` where the log is JSON; elsewhere (a terminal, a test's own handler) the line is an ordinary
record. Lines of one turn of the event loop go out in one write, before anything that is logged after them. The one
rule: a line says what its record would say, cleaned by the same hand.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from agent.turns import Turn, turn_of

log = logging.getLogger("agent.mcp")

EVENT: Final = "MCP request"
# Most values are the few names of tools, methods and backends; the bound keeps hostile ones from filling memory.
_REMEMBERED_MAX: Final = 1024
# Their values are others in each request.
_NEVER_AGAIN: Final = frozenset({"request_id", "trace"})
# A turn of the event loop ends far sooner; a busy one must not hold a megabyte of lines.
_LINES_MAX: Final = 256


class RequestLines:
    """See the module. `cleaned` makes a value harmless; `write` takes whole lines and never raises.

    `keep` takes the lines with their levels; those below `threshold` go there alone.
    """

    def __init__(
        self,
        cleaned: Callable[[Any], Any],
        write: Callable[[str], None],
        keep: Callable[[Sequence[tuple[int, str]]], None],
        threshold: int,
    ) -> None:
        self._cleaned = cleaned
        self._write, self._keep, self._threshold = write, keep, threshold
        self._waiting: list[tuple[int, str]] = []
        self._remembered: dict[str, str] = {}
        self._usual: dict[tuple[str, str, str, str], tuple[str, str]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn: Turn
        self._second = -1
        self._began = ""

    def __repr__(self) -> str:
        return f"<RequestLines waiting={len(self._waiting)}>"

    def add(self, level: int, fields: Mapping[str, str | float | None]) -> None:
        """Write one line, at the end of this turn of the event loop at the latest."""
        name = "info" if level == logging.INFO else logging.getLevelName(level).lower()
        line = f'","level":"{name}","logger":"agent.mcp","event":"{EVENT}"'
        remembered = self._remembered
        for key, value in fields.items():
            if type(value) is not str:
                line += f',"{key}":{"null" if value is None else repr(value)}'
                continue
            known = remembered.get(value) if key not in _NEVER_AGAIN else None
            line += f',"{key}":{known or self._json(key, value)}'
        self._put(level, line + "}\n")

    def usual(self, named: tuple[str, str, str, str], request_id: str | float, ms: float) -> None:
        """Write the line of a call that was answered as most are, as `add` would.

        `named`: its method, its name, its caller, and its backend.
        """
        before, after = self._usual.get(named) or self._around(named)
        shown = request_id if type(request_id) is int else self._json("request_id", str(request_id))
        self._put(logging.INFO, f"{before}{shown}{after}{ms!r}}}\n")

    def _around(self, named: tuple[str, str, str, str]) -> tuple[str, str]:
        """What stands before the ID of a request, and after it, in the line of each call of these."""
        if len(self._usual) >= _REMEMBERED_MAX:
            self._usual.clear()
        method, name, caller, backend = (orjson.dumps(self._cleaned(value)).decode() for value in named)
        before = f'","level":"info","logger":"agent.mcp","event":"{EVENT}","method":{method},"mcp_name":{name}'
        around = f'{before},"caller":{caller},"request_id":', f',"backend":{backend},"outcome":"ok","ms":'
        self._usual[named] = around
        return around

    def _put(self, level: int, rest: str) -> None:
        """Add a line; `rest`: all of it but its time."""
        now_s = time.time()
        second = int(now_s)
        if second != self._second:
            self._second = second
            self._began = time.strftime('{"time":"%Y-%m-%dT%H:%M:%S', time.gmtime(second))
        waiting = self._waiting
        waiting.append((level, f"{self._began}.{int((now_s - second) * 1000):03d}Z{rest}"))
        if len(waiting) == 1:
            try:
                loop = asyncio.get_running_loop()
                if loop is not self._loop:
                    self._loop, self._turn = loop, turn_of(loop)
                self._turn.at_end(self.flush)
            except RuntimeError:  # There is no loop, so no turn that ends.
                self.flush()
        elif len(waiting) >= _LINES_MAX:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        self._keep(waiting)
        if lines := "".join([line for level, line in waiting if level >= self._threshold]):
            self._write(lines)

    def _json(self, key: str, value: str) -> str:
        if key in _NEVER_AGAIN:
            return orjson.dumps(self._cleaned(value)).decode()
        if len(self._remembered) >= _REMEMBERED_MAX:
            self._remembered.clear()
        known = self._remembered[value] = orjson.dumps(self._cleaned(value)).decode()
        return known


def request_line(level: int, fields: Mapping[str, str | float | None]) -> None:
    """Write the line of one request, if its level is wanted. Numbers have to be finite."""
    if not log.isEnabledFor(level):
        return
    lines = _lines()
    if lines is None:
        log.log(level, EVENT, extra=dict(fields))
    else:
        lines.add(level, fields)


def usual_line(named: tuple[str, str, str, str], request_id: str | float, ms: float) -> None:
    """As `request_line`, of a call that was answered as most are: see `RequestLines.usual`."""
    if not log.isEnabledFor(logging.INFO):
        return
    lines = _lines()
    if lines is None:
        fields = dict(zip(("method", "mcp_name", "caller"), named, strict=False))
        log.info(EVENT, extra={**fields, "request_id": request_id, "backend": named[3], "outcome": "ok", "ms": ms})
    else:
        lines.usual(named, request_id, ms)


def _lines() -> RequestLines | None:
    """What writes lines without records; None where they have to be records."""
    handlers = logging.root.handlers
    lines: RequestLines | None = getattr(handlers[0], "requests", None) if len(handlers) == 1 else None
    return None if log.handlers or not log.propagate else lines
