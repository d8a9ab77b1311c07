"""An incremental parser of server-sent events (WHATWG HTML, "Event stream interpretation"). PURE.

Called by the HTTP clients with the bytes of an answer as they come. Hands out the `data` of each complete `message`
event, and keeps what a client needs to resume a stream (event ID, `retry`) and to open a session of the old HTTP+SSE
transport (`endpoint`). The one rule: an event that is not complete is never handed out, so a stream that breaks in
mid-event loses that event whole, its ID too.
"""

from typing import Final

_MESSAGE: Final = (b"", b"message")
_ENDPOINT: Final = b"endpoint"
_BOM: Final = b"\xef\xbb\xbf"
# Longer IDs are no IDs: they travel in a header.
_ID_BYTES_MAX: Final = 1024
_RETRY_DIGITS_MAX: Final = 9


class EventTooLarge(ValueError):
    """An event grew beyond the limit before it was complete."""


class SseParser:
    """Fed with chunks cut anywhere, also between CR and LF or within the byte-order mark.

    `event_bytes_max` bounds what is held for one event, unfinished line included. `last_id` is the ID of the last
    complete event that has one, `retry_ms` the pause before a reconnection that the server asks for, `endpoint` the
    data of the last event of that name.
    """

    __slots__ = (
        "_at_start",
        "_data",
        "_data_bytes",
        "_event",
        "_event_bytes_max",
        "_id",
        "_pending",
        "_pending_bytes",
        "_skip_lf",
        "endpoint",
        "last_id",
        "retry_ms",
    )

    def __init__(self, event_bytes_max: int, last_id: bytes = b"", retry_ms: int | None = None) -> None:
        """`last_id`, `retry_ms`: of the connection before, where a stream is taken up again."""
        self.last_id = last_id
        self.retry_ms = retry_ms
        self.endpoint: bytes | None = None
        self._event_bytes_max = event_bytes_max
        self._id = last_id
        self._pending: list[bytes] = []  # Pieces of the unfinished line; joined once, so large events stay linear.
        self._pending_bytes = 0
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._event = b""
        self._skip_lf = False
        self._at_start = True

    def __repr__(self) -> str:
        """How much is held."""
        return f"<SseParser {len(self._data)} data lines, {self._data_bytes + self._pending_bytes} bytes held>"

    @property
    def unfinished_bytes(self) -> int:
        """The size of the line that has begun and not ended."""
        return self._pending_bytes

    def begun_data(self) -> bytes | None:
        """What has come of an event that is one line so far, and that line of data; None for any other."""
        if self._data or self._event not in _MESSAGE:
            return None
        self._pending[:] = [b"".join(self._pending)]
        name, colon, value = self._pending[0].partition(b":")
        return value.removeprefix(b" ") if name == b"data" and colon else None

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of every message event that `chunk` completes. Raises `EventTooLarge`."""
        if self._skip_lf and chunk:
            self._skip_lf = False
            if chunk.startswith(b"\n"):
                chunk = chunk[1:]
        if not chunk:
            return []
        if b"\r" in chunk:
            self._skip_lf = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = chunk.split(b"\n")
        events: list[bytes] = []
        for piece in lines:
            line = self._complete(piece)
            if line:
                self._field(line)
            else:
                self._dispatch(events)
        if rest:
            self._pending.append(rest)
            self._pending_bytes += len(rest)
            self._check_size()
        return events

    def _complete(self, piece: bytes) -> bytes:
        line = b"".join((*self._pending, piece)) if self._pending else piece
        self._pending.clear()
        self._pending_bytes = 0
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        return line

    def _field(self, line: bytes) -> None:
        colon = line.find(b":")
        name = line if colon < 0 else line[:colon]
        # Cut once: a line may have megabytes.
        value = b"" if colon < 0 else line[colon + (2 if line.startswith(b" ", colon + 1) else 1) :]
        if name == b"data":
            # With the breaks between lines: empty ones are kept, too.
            self._data_bytes += len(value) + bool(self._data)
            self._data.append(value)
            self._check_size()
        elif name == b"event":
            self._event = value
        elif name == b"id" and b"\0" not in value:
            self._id = value if len(value) <= _ID_BYTES_MAX else b""
        elif name == b"retry" and value.isdigit() and len(value) <= _RETRY_DIGITS_MAX:
            self.retry_ms = int(value)

    def _dispatch(self, events: list[bytes]) -> None:
        self.last_id = self._id  # Of an event without data, too: a priming event (MCP 2025-11-25, transports).
        if self._data and self._event == _ENDPOINT:
            self.endpoint = b"\n".join(self._data)
        elif self._data and self._event in _MESSAGE:
            data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
            # An event without data is a priming event of resumable servers.
            if data:
                events.append(data)
        self._data.clear()
        self._data_bytes = 0
        self._event = b""

    def _check_size(self) -> None:
        if self._data_bytes + self._pending_bytes > self._event_bytes_max:
            raise EventTooLarge(f"one server-sent event is larger than {self._event_bytes_max} bytes")
