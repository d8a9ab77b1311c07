"""One HTTP/1.1 exchange over a blocking socket, for the command line alone.

Used by `agent.cli.client`. The standard library's client stands on its e-mail parser and on TLS, whose imports cost a
quick command more than its request does. The one rule: what is no HTTP, is cut off or is too large is `HttpFault`, and
never half an answer.
"""

import socket
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from ssl import SSLContext

_HEAD_BYTES_MAX: Final = 65_536
_LINE_BYTES_MAX: Final = 16 * 1024 * 1024
_READ_BYTES: Final = 262_144
_BODILESS: Final = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
_INTERIM_BELOW: Final = 200


class HttpFault(Exception):
    """What came is no whole answer; the text says so after "it"."""


class Connection:
    """A connection for one request. Close it by `with`."""

    def __init__(self, host: str, port: int, *, tls: "SSLContext | None" = None) -> None:
        self._host, self._port, self._tls = host, port, tls
        self._socket: socket.socket | None = None
        self._due_s: float | None = None
        self._silence_s: float | None = None
        self._held = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()

    def open(self, timeout_s: float) -> None:
        """Connect. Raises `OSError`, `TimeoutError` after so many seconds for each address."""
        # As bytes it needs no codec of international names, unless it is one. Typeshed knows of text alone.
        host: Any = self._host.encode("ascii") if self._host.isascii() else self._host
        self._socket = socket.create_connection((host, self._port), timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            self._socket = self._tls.wrap_socket(self._socket, server_hostname=self._host)

    def limit(self, *, due_s: float | None = None, silence_s: float | None = None) -> None:
        """Bound what follows: `due_s`, monotonic seconds for all of it; `silence_s`, between two reads."""
        self._due_s, self._silence_s = due_s, silence_s

    def send(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> "Answer":
        """Send a request and read the head of its answer. Raises `HttpFault`, `OSError`."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        usual = {"Host": f"{host}:{self._port}", "Accept-Encoding": "identity", "Connection": "close"}
        if body is not None or method in ("POST", "PUT", "PATCH"):
            usual["Content-Length"] = str(len(body or b""))
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in {**usual, **headers}.items())]
        if any("\r" in line or "\n" in line for line in lines):
            raise HttpFault("has a header that cannot be sent")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        sock = self._ready()
        sock.sendall(head + (body or b""))
        while True:
            answer = Answer(self, *self._head())
            if answer.status >= _INTERIM_BELOW:
                return answer

    def read(self) -> bytes:
        """What comes next; empty at the end. Raises `OSError`."""
        if self._held:
            held, self._held = self._held, b""
            return held
        return self._ready().recv(_READ_BYTES)

    def keep(self, rest: bytes) -> None:
        """Give back what was read too far."""
        self._held = rest

    def line(self) -> bytes:
        """Up to the next line end, which is included; without one at the end of all. Raises `HttpFault`, `OSError`."""
        found, at = [self.read()], 0
        while found[-1] and b"\n" not in found[-1]:
            at += len(found[-1])
            if at > _LINE_BYTES_MAX:
                raise HttpFault(f"sends a line of more than {_LINE_BYTES_MAX} bytes")
            found.append(self.read())
        line, end, rest = b"".join(found).partition(b"\n")
        self.keep(rest)
        return line + end

    def _ready(self) -> socket.socket:
        assert self._socket is not None, "open() was called"
        left_s = self._silence_s if self._due_s is None else self._due_s - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise TimeoutError
        self._socket.settimeout(left_s)
        return self._socket

    def _head(self) -> tuple[int, dict[str, str]]:
        first = self.line()
        if not first:
            raise HttpFault("closed the connection without an answer")
        version, _, rest = first.decode("latin-1").partition(" ")
        status = rest.strip().partition(" ")[0]
        if not version.startswith("HTTP/1.") or not status.isdigit():
            raise HttpFault(f"does not speak HTTP: {first[:80].decode('latin-1').strip()}")
        headers: dict[str, str] = {}
        size = len(first)
        while (line := self.line()) not in (b"\r\n", b"\n"):
            size += len(line)
            name, colon, value = line.decode("latin-1").partition(":")
            if not line or not colon or size > _HEAD_BYTES_MAX:
                raise HttpFault("does not speak HTTP: its headers have no end")
            headers[name.strip().lower()] = value.strip()
        return int(status), headers


class Answer:
    """The head of an answer, whose body is still to be read. `headers`: by names in lower case."""

    def __init__(self, connection: Connection, status: int, headers: dict[str, str]) -> None:
        self._connection = connection
        self.status, self.headers = status, headers

    @property
    def content_type(self) -> str:
        """The media type without its parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def body(self, bytes_max: int) -> bytes:
        """All of it. Raises `HttpFault`, `OSError`."""
        found: list[bytes] = []
        size = 0
        for chunk in self._chunks():
            size += len(chunk)
            if size > bytes_max:
                raise HttpFault(f"sends an answer that is larger than {bytes_max} bytes")
            found.append(chunk)
        return b"".join(found)

    def lines(self) -> Iterator[bytes]:
        """Each line of the body, without its end, as it comes. Raises `HttpFault`, `OSError`."""
        held = b""
        for chunk in self._chunks():
            *whole, held = (held + chunk).split(b"\n")
            yield from whole
            if len(held) > _LINE_BYTES_MAX:
                raise HttpFault(f"sends a line of more than {_LINE_BYTES_MAX} bytes")
        if held:
            yield held

    def _chunks(self) -> Iterator[bytes]:
        """The body in the parts in which it comes (RFC 9112, section 6.3)."""
        length = self.headers.get("content-length", "")
        if self.status in _BODILESS:
            return
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := self._chunk_size():
                yield from self._exactly(size)
                self._connection.line()
        elif length.isdigit():
            yield from self._exactly(int(length))
        else:
            while chunk := self._connection.read():
                yield chunk

    def _chunk_size(self) -> int:
        line = self._connection.line()
        if not line:
            raise HttpFault("broke off in the middle of its answer")
        try:
            return int(line.partition(b";")[0].strip() or b"x", 16)
        except ValueError:
            raise HttpFault("does not speak HTTP: a part of its answer has no length") from None

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size > 0:
            chunk = self._connection.read()
            if not chunk:
                raise HttpFault("broke off in the middle of its answer")
            if len(chunk) > size:
                self._connection.keep(chunk[size:])
                chunk = chunk[:size]
            size -= len(chunk)
            yield chunk
