"""Definitions whose schemas are written as their server wrote them: spelling of numbers, escapes, white space and all.

Called by links for each page of a list, and by whoever writes definitions. The one rule: a value is read as it always
was; only what orjson would write differently carries its own bytes. An ordinary server's list costs one comparison, one
with spaces in it 27 µs a tool.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import orjson

from agent.core.raw_json import RawObject, exact
from agent.model import Json

# We write this one ourselves.
_OURS: Final = "_meta"
_SPACE: Final = re.compile(r"[ \t\r\n]*")
# Used for where values end; numbers need no reading for that.
_DECODER: Final = json.JSONDecoder(parse_int=str, parse_float=str)


def keep_schemas(page: Json, key: str) -> Any:
    """What stands under `key` of a list's page, its entries' objects with their bytes where these tell more.

    Returns whatever is there when it is no list of objects.
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
        if isinstance(entry, dict) and orjson.dumps(entry) != text[start:end].encode():
            raw = {name: text[first:last].encode() for name, first, last in _members(text, start)}
            yield {name: _with_bytes(name, value, raw[name]) for name, value in entry.items()}
        else:
            yield entry


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
    found = _SPACE.match(text, place)
    assert found is not None
    return found.end()
