"""The line that the log gets for each MCP request, written as JSON without a log record: every call passes here.

Set up by `agent.logs` where the log is JSON; elsewhere (a terminal, a test's own handler) the line is an ordinary
record. Lines of one turn of the event loop go out in one write, before anything that is logged after them. The one
rule: a line says what its record would say, cleaned by the same hand.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

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

    `keep` takes each line with its level; those below `threshold` go there alone.
    """

    def __init__(
        self,
        cleaned: Callable[[Any], Any],
        write: Callable[[str], None],
        keep: Callable[[int, str], None],
        threshold: int,
    ) -> None:
        self._cleaned = cleaned
        self._write, self._keep, self._threshold = write, keep, threshold
        self._waiting: list[str] = []
        self._remembered: dict[str, str] = {}
        self._second = -1
        self._began = ""

    def __repr__(self) -> str:
        return f"<RequestLines waiting={len(self._waiting)}>"

    def add(self, level: int, fields: Mapping[str, str | float | None]) -> None:
        """Write one line, at the end of this turn of the event loop at the latest."""
        now_s = time.time()
        second = int(now_s)
        if second != self._second:
            self._second = second
            self._began = time.strftime('{"time":"%Y-%m-%dT%H:%M:%S', time.gmtime(second))
        name = "info" if level == logging.INFO else logging.getLevelName(level).lower()
        line = (
            f'{self._began}.{int((now_s - second) * 1000):03d}Z","level":"{name}","logger":"agent.mcp",'
            f'"event":"{EVENT}"'
        )
        remembered = self._remembered
        for key, value in fields.items():
            if type(value) is not str:
                line += f',"{key}":{"null" if value is None else repr(value)}'
                continue
            known = remembered.get(value) if key not in _NEVER_AGAIN else None
            line += f',"{key}":{known or self._json(key, value)}'
        line += "}\n"
        self._keep(level, line)
        if level < self._threshold:
            return
        self._waiting.append(line)
        if len(self._waiting) == 1:
            try:
                asyncio.get_running_loop().call_soon(self.flush)
            except RuntimeError:  # There is no loop, so no turn that ends.
                self.flush()
        elif len(self._waiting) >= _LINES_MAX:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self._waiting:
            lines, self._waiting = "".join(self._waiting), []
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
    handlers = logging.root.handlers
    lines: RequestLines | None = getattr(handlers[0], "requests", None) if len(handlers) == 1 else None
    if lines is None or log.handlers or not log.propagate:
        log.log(level, EVENT, extra=dict(fields))
    else:
        lines.add(level, fields)
