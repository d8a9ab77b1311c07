"""Objects beside the bytes that they were read from, so that an unchanged object is passed on byte for byte.

Called by the clients for every message that they read; the endpoints write `raw` where they can. The one rule: `raw` is
one complete JSON object without a line break, so its author can break neither the message nor the event that it is put
into.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

import orjson

from agent.lossless_json.exact import may_have_changed, read_json
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
# The beginning of a response up to its result or error; no other line of a program's output has it.
_OPENING: Final = re.compile(
    _SPACE.join((b"", rb"\{", rb"(?:" + _VERSION + _SPACE + rb",)?", _ID, b",", rb"(?:" + _VERSION + _SPACE + rb",)?"))
    + _SPACE
    + rb'"(?:result|error)"'
)
_ENDING: Final = re.compile(
    _SPACE.join(
        (rb",(?:" + _SPACE + _VERSION + _SPACE + rb",)?", _ID, rb"(?:," + _SPACE + _VERSION + rb")?", rb"\}", b"")
    )
    + rb"\Z"
)
# More than the longest end of an envelope in honest white space.
END_BYTES_MAX: Final = 96
# Of the answer to a request of ours as most servers write it, up to the first byte of its result.
_ANSWER: Final = b'{"jsonrpc":"2.0","id":%d,"result":{'
# Up to here a copy of a result costs less than a view of it, which all that look into it have to copy.
_COPIED_BYTES_MAX: Final = 4096
# As numbers: one byte is found so in a tenth of the time.
_LINE_FEED, _RETURN = b"\n\r"
_LINE_BREAKS: Final = bytes.maketrans(b"\r\n", b"  ")

# This member we write ourselves.
_OURS: Final = "_meta"
_SCHEMA_SPACE: Final = re.compile(r"[ \t\r\n]*")
# Finds the ends of values; numbers need not be read for that.
_DECODER: Final = json.JSONDecoder(parse_int=str, parse_float=str)


class RawObject(dict[str, Any]):
    """A JSON object as it was read, and its bytes. Never changed in place; a changed copy of it is an ordinary dict."""

    __slots__ = ("raw",)

    def __init__(self, value: Json, raw: Bytes) -> None:
        super().__init__(value)
        self.raw = raw


def exact(value: Json) -> Json:
    """The object with each number as it was written (see `agent.lossless_json.exact`), to be written anew."""
    if isinstance(value, RawObject) and may_have_changed(value.raw, value):
        exactly: Json = read_json(value.raw)
        return exactly
    return value


def read_response(message: bytes, asked: int | None = None) -> Json | None:
    """A response with its result as a `RawObject`; None for every other message and every other order of members.

    The result is read by itself, so it is one value and nothing else stands in the envelope. `asked`: the ID of the
    request that it most likely answers.
    """
    if asked is not None and message.startswith(beginning := _ANSWER % asked) and message.endswith(b"}"):
        request_id, begin, end = asked, len(beginning) - 1, len(message) - 1
    elif (found := _result_in(message)) is not None:
        request_id, begin, end = found
    else:
        return None
    raw: Bytes = message[begin:end] if end - begin <= _COPIED_BYTES_MAX else memoryview(message)[begin:end]
    try:
        result = orjson.loads(raw)
    except orjson.JSONDecodeError:
        try:
            result = read_json(raw)  # For a number or a text that orjson refuses.
        except orjson.JSONDecodeError:
            return None
    if (_LINE_FEED in message or _RETURN in message) and (
        message.find(b"\n", begin, end) >= 0 or message.find(b"\r", begin, end) >= 0
    ):
        # In JSON they are white space wherever they stand; in an event they would end it.
        raw = bytes(raw).translate(_LINE_BREAKS)
    return {"jsonrpc": "2.0", "id": request_id, "result": RawObject(result, raw)}


def answered_id(message: bytes) -> int | None:
    """The ID of the request that a message answers by its envelope, though it is no JSON; None for all else.

    A message that is cut off is none: programs print the beginnings of what they send.
    """
    if not message.rstrip().endswith(b"}"):
        return None
    if (opening := _OPENING.match(message)) is not None:
        return int(opening[1])
    found = _result_in(message)
    return None if found is None else found[0]


def answered_id_of_ends(head: bytes, tail: bytes | None) -> int | None:
    """The ID of the request that a response answers, by its first and last bytes; `tail` None: no end has come yet.

    Directly before the last brace stand members of the envelope, since no number is followed by the end of a text.
    """
    if (opening := _OPENING.match(head)) is not None:
        return int(opening[1])
    if tail is None or _RESULT_FIRST.match(head) is None:
        return None
    end = _ENDING.search(tail)
    return None if end is None else int(end[1])


def response_head(held: bytes) -> tuple[int | None, int] | None:
    """The request's ID, if it comes before the result, and where the result begins; of a message that has begun."""
    if head := _RESULT_LAST.match(held):
        return int(head[1]), head.end()
    head = _RESULT_FIRST.match(held)
    return (None, head.end()) if head else None


