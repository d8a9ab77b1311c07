"""One log format for everything: lines of text on stderr of a terminal, else one JSON object a line on stdout.

Configured once by the command line; all other code writes `log.info("link ready", extra={"peer": name})`, a constant
event with fields. The one rule: a record is one harmless line (a traceback's lines are indented), and no secret that
the process was given leaves through it.
"""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

import orjson

from agent import traffic_log
from agent.harmless_text import many_lines, one_line
from agent.log_ring import LogRing
from agent.model import MASK

# Every MCP request is a line of this logger; its lines carry the word MCP, so that `docker logs … | grep MCP` has them.
TRAFFIC_LOGGER = traffic_log.log.name
VALUE_CHARS_MAX = 2000  # A field is a name, an address or a reason; a longer value is a payload.
TRACEBACK_CHARS_MAX = 20_000
SECRET_CHARS_MIN = 8  # Shorter ones are ordinary words, and hiding those would only spoil the log.
# Third parties that have formats of their own, write payloads at DEBUG, or write a line a request.
_QUIET = ("aiohttp.access", "asyncio", "fastmcp", "httpcore2", "httpx2", "mcp", "urllib3")
_NOT_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SECRET_FIELD = re.compile(r"(?i)token|secret|password|authorization|cookie")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{4,}")
_PLAIN = re.compile(r"[^\s\"'=]+")


def configure_logging(level: str, fmt: str, stream: TextIO | None = None, *, secrets: Collection[str] = ()) -> None:
    """Take over the root logger; later calls replace earlier ones.

    `level` is debug, info, warning or error; `fmt` auto, text or json; `stream`: by default stderr for text, stdout for
    JSON, which `docker logs <container> | grep MCP` filters. `secrets` are values that are masked wherever they turn
    up, as a second net below the rule that no code logs them.
    """
    as_text = fmt == "text" or (fmt == "auto" and (stream or sys.stderr).isatty())
    threshold = logging.getLevelNamesMapping()[level.upper()]
    handler = _Handler(stream or (sys.stderr if as_text else sys.stdout), threshold, JsonFormatter(secrets))
    if as_text:
        handler.setFormatter(TextFormatter(secrets))
    else:
        clean = handler.as_json.cleaner.value
        handler.requests = traffic_log.RequestLines(clean, handler.write, handler.ring.add_all, threshold)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    quiet_vendors()


def kept_lines() -> LogRing:
    """The newest lines of the log; none where it is not ours, as in a test."""
    handlers = [one for one in logging.getLogger().handlers if isinstance(one, _Handler)]
    return handlers[0].ring if handlers else LogRing(lambda _level: None)


def quiet_vendors() -> None:
    """Take third parties' handlers and chatter away: one format, and no payloads."""
    # FastMCP adds handlers with a format of their own when it is imported, which may be before or after this call.
    os.environ["FASTMCP_LOG_ENABLED"] = "false"
    for name in _QUIET:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING)


def log_uncaught(kind: type[BaseException], fault: BaseException, trace: TracebackType | None) -> None:
    """Log what ends the process, in the format of everything else; for `sys.excepthook`."""
    logging.getLogger("agent").critical("the process ends by a bug", exc_info=(kind, fault, trace))


