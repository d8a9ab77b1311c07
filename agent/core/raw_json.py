"""Objects beside the bytes that they were read from, so that what nobody has to change is passed on as it came.

Called by the doors for every message that they read; the endpoints write `raw` where they can. The one rule: `raw` is
one complete JSON object without a line break, so whoever wrote it can break neither the message nor the event that it
is put into.
"""

import re
from typing import Any, Final, TypeAlias

import orjson

from agent.core.exact_json import may_have_changed, read_json
from agent.model import Json

Bytes: TypeAlias = bytes | memoryview

# The two orders in which servers write a response: Python's and most others, and that of the TypeScript SDK.
_SPACE: Final = rb"[ \t\r\n]*"
_ID: Final = _SPACE.join((rb'"id"', rb":", rb"(0|[1-9][0-9]{0,17})"))
_VERSION: Final = _SPACE.join((rb'"jsonrpc"', rb":", rb'"2\.0"'))
_RESULT: Final = _SPACE.join((rb'"result"', rb":", rb"(?=\{)"))
_RESULT_LAST: Final = re.compile(_SPACE.join((b"", rb"\{", _VERSION, b",", _ID, b",", _RESULT)))
_RESULT_FIRST: Final = re.compile(_SPACE.join((b"", rb"\{", _RESULT)))
_END: Final = re.compile(_SPACE.join((rb"\}", b"")) + rb"\Z")
_END_AFTER_RESULT: Final = re.compile(_SPACE.join((b",", _VERSION, b",", _ID, rb"\}", b"")) + rb"\Z")
# What stands before the result or the error of a response, and nowhere else in a line that a program may print.
_OPENING: Final = re.compile(
    _SPACE.join((b"", rb"\{", rb"(?:" + _VERSION + _SPACE + rb",)?", _ID, b",", rb"(?:" + _VERSION + _SPACE + rb",)?"))
    + _SPACE
    + rb'"(?:result|error)"'
)
# More than the longest end of an envelope in honest white space.
END_BYTES_MAX: Final = 96
_LINE_BREAKS: Final = bytes.maketrans(b"\r\n", b"  ")


class RawObject(dict[str, Any]):
    """A JSON object as it was read, and its bytes. Never changed in place; a changed copy of it is an ordinary dict."""

    __slots__ = ("raw",)

    def __init__(self, value: Json, raw: Bytes) -> None:
        super().__init__(value)
        self.raw = raw


def exact(value: Json) -> Json:
    """The object with each number as it was written (see `agent.core.exact_json`), for who writes it anew."""
    if isinstance(value, RawObject) and may_have_changed(value.raw, value):
        exactly: Json = read_json(value.raw)
        return exactly
    return value


def read_response(message: bytes) -> Json | None:
    """A response with its result as a `RawObject`; None for every other message and every other order of members.

    The result is read by itself, so it is one value and nothing else stands in the envelope.
    """
    found = _result_in(message)
    if found is None:
        return None
    request_id, begin, end = found
    raw: Bytes = memoryview(message)[begin:end]
    try:
        result = orjson.loads(raw)
    except orjson.JSONDecodeError:
        try:
            result = read_json(raw)  # For a number or a text that orjson refuses.
        except orjson.JSONDecodeError:
            return None
    if message.find(b"\n", begin, end) >= 0 or message.find(b"\r", begin, end) >= 0:
        # In JSON they are white space wherever they stand; in an event they would end it.
        raw = bytes(raw).translate(_LINE_BREAKS)
    return {"jsonrpc": "2.0", "id": request_id, "result": RawObject(result, raw)}


def answered_id(message: bytes) -> int | None:
    """The request that a message answers by the looks of its envelope, though it is no JSON; None for all else.

    One that is cut off is none: programs print the beginnings of what they send.
    """
    if not message.rstrip().endswith(b"}"):
        return None
    if (opening := _OPENING.match(message)) is not None:
        return int(opening[1])
    found = _result_in(message)
    return None if found is None else found[0]


def response_head(held: bytes) -> tuple[int | None, int] | None:
    """The request's ID, if it comes before the result, and where the result begins; of a message that has begun."""
    if head := _RESULT_LAST.match(held):
        return int(head[1]), head.end()
    head = _RESULT_FIRST.match(held)
    return (None, head.end()) if head else None


def ends_response(rest: bytes, request_id: int | None) -> bool:
    """Whether what stands behind the result is the end of the message; `request_id`: if it has to come there."""
    rest = rest.lstrip()
    if request_id is None:
        return _END.match(rest) is not None
    end = _END_AFTER_RESULT.match(rest)
    return end is not None and int(end[1]) == request_id


def _result_in(message: bytes) -> tuple[int, int, int] | None:
    """The request's ID, and where the result begins and ends, if the message is what it looks like."""
    tail = max(0, len(message) - END_BYTES_MAX)
    if head := _RESULT_LAST.match(message):
        end = _END.search(message, tail)
        return (int(head[1]), head.end(), end.start()) if end else None
    if head := _RESULT_FIRST.match(message):
        end = _END_AFTER_RESULT.search(message, tail)
        return (int(end[1]), head.end(), end.start()) if end else None
    return None
