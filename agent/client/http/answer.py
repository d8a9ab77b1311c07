"""Reading an HTTP/1.1 answer from bytes, however they are cut: its head, and where its body ends (RFC 9112).

Used by `agent.client.http.connection` alone; pure. The one rule: an answer that says in two ways where it ends, or in a
way that two readers may take differently, is refused, since its rest would be taken for the next answer.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, Protocol, TypeAlias

from multidict import CIMultiDict, CIMultiDictProxy

from agent.client.http.same_head import SameHead, same_head
from agent.client.http.silence import MayBeSilence

# Far more than servers send; what browsers take at least.
FIELDS_MAX: Final = 128
FIELD_BYTES_MAX: Final = 8_190
# The size of a chunk, with its extensions, which are of no interest.
_SIZE_LINE_BYTES_MAX: Final = 4_096
# In digits: less than 2**64 in either notation, which C programs count in.
_LENGTH_DIGITS_MAX: Final = 18
_SIZE_DIGITS_MAX: Final = 15

# Usual heads have some hundred bytes.
_USUAL_BYTES_MAX: Final = 1_024
_HEADS_REMEMBERED_MAX: Final = 64
# What comes in two or three reads; larger ones go on while they come.
_WHOLE_BYTES_MAX: Final = 256 << 10
# What a reader of usual answers need not look at has none of these.
_JSON: Final = "application/json"
_UNUSUAL: Final = ("Content-Encoding", "Set-Cookie")
_OK: Final = 200

_LENGTH: Final = re.compile(rb"\r\nContent-Length: *([0-9]{1,9})\r\n", re.IGNORECASE)
# As most servers write it: looking for that from there on takes a tenth of the time. -1 is the beginning.
_LENGTH_LINE: Final = b"\r\nContent-Length: "
# As nodes write it, in letters and digits; a head in which it is written otherwise, or twice, is another one each time.
_PROOF_LINE: Final = b"\r\nMesh-Proof: "
# Of one second, in the one form that servers write (RFC 9110, section 5.6.7), up to the line's end.
_DATE_LINE: Final = b"\r\nDate: "
_SMALL_DATE_LINE: Final = _DATE_LINE.lower()  # As uvicorn and hyper write it.
_DATE_BYTES: Final = len(b"\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT")
_BEGINNING: Final = b"HTTP/1."
_END: Final = b"\r\n\r\n"
_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110, section 5.6.2
_TEXT: Final = r"[^\x00-\x08\x0a-\x1f\x7f]*"
# A line may end with LF alone (RFC 9112, section 2.2).
_HEAD: Final = re.compile(rf"HTTP/1\.([01]) ([1-9][0-9]{{2}})(?: {_TEXT})?\r?\n((?:{_TOKEN}:{_TEXT}\r?\n)*)")
_FIELD: Final = re.compile(r"([^:]+):([^\r\n]*)\r?\n")
_TRAILER: Final = re.compile(rf"{_TOKEN}:{_TEXT}")
_FOLD: Final = re.compile(r"\r?\n[ \t]+")
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]+)[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?\r?\n")

_FIRST_FINAL_STATUS: Final = 200
_BODYLESS: Final = frozenset({204, 304})


class BadAnswer(Exception):
    """The bytes are no answer. The text reads on after "does not speak HTTP: "."""


class ConnectionBroken(MayBeSilence, ConnectionError):
    """The connection ended before the answer was complete. The text reads on after the server's name."""


# What this node has done itself. What precedes the server's name says whether the call was executed, and so what to do.
LINK_ENDED: Final = "had not answered when this node ended its link to it"
HEARD_NO_MORE: Final = "had not answered when this node heard it no more"
ANSWER_GIVEN_UP: Final = "had not answered in full when this node gave up its answer"
NEEDED_NO_LONGER: Final = "had a connection closed that this node needed no longer"


class NotHttp(ConnectionBroken):
    """The bytes are not valid HTTP/1.1, so the end of an answer cannot be known."""