class _Handler(logging.StreamHandler[TextIO]):
    """Writes records, and between them the lines of requests, which have none, in their order.

    `threshold`: of what is written; `ring` keeps less severe ones, too, while a reader wants them.
    """

    requests: traffic_log.RequestLines | None = None

    def __init__(self, stream: TextIO, threshold: int, as_json: "JsonFormatter") -> None:
        super().__init__(stream)
        self.setFormatter(as_json)
        self.as_json, self._threshold = as_json, threshold
        self.ring = LogRing(self._heard_from)

    def _heard_from(self, wanted: int | None) -> None:
        logging.getLogger().setLevel(self._threshold if wanted is None else min(wanted, self._threshold))

    def emit(self, record: logging.LogRecord) -> None:
        """As `logging.StreamHandler`."""
        if self.requests is not None:
            self.requests.flush()
        try:
            self.ring.add(record.levelno, self.as_json.format(record))
        except Exception:  # noqa: BLE001 - as `logging.Handler` does it: a record must not break what logs it
            self.handleError(record)
            return
        if record.levelno >= self._threshold:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """As `logging.StreamHandler`, but a log that cannot be written is no reason to fill stderr with traces."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)

    def flush(self) -> None:
        """As `logging.StreamHandler`; also at the end of the process."""
        if self.requests is not None:
            self.requests.flush()
        super().flush()

    def write(self, lines: str) -> None:
        """Write whole lines. A log that cannot be written must not cost a request its answer."""
        with self.lock or contextlib.nullcontext():
            try:
                self.stream.write(lines)
                self.stream.flush()
            except (OSError, ValueError):
                pass  # Not `suppress`, an object more for each call.


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "logger", "event", …fields, "traceback"?}` on one line."""

    def __init__(self, secrets: Collection[str] = ()) -> None:
        super().__init__()
        self.cleaner = _Cleaner(secrets)

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": self.cleaner.event(record),
        }
        # A field must not pass itself off as one of ours.
        line |= {key if key not in line else f"{key}_": value for key, value in self.cleaner.fields(record)}
        if traceback := self.cleaner.traceback(self, record):
            line["traceback"] = traceback
        return orjson.dumps(line).decode()


class TextFormatter(logging.Formatter):
    """`time LEVEL logger: event  field=value …`, a traceback below it with each line marked."""

    def __init__(self, secrets: Collection[str] = ()) -> None:
        super().__init__()
        self.cleaner = _Cleaner(secrets)

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        head = f"{_time(record)} {record.levelname:<7} {record.name}: {self.cleaner.event(record)}"
        words = [f"{key}={_as_word(value)}" for key, value in self.cleaner.fields(record)]
        line = "  ".join([head, " ".join(words)]) if words else head
        traceback = self.cleaner.traceback(self, record)
        return "\n  | ".join([line, *traceback.splitlines()])


class _Cleaner:
    """Takes a record's parts out, harmless and without secrets."""

    def __init__(self, secrets: Collection[str]) -> None:
        known = sorted((re.escape(text) for text in secrets if len(text) >= SECRET_CHARS_MIN), key=len, reverse=True)
        self.secrets = re.compile("|".join(known)) if known else None

    def event(self, record: logging.LogRecord) -> str:
        event = self.text(record.getMessage())
        return f"MCP {event}" if record.name == TRAFFIC_LOGGER and "MCP" not in event else event

    def fields(self, record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
        for key, value in vars(record).items():
            if key not in _NOT_FIELDS:
                # A count (`tokens=2`) is no secret, whatever it counts.
                masked = _SECRET_FIELD.search(key) and isinstance(value, str) and value
                yield one_line(key, 100), MASK if masked else self.value(value)

    def value(self, value: Any) -> Any:
        match value:
            case None | bool() | float():
                return value
            case int():
                # JSON readers in other languages lose digits past 64 bits, and orjson refuses them.
                return int(value) if abs(value) < 1 << 63 else str(value)[:VALUE_CHARS_MAX]
            case list() | tuple() | set() | frozenset():
                return [self.text(str(part)) for part in list(value)[:100]]
            case _:
                return self.text(str(value))

    def traceback(self, formatter: logging.Formatter, record: logging.LogRecord) -> str:
        parts = [formatter.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
        if record.stack_info:
            parts.append(formatter.formatStack(record.stack_info))
        return self.masked(many_lines("\n".join(parts)[-TRACEBACK_CHARS_MAX:]))

    def text(self, text: str) -> str:
        return self.masked(one_line(text, VALUE_CHARS_MAX))

    def masked(self, text: str) -> str:
        text = _BEARER.sub(rf"\1 {MASK}", text)
        return text if self.secrets is None else self.secrets.sub(MASK, text)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _as_word(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    return orjson.dumps(value).decode()
