"""Reads a large message so that what is large in it stays JSON, an `orjson.Fragment`, which orjson writes unchanged.

Called by `agent.server.request` for a body that is too large to be read whole: read, JSON takes up to forty times its
bytes, and one letter makes a text take four times its own. Objects are read member by member, as far as callers look
into them; an array, a long text and what lies deeper is proven to be JSON (`agent.lossless_json.proof`) and kept as it
came. The one rule: a message that is read here is one for `agent.lossless_json.exact.read_json`, and says the same when
it is written; only where an object was not looked into, members of one name are all kept.

Theory: what is read is bounded by a number of members and of bytes for each place, so a message costs its own bytes and
3 MB at most. Beyond these, the arguments of a call are passed on whole (`Crowded`), and any other message is refused.
"""

import re
from collections.abc import Generator
from enum import Enum, auto
from typing import Any, Final, Never, TypeAlias

import orjson

from agent.lossless_json.exact import LEVELS_MAX, TOO_DEEP, read_json
from agent.lossless_json.proof import (
    BRACE,
    BRACE_END,
    BRACKET,
    BRACKET_END,
    COLON,
    COMMA,
    QUOTE,
    Proof,
    cut_of,
)

# The places in which members are looked up, and how many of a message there are in each. A call has some ten members,
# a batch a hundred calls.
MEMBERS_MAX: Final = 2_048
# Of levels below the arguments of a call, or beside them: where a header may repeat an argument.
_LOOKED_INTO_LEVELS_MAX: Final = 12
# Read without being counted: they are no more than there are members.
_SHORT_BYTES: Final = 256
# The longest small container is the last of these. Most are far shorter, and to look for an end costs by the byte.
_SMALL_STEPS: Final = (64, 512, 4 << 10)
# Read, a container takes forty times its bytes, a text four times at most.
_WEIGHT: Final = 8
# What orjson writes. What is deeper is passed on to no server, here as anywhere.
_WRITTEN_LEVELS_MAX: Final = 254
_TEXT: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)


class Place(Enum):
    """Where a value stands in a message."""

    MESSAGE = auto()
    PARAMS = auto()
    PARAM = auto()
    ARGUMENTS = auto()
    ARGUMENT = auto()
    IN_ARGUMENT = auto()
    ELSEWHERE = auto()

    def of_member(self, name: str) -> "Place":
        """The place of a member of the object that stands here."""
        match self:
            case Place.MESSAGE:
                return Place.PARAMS if name == "params" else Place.ELSEWHERE
            case Place.PARAMS:
                return Place.ARGUMENTS if name == "arguments" else Place.PARAM
            case Place.ARGUMENTS:
                return Place.ARGUMENT
            case Place.ARGUMENT | Place.IN_ARGUMENT:
                return Place.IN_ARGUMENT
            case _:
                return Place.ELSEWHERE


# Bytes that are read in each place: a `requestState` has up to 270 KB, and no header repeats 32 KiB.
_BYTES_MAX: Final = {Place.PARAM: 512 << 10, Place.ARGUMENT: 96 << 10, Place.ELSEWHERE: 96 << 10}


_OF_ARGUMENTS: Final = (Place.ARGUMENTS, Place.ARGUMENT, Place.IN_ARGUMENT)


class TooManyMembers(ValueError):
    """A message has so many members beside the arguments of its call that they are not read."""


class Crowded(dict[str, Any]):
    """Arguments, or one of them, with too many members to look into.

    Its one member is the first of all, and has as its value all bytes up to the end of the last one: orjson writes the
    object that has come, and nothing may be looked up in it.
    """


class _Overflow(Exception):
    """What is being read of the arguments has too many members."""


Reading: TypeAlias = Generator[None, None, Any]
_Value: TypeAlias = Generator[None, None, tuple[Any, int]]


def read_large(data: bytes | memoryview) -> Reading:
    """The message. A generator, which yields now and then; its value is what it returns.

    Raises `orjson.JSONDecodeError` as `read_json`, and `TooManyMembers`.
    """
    return _Reader(data).message()