@dataclass(frozen=True, slots=True)
class Head:
    """An answer's head. `closing`: the connection ends with it.

    `length`: of the body in bytes; None for one in chunks (`in_chunks`), or that ends with the connection.
    """

    status: int
    headers: CIMultiDictProxy[str]
    closing: bool
    length: int | None
    in_chunks: bool

    @property
    def is_final(self) -> bool:
        """Whether no other answer to the request follows."""
        return self.status >= _FIRST_FINAL_STATUS

    @property
    def is_usual(self) -> bool:
        """Whether all that it says is that so many bytes of JSON follow, and that the connection stays."""
        is_json = self.headers.get("Content-Type", "").partition(";")[0].strip().lower() == _JSON
        is_framed = self.status == _OK and self.length is not None and not self.closing
        return is_json and is_framed and not any(name in self.headers for name in _UNUSUAL)


# A head, and how it is known again.
KnownHead: TypeAlias = tuple[SameHead, Head]


class WholeAnswer(NamedTuple):
    """A usual answer: its `body`, and what a node proves itself with (`agent.identity.association`), if it does.

    `head` is that of an answer before it, so its length and proof are not this one's. `known`: by which the next one is
    known at once, if it has the same head.
    """

    head: Head
    body: bytes
    proof: str | None
    known: KnownHead | None


class Taker(Protocol):
    """Who sent a request without waiting for its answer. Called by its connection; never raises."""

    def take(self, answer: WholeAnswer) -> None:
        """A usual answer has come, whole."""
        ...

    def wait(self) -> None:
        """Another answer comes, or none: the connection's `wait` is called before this returns."""
        ...


# Heads that came before, and say nothing unusual, by their bytes but for length, date and proof.
_usual_heads: Final[dict[bytes, Head]] = {}


def whole_answer(data: bytes, known: KnownHead | None = None) -> WholeAnswer | None:
    """The usual answer that these bytes are from beginning to end. `known`: of the answer before on its connection.

    None where that is not certain at a glance: for a head that did not come before, too.
    """
    if known is not None and (begins := known[0].again(data, known[1])) is not None:
        if (end := begins.head_bytes) + begins.body_bytes != len(data):
            return None
        # As the class makes it, without a call in between.
        return tuple.__new__(WholeAnswer, (begins.head, data[end:], begins.proof, known))
    end = data.find(_END) + len(_END)
    length = _LENGTH.search(data, data.find(_LENGTH_LINE, 0, end), end)
    if length is None or int(length[1]) != len(data) - end:
        return None
    key, proof = _without_own(data[:end], length)
    if (usual := _usual_heads.get(key)) is None:
        return None
    same = same_head(data[:end])
    return WholeAnswer(usual, data[end:], proof, None if same is None else (same, usual))


def begins_usual(data: bytes) -> bool:
    """Whether these bytes are the beginning of a usual answer of a size that is waited for."""
    end = data.find(_END) + len(_END)
    length = _LENGTH.search(data, data.find(_LENGTH_LINE, 0, end), end)
    if length is None or not len(data) - end < int(length[1]) <= _WHOLE_BYTES_MAX:
        return False
    return _without_own(data[:end], length)[0] in _usual_heads


def _without_own(head: bytes, length: re.Match[bytes]) -> tuple[bytes, str | None]:
    """A head without what each answer has of its own, and the proof in it."""
    start, end = length.span(1)
    key = head[:start] + head[end:]
    if (at := key.find(_DATE_LINE)) < 0:
        at = key.find(_SMALL_DATE_LINE)
    if at >= 0 and key[at + len(_DATE_LINE) : at + _DATE_BYTES].translate(None, b" ,:").isalnum():
        # Anything else is no date, or holds another field. Its name stays: what follows it joins no line before.
        key = key[: at + len(_DATE_LINE)] + key[at + _DATE_BYTES :]
    at = key.find(_PROOF_LINE)
    if at < 0:
        return key, None
    start = at + len(_PROOF_LINE)
    end = key.find(b"\r", start)
    shown = key[start:end]
    if not shown.isalnum():  # A head of its own, as a line feed would hide another field.
        return b"\0" + key, None
    return key[:start] + key[end:], shown.decode()