def ends_response(rest: bytes, request_id: int | None) -> bool:
    """Whether `rest`, behind the result, ends the message; `request_id`: the ID, if it has to come there."""
    rest = rest.lstrip()
    if request_id is None:
        return _END.match(rest) is not None
    end = _END_AFTER_RESULT.match(rest)
    return end is not None and int(end[1]) == request_id


def _result_in(message: bytes) -> tuple[int, int, int] | None:
    """The request's ID, and where the result begins and ends, if the message has the envelope of a response."""
    tail = max(0, len(message) - END_BYTES_MAX)
    if head := _RESULT_LAST.match(message):
        if message.endswith(b"}"):  # Most do; else white space follows.
            return int(head[1]), head.end(), len(message) - 1
        end = _END.search(message, tail)
        return (int(head[1]), head.end(), end.start()) if end else None
    if head := _RESULT_FIRST.match(message):
        end = _END_AFTER_RESULT.search(message, tail)
        return (int(end[1]), head.end(), end.start()) if end else None
    return None


def keep_schemas(page: Json, key: str) -> Any:
    """The value of `key` of a list's page, its entries' objects with their bytes where orjson would write others.

    Returns the value unchanged when it is no list of objects.
    """
    if not isinstance(page, RawObject) or _is_as_written(page):
        return page.get(key)
    listed = exact(page).get(key)
    if not isinstance(listed, list):
        return listed
    try:
        return list(_kept(listed, bytes(page.raw).decode(), key))
    except (TypeError, RecursionError):
        return listed  # Nested so deep that no list can hold it.


def write_definition(definition: Json) -> bytes:
    """A definition as JSON."""
    return orjson.dumps(definition, default=_as_written, option=orjson.OPT_PASSTHROUGH_SUBCLASS)


def _is_as_written(page: RawObject) -> bool:
    try:
        return orjson.dumps(page) == page.raw
    except TypeError:
        return False  # Nested too deep to be written.


def _as_written(value: object) -> orjson.Fragment:
    assert isinstance(value, RawObject)
    return orjson.Fragment(bytes(value.raw))


def _kept(entries: Sequence[Any], text: str, key: str) -> Iterator[Any]:
    """Each entry, with the objects in it that orjson would write otherwise as they stand in the page's text."""
    # Of two members of one name the last one counts.
    begin = [begin for name, begin, _ in _members(text, 0) if name == key][-1]
    for entry, (start, end) in zip(entries, _items(text, begin), strict=True):
        if isinstance(entry, dict) and not _is_written_so(entry, text[start:end].encode()):
            raw = {name: text[first:last].encode() for name, first, last in _members(text, start)}
            yield {name: _with_bytes(name, value, raw[name]) for name, value in entry.items()}
        else:
            yield entry


def _is_written_so(entry: Json, raw: bytes) -> bool:
    try:
        return orjson.dumps(entry) == raw
    except TypeError:
        return True  # Nested too deep to be written; the other entries are not.


def _with_bytes(name: str, value: Any, raw: bytes) -> Any:
    if name == _OURS or not isinstance(value, dict) or orjson.dumps(value) == raw:
        return value
    return RawObject(value, raw)


def _members(text: str, start: int) -> Iterator[tuple[str, int, int]]:
    """The name of each member of the object at `start`, and where its value begins and ends."""
    place = _skip(text, start + 1)
    while text[place] != "}":
        name, place = _DECODER.raw_decode(text, place)
        begin = _skip(text, _skip(text, place) + 1)
        _, end = _DECODER.raw_decode(text, begin)
        yield name, begin, end
        place = _after(text, end)


def _items(text: str, start: int) -> Iterator[tuple[int, int]]:
    """Where each item of the array at `start` begins and ends."""
    place = _skip(text, start + 1)
    while text[place] != "]":
        _, end = _DECODER.raw_decode(text, place)
        yield place, end
        place = _after(text, end)


def _after(text: str, end: int) -> int:
    """Where the next one begins, or the closing bracket stands."""
    place = _skip(text, end)
    return _skip(text, place + 1) if text[place] == "," else place


def _skip(text: str, place: int) -> int:
    found = _SCHEMA_SPACE.match(text, place)
    assert found is not None
    return found.end()