class _Reader:
    """Of one message."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._proof = Proof(data)
        self._data = data
        self._bytes_left = dict(_BYTES_MAX)
        self._members_left = {Place.ARGUMENT: MEMBERS_MAX, Place.ELSEWHERE: MEMBERS_MAX}

    def message(self) -> Reading:
        """See `read_large`."""
        proof = self._proof
        begin = proof.space(0)
        if proof.byte(begin) == BRACKET:
            value, end = yield from self._batch(begin)
        else:
            value, end = yield from self._value(begin, Place.MESSAGE, 0)
        end = proof.space(end)
        if end < len(self._data):
            proof.unexpected(end, "unexpected content after document")
        return value

    def _batch(self, begin: int) -> _Value:
        """An array of messages."""
        proof, found = self._proof, list[Any]()
        at = proof.space(begin + 1)
        if proof.byte(at) == BRACKET_END:
            return found, at + 1
        while True:
            self._count(Place.ELSEWHERE)
            value, at = yield from self._value(at, Place.MESSAGE, 1)
            found.append(value)
            at = proof.space(at)
            if proof.byte(at) == BRACKET_END:
                return found, at + 1
            at = self._behind_comma(at, BRACKET_END, "unexpected character, expected ',' or ']'")
            yield

    def _value(self, at: int, place: Place, level: int) -> _Value:
        """The value that begins there, and its end. `level`: how many containers are around it."""
        first = self._proof.byte(at)
        if first == QUOTE:
            return (yield from self._text(at, place))
        if first not in (BRACE, BRACKET):
            end = self._proof.word_end(at)
            word = self._proof.part(at, end)
            return read_json(word) if len(word) <= _SHORT_BYTES else orjson.Fragment(word), end
        if (small := self._small(at, place, level)) is not None:
            return small
        if first == BRACKET or level > _LOOKED_INTO_LEVELS_MAX:
            return (yield from self._passed_on(at, level))
        if place not in (Place.ARGUMENTS, Place.ARGUMENT):
            return (yield from self._object(at, place, level))
        # One argument may use half of what is left, so that the others are read whatever it is.
        kept = self._members_left[Place.ARGUMENT] // 2 if place is Place.ARGUMENT else 0
        self._members_left[Place.ARGUMENT] -= kept
        try:
            return (yield from self._object(at, place, level))
        except _Overflow:
            self._members_left[Place.ARGUMENT] = 0
            return (yield from self._crowded(at, level))
        finally:
            self._members_left[Place.ARGUMENT] += kept

    def _text(self, at: int, place: Place) -> _Value:
        counted = place if place is Place.PARAM else _room_of_members(place)
        found = _TEXT.match(self._data, at, at + max(_SHORT_BYTES, self._bytes_left[counted]))
        if found is None:
            end = yield from self._proof.text_end(at)
            return orjson.Fragment(self._proof.part(at, end)), end
        end = found.end()
        if end - at > _SHORT_BYTES:
            self._bytes_left[counted] -= end - at
        text = self._proof.part(at, end)
        self._proof.read(b"[", text, b"]", at)
        return read_json(text), end

    def _small(self, at: int, place: Place, level: int) -> tuple[Any, int] | None:
        """The container that begins there, read, if it is small and its place has room for it."""
        counted, proof = _room_of_members(place), self._proof
        for size in _SMALL_STEPS:
            cut = cut_of(proof.part(at + 1, at + size), proof.part(at, at + 1))
            if cut is not None and not cut.stack:
                break
        else:
            return None
        if level + cut.levels > LEVELS_MAX:
            raise orjson.JSONDecodeError(TOO_DEEP, "", at)
        end = at + 1 + cut.end
        if (end - at) * _WEIGHT > self._bytes_left[counted]:
            if counted is Place.ELSEWHERE:  # It may be what the request says of itself.
                _refuse(place)
            return None
        self._bytes_left[counted] -= (end - at) * _WEIGHT
        part = proof.part(at, end)
        proof.read(b"", part, b"", at)
        return read_json(part), end

    def _passed_on(self, at: int, level: int) -> _Value:
        """The container that begins there, as bytes."""
        end = yield from self._proof.value_end(at, level)
        if self._proof.levels > _WRITTEN_LEVELS_MAX:
            return _unwritable(), end
        return orjson.Fragment(self._proof.part(at, end)), end

    def _crowded(self, at: int, level: int) -> _Value:
        end = yield from self._proof.value_end(at, level)
        if self._proof.levels > _WRITTEN_LEVELS_MAX:
            return {"": _unwritable()}, end
        name, behind = yield from self._name(self._proof.space(at + 1), Place.PARAM)
        value = self._proof.space(self._proof.space(behind) + 1)
        return Crowded({name: orjson.Fragment(self._proof.part(value, end - 1))}), end

    def _object(self, begin: int, place: Place, level: int) -> _Value:
        proof, found = self._proof, dict[str, Any]()
        at = proof.space(begin + 1)
        if proof.byte(at) == BRACE_END:
            return found, at + 1
        while True:
            self._count(place)
            name, at = yield from self._name(at, place)
            at = proof.space(at)
            if proof.byte(at) != COLON:
                proof.unexpected(at, "unexpected character, expected ':' after key")
            found[name], at = yield from self._value(proof.space(at + 1), place.of_member(name), level + 1)
            at = proof.space(at)
            if proof.byte(at) == BRACE_END:
                return found, at + 1
            at = self._behind_comma(at, BRACE_END, "unexpected character, expected ',' or '}'")
            yield

    def _behind_comma(self, at: int, closing: int, what: str) -> int:
        """Where the next item begins."""
        if self._data[at] != COMMA:
            self._proof.unexpected(at, what)
        following = self._proof.space(at + 1)
        if self._proof.byte(following) == closing:
            self._proof.unexpected(at, "trailing comma is not allowed")
        return following

    def _name(self, at: int, place: Place) -> Generator[None, None, tuple[str, int]]:
        if self._proof.byte(at) != QUOTE:
            self._proof.unexpected(at, "unexpected character, expected a string key")
        counted = _room_of_members(place)
        found = _TEXT.match(self._data, at, at + max(_SHORT_BYTES, self._bytes_left[counted]))
        if found is None:
            yield from self._proof.text_end(at, is_name=True)
            _refuse(place)
        end = found.end()
        if end - at > _SHORT_BYTES:
            self._bytes_left[counted] -= end - at
        text = self._proof.part(at, end)
        self._proof.read(b"{", text, b":0}", at)
        name: str = read_json(text)
        return name, end

    def _count(self, place: Place) -> None:
        counted = _room_of_members(place)
        self._members_left[counted] -= 1
        if self._members_left[counted] < 0:
            _refuse(place)


def _room_of_members(place: Place) -> Place:
    return Place.ARGUMENT if place in _OF_ARGUMENTS else Place.ELSEWHERE


def _refuse(place: Place) -> Never:
    """Refuse the object that stands there, which has too many members, or too much in them."""
    if _room_of_members(place) is Place.ARGUMENT:
        raise _Overflow
    raise TooManyMembers(f"more than {MEMBERS_MAX} members, or too much in them, beside the arguments of a call")


def _unwritable() -> Any:
    """A value that orjson refuses to write, as it refuses one that is read whole and too deep."""
    value: Any = []
    for _ in range(_WRITTEN_LEVELS_MAX):
        value = [value]
    return value