def end_of_head(data: bytes) -> int | None:
    """How many bytes the head at the beginning of `data` has, with the empty line; None while it is not complete.

    Raises `BadAnswer` for what cannot become one.
    """
    if not data.startswith(_BEGINNING) and not _BEGINNING.startswith(data):
        raise BadAnswer("it begins with something else")
    usual = data.find(b"\n\r\n")
    bare = data.find(b"\n\n", 0, usual if usual >= 0 else len(data))
    if bare >= 0:
        return bare + 2
    if usual >= 0:
        return usual + 3
    if len(data) > FIELDS_MAX * FIELD_BYTES_MAX:
        raise BadAnswer("its head does not end")
    return None


def parsed_head(data: bytes) -> Head:
    """The head in exactly these bytes. Raises `BadAnswer`.

    A server sends the same one again and again, for a second at least, which is as long as its `Date` stays.
    """
    if len(data) > _USUAL_BYTES_MAX:
        return _parsed(data)
    head = _usual_head(data)
    length = _LENGTH.search(data, data.find(_LENGTH_LINE))
    if head.is_usual and data.find(_END) + len(_END) == len(data) and length is not None:
        if len(_usual_heads) >= _HEADS_REMEMBERED_MAX:
            _usual_heads.clear()
        _usual_heads[_without_own(data, length)[0]] = head
    return head


def _parsed(data: bytes) -> Head:
    text = data.decode("utf-8", "surrogateescape")
    if "\n " in text or "\n\t" in text:
        text = _FOLD.sub(" ", text)  # RFC 9112, section 5.2.
    text = text[: -2 if text.endswith("\r\n") else -1]  # The empty line.
    match = _HEAD.fullmatch(text)
    if match is None:
        raise BadAnswer("its head is malformed")
    if len(text) > FIELD_BYTES_MAX and max(map(len, text.split("\n"))) > FIELD_BYTES_MAX:
        raise BadAnswer(f"a field of its head is larger than {FIELD_BYTES_MAX} bytes")
    minor, status, fields = match.groups()
    headers = CIMultiDictProxy(CIMultiDict([(name, value.strip(" \t")) for name, value in _FIELD.findall(fields)]))
    if len(headers) > FIELDS_MAX:
        raise BadAnswer(f"its head has more than {FIELDS_MAX} fields")
    return _framed(int(status), headers, is_old=minor == "0")


_usual_head = lru_cache(maxsize=_HEADS_REMEMBERED_MAX)(_parsed)


def _framed(status: int, headers: CIMultiDictProxy[str], *, is_old: bool) -> Head:
    """RFC 9112, section 6.3. One without a body may say how long the body would be."""
    options = headers.get("Connection")
    closing = is_old if options is None else _closes(headers.getall("Connection"), is_old=is_old)
    declared, codings = headers.get("Content-Length"), headers.get("Transfer-Encoding")
    length = None
    if declared is not None:
        if codings is not None or len(headers.getall("Content-Length")) > 1:
            raise BadAnswer("it says twice where it ends")
        if not (declared.isascii() and declared.isdigit()) or len(declared) > _LENGTH_DIGITS_MAX:
            raise BadAnswer("its length is no number of bytes")
        length = int(declared)
    if status < _FIRST_FINAL_STATUS or status in _BODYLESS:
        return Head(status, headers, closing, 0, in_chunks=False)
    in_chunks = codings is not None and _are_chunked(headers.getall("Transfer-Encoding"))
    closing = closing or (length is None and not in_chunks) or (in_chunks and is_old)
    return Head(status, headers, closing, length, in_chunks)


def _closes(options: list[str], *, is_old: bool) -> bool:
    named = {option.strip().lower() for option in ",".join(options).split(",")}
    return "close" in named or (is_old and "keep-alive" not in named)


def _are_chunked(codings: list[str]) -> bool:
    """Whether the last coding is `chunked`; in any other the body ends with the connection."""
    return ",".join(codings).rpartition(",")[2].strip().lower() == "chunked"


class Body:
    """The body of one answer, by what its head says of it."""

    __slots__ = ("_chunks", "_left")

    def __init__(self, head: Head) -> None:
        self._left = head.length
        self._chunks = Chunks() if head.in_chunks else None

    def __repr__(self) -> str:
        return f"<Body {self._chunks or self._left}>"

    @property
    def is_over(self) -> bool:
        """Whether all of it has come."""
        return self._left == 0 if self._chunks is None else self._chunks.done

    @property
    def may_end_with_connection(self) -> bool:
        """Whether the end of the connection is the only end that it has."""
        return self._left is None and self._chunks is None

    def fed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """The parts of it in these bytes, and what comes after its end. Raises `BadAnswer`."""
        if self._chunks is not None:
            return self._chunks.fed(data)
        if self._left is None:
            return [data], b""
        part, rest = (data, b"") if len(data) <= self._left else (data[: self._left], data[self._left :])
        self._left -= len(part)
        return [part] if part else [], rest


class Chunks:
    """The body of one answer in chunks (RFC 9112, section 7.1). `done` after the trailers, which are dropped."""

    __slots__ = ("_held", "_left", "_stage", "_trailers", "done")

    def __init__(self) -> None:
        self._stage = _SIZE_LINE
        self._held = b""
        self._left = self._trailers = 0
        self.done = False

    def __repr__(self) -> str:
        return f"<Chunks {'done' if self.done else self._stage}>"

    def fed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """The parts of the body in these bytes, and what comes after the end of it. Raises `BadAnswer`."""
        parts: list[bytes] = []
        if self._held:
            data, self._held = self._held + data, b""
        at = 0
        while at < len(data) and not self.done:
            if self._stage is _IN_CHUNK:
                part = data[at : at + self._left]
                parts.append(part)
                at += len(part)
                self._left -= len(part)
                if not self._left:
                    self._stage = _CHUNK_END
                continue
            end = data.find(b"\n", at) + 1
            if not end:
                self._held = self._unfinished(data[at:])
                return parts, b""
            self._take_line(data[at:end])
            at = end
        return parts, data[at:]

    def _unfinished(self, line: bytes) -> bytes:
        too_long = len(line) > (FIELD_BYTES_MAX if self._stage is _TRAILER_LINE else _SIZE_LINE_BYTES_MAX)
        if too_long or (self._stage is _CHUNK_END and line != b"\r"):
            raise BadAnswer("a chunk of it is malformed")
        return line

    def _take_line(self, line: bytes) -> None:
        if self._stage is _CHUNK_END:
            if line not in (b"\r\n", b"\n"):
                raise BadAnswer("a chunk of it is longer than it says")
            self._stage = _SIZE_LINE
        elif self._stage is _SIZE_LINE:
            match = _SIZE.fullmatch(line)
            if match is None or len(match[1].lstrip(b"0")) > _SIZE_DIGITS_MAX or len(line) > _SIZE_LINE_BYTES_MAX:
                raise BadAnswer("a chunk of it has no size")
            self._left = int(match[1], 16)
            self._stage = _IN_CHUNK if self._left else _TRAILER_LINE
        elif line in (b"\r\n", b"\n"):
            self.done = True
        else:
            self._trailers += 1
            text = line.decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")
            if self._trailers > FIELDS_MAX or len(line) > FIELD_BYTES_MAX or not _TRAILER.fullmatch(text):
                raise BadAnswer("its trailers are malformed")


_SIZE_LINE: Final = "waits for a size"
_IN_CHUNK: Final = "in a chunk"
_CHUNK_END: Final = "after a chunk"
_TRAILER_LINE: Final = "in the trailers"
