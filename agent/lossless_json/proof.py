"""Proves that a part of a large text is one JSON value, without reading it whole.

Used by `agent.lossless_json.large` for what is passed on as bytes. Of each piece of at most `PIECE_BYTES` a text is
made that is complete in itself, by closing what is open at its end and opening it again for the next one; orjson reads
that, and what it has read is dropped. The one rule: a value that passes is one for `agent.lossless_json.exact`, and one
that does not is none for it either.

A cut stands behind a bracket or a comma that is not within a text. A text or a number that fills a piece alone is
proven by itself, and stands for a value from then on.
"""

import re
from collections.abc import Generator, Sequence
from itertools import accumulate
from typing import Final, NamedTuple, Never, TypeAlias

import orjson

from agent.lossless_json.exact import LEVELS_MAX, TOO_DEEP, read_json

# Read, it takes up to 1.3 MB and a millisecond.
PIECE_BYTES: Final = 32 << 10
# Most values are short; each piece is twice as long as the one before.
_FIRST_BYTES: Final = 1 << 10
# A longer number is judged by its form alone.
_WORD_BYTES_MAX: Final = 4 << 10

QUOTE, COLON, COMMA = b'":,'
BRACE, BRACE_END, BRACKET, BRACKET_END = b"{}[]"
_SPACE: Final = re.compile(rb"[ \t\r\n]*+")
_WORD: Final = re.compile(rb'[^ \t\r\n,:"{}\[\]]*+')
_TEXT: Final = re.compile(rb'("(?:[^"\\]++|\\.)*+")([ \t\r\n]*+:)?', re.DOTALL)
_NUMBER: Final = re.compile(rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?")
_OPENING: Final = b"{["
_MARKS: Final = b"{}[],"
_ALL_BUT_MARKS: Final = bytes(set(range(256)) - set(_MARKS))
_MARK: Final = re.compile(rb"[{}\[\],]")
_STEP: Final = tuple({BRACE: 1, BRACKET: 1, BRACE_END: -1, BRACKET_END: -1}.get(byte, 0) for byte in range(256))
_CLOSING: Final = bytes.maketrans(b"{[", b"}]")
# Half a surrogate pair that may have the other half behind it.
_FIRST_HALF: Final = re.compile(rb"\\u[dD][89abAB]..\Z", re.DOTALL)
_ESCAPE_LEN_MAX: Final = 6
_CONTINUES, _IS_CONTINUATION = 0xC0, 0x80

# What stands before the next piece, within its innermost container.
_OPEN, _COMMA, _VALUE, _NAME, _COLON = range(5)
# The space keeps a number from going on.
_IN_ARRAY: Final = (b"[", b"[0,", b"[0 ")
_IN_OBJECT: Final = (b"{", b'{"":0,', b'{"":0 ', b'{""', b'{"":')

Steps: TypeAlias = Generator[None, None, int]


class Cut(NamedTuple):
    """Where a piece ends; what is open then, and what it ends with.

    `levels`: how deep the piece goes, with what was open at its beginning.
    """

    end: int
    stack: bytes
    after: int
    levels: int


class Proof:
    """Of parts of one text. `levels`: how deep the container is that was proven last, with those around it.

    Everything that takes long is a generator, which yields after each piece, and raises `orjson.JSONDecodeError`.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = data
        self._view = memoryview(data)
        self.levels = 0

    def __repr__(self) -> str:
        return f"<Proof {len(self.data)} bytes>"

    def part(self, begin: int, end: int) -> bytes:
        """A copy of a part."""
        return bytes(self._view[begin:end])

    def space(self, at: int) -> int:
        """Where the next token begins."""
        found = _SPACE.match(self.data, at)
        assert found is not None, "it matches nothing, too"
        return found.end()

    def byte(self, at: int) -> int:
        """The byte there."""
        if at >= len(self.data):
            raise orjson.JSONDecodeError("unexpected end of data", "", len(self.data))
        return self.data[at]

    def unexpected(self, at: int, what: str = "unexpected character") -> Never:
        """Refuse what stands there."""
        self.byte(at)
        raise orjson.JSONDecodeError(what, "", at)

    def value_end(self, begin: int, level: int) -> Steps:
        """Where the value ends that begins there. `level`: how many containers are around it."""
        self.levels = level
        first = self.byte(begin)
        if first == QUOTE:
            return (yield from self.text_end(begin))
        return (yield from self._container_end(begin, level)) if first in _OPENING else self.word_end(begin)

    def text_end(self, begin: int, *, is_name: bool = False) -> Steps:
        """Where a text ends. A name of a member may not have half a surrogate pair."""
        before, behind = (b'{"', b'":0}') if is_name else (b'["', b'"]')
        at = begin + 1
        while True:
            window = self.part(at, at + PIECE_BYTES)
            masked = _masked(window)
            end = masked.find(b'"')
            if end < 0 and at + PIECE_BYTES >= len(self.data):
                self.read(b'["', window, b"", at)  # Refused: it has no end.
            cut = _between_characters(window, masked) if end < 0 else end
            self.read(before, window[:cut], behind, at)
            at += cut
            if end >= 0:
                return at + 1
            yield

    def word_end(self, begin: int) -> int:
        """Where a number or a constant ends."""
        found = _WORD.match(self.data, begin)
        end = begin if found is None else found.end()
        if end == begin:
            self.unexpected(begin)
        if end - begin <= _WORD_BYTES_MAX:
            self.read(b"[", self.part(begin, end), b"]", begin)
        elif _NUMBER.fullmatch(self.data, begin, end) is None:
            self.unexpected(begin)
        return end

    def read(self, before: bytes, part: bytes, behind: bytes, at: int) -> None:
        """Have orjson judge a part that stands at `at`, with what makes it complete."""
        text = b"".join((before, part, behind))
        try:
            orjson.loads(text)
        except orjson.JSONDecodeError:
            try:
                read_json(text)  # For a number or a text that only orjson refuses.
                for found in _TEXT.finditer(text):  # A member that is dropped for another one of its name had one, too.
                    if found[2] is not None and b"\\" in found[1]:
                        read_json(b"{%b:0}" % found[1])
            except orjson.JSONDecodeError as exc:
                place = at + max(0, min(exc.pos - len(before), len(part)))
                raise orjson.JSONDecodeError(exc.msg, "", place) from exc

    def _container_end(self, begin: int, level: int) -> Steps:
        stack, after, at, size = self.part(begin, begin + 1), _OPEN, begin + 1, _FIRST_BYTES
        while True:
            window = self.part(at, at + size)
            cut = cut_of(window, stack)
            if cut is None:
                if at + size >= len(self.data):
                    self.read(_before(stack, after), window, b"", at)
                if size < PIECE_BYTES:
                    size *= 2
                else:
                    at, after = yield from self._token_end(at, in_object=stack[-1] == BRACE, after=after)
                continue
            self.levels = max(self.levels, level + cut.levels)
            if self.levels > LEVELS_MAX:
                raise orjson.JSONDecodeError(TOO_DEEP, "", at)
            self.read(_before(stack, after), window[: cut.end], _behind(cut), at)
            at, stack, after, size = at + cut.end, cut.stack, cut.after, min(2 * size, PIECE_BYTES)
            if not stack:
                return at
            yield

    def _token_end(self, at: int, *, in_object: bool, after: int) -> Generator[None, None, tuple[int, int]]:
        """Pass over one token that fills a piece, or over the space before it; returns what stands there then."""
        begin = self.space(at)
        first = self.byte(begin)
        is_first = after in (_OPEN, _COMMA)
        if first in _MARKS:
            if begin == at:
                self.unexpected(at)
            return begin, after
        if first == QUOTE and in_object and is_first:
            return (yield from self.text_end(begin, is_name=True)), _NAME
        if first == COLON and after == _NAME:
            return begin + 1, _COLON
        if after != _COLON and (in_object or not is_first):
            self.unexpected(begin)
        return (yield from self.text_end(begin)) if first == QUOTE else self.word_end(begin), _VALUE


def cut_of(window: bytes, stack: bytes) -> Cut | None:
    """The last place where a text may be cut; the end of what `stack` has opened, if it comes before. None: nowhere."""
    pieces = _masked(window).split(b'"')
    marks = b"".join(pieces[::2]).translate(None, _ALL_BUT_MARKS)
    if not marks:
        return None
    if marks.count(COMMA) == len(marks):
        return Cut(_place_of_last_mark(pieces) + 1, stack, _COMMA, len(stack))
    depths = list(accumulate(map(_STEP.__getitem__, marks), initial=len(stack)))
    lowest = min(depths)
    if lowest <= 0:
        count = depths.index(0)
        end = _place_of_mark(pieces, count - 1) + 1
        return Cut(end, b"", _VALUE, max(depths[:count]))
    last = marks[-1]
    after = _COMMA if last == COMMA else _VALUE if _STEP[last] < 0 else _OPEN
    left_open = stack[:lowest] + _left_open(marks, depths, lowest)
    return Cut(_place_of_last_mark(pieces) + 1, left_open, after, max(depths))


def _left_open(marks: bytes, depths: list[int], lowest: int) -> bytes:
    """The brackets that are open at the end and have no partner, beyond the `lowest` levels."""
    found, backwards, start = bytearray(), depths[::-1], 0
    for level in range(depths[-1] - 1, lowest - 1, -1):
        start = backwards.index(level, start)
        found.append(marks[len(marks) - start])
    return bytes(found[::-1])


def _place_of_mark(pieces: Sequence[bytes], number: int) -> int:
    at = 0
    for index, piece in enumerate(pieces):
        if index % 2 == 0:
            count = len(piece.translate(None, _ALL_BUT_MARKS))
            if number < count:
                return at + [found.start() for found in _MARK.finditer(piece)][number]
            number -= count
        at += len(piece) + 1
    raise AssertionError("there are as many")


def _place_of_last_mark(pieces: Sequence[bytes]) -> int:
    last_outside = (len(pieces) - 1) // 2 * 2
    for index in range(last_outside, -1, -2):
        if (place := max(map(pieces[index].rfind, _MARKS))) >= 0:
            return sum(map(len, pieces[:index])) + index + place
    raise AssertionError("there is one")


def _before(stack: bytes, after: int) -> bytes:
    """The shortest text that stands so before a piece."""
    outer = b"".join([b'{"":' if one == BRACE else b"[" for one in stack[:-1]])
    return outer + (_IN_OBJECT[after] if stack[-1] == BRACE else _IN_ARRAY[after])


def _behind(cut: Cut) -> bytes:
    """The shortest text that completes a piece."""
    value = b"" if cut.after != _COMMA else b'"":0' if cut.stack[-1] == BRACE else b"0"
    return value + cut.stack[::-1].translate(_CLOSING)


def _masked(window: bytes) -> bytes:
    """The same length, each quote of it one that begins or ends a text."""
    return window.replace(b"\\\\", b"__").replace(b'\\"', b"__") if b"\\" in window else window


def _between_characters(window: bytes, masked: bytes) -> int:
    """Where a part of a text may end, so that no escape, no pair of them and no character is cut."""
    end = len(window)
    last = masked.rfind(b"\\", end - _ESCAPE_LEN_MAX)
    if last >= 0:
        length = _ESCAPE_LEN_MAX if masked[last + 1 : last + 2] in (b"u", b"") else 2
        if last + length > end:
            end = last
    if _FIRST_HALF.search(masked, max(0, end - _ESCAPE_LEN_MAX), end) is not None:
        return end - _ESCAPE_LEN_MAX
    return _before_character(window, end)


def _before_character(window: bytes, end: int) -> int:
    """The end, or where the character begins that is cut there."""
    begin = end - 1
    while begin > end - 4 and window[begin] & _CONTINUES == _IS_CONTINUATION:
        begin -= 1
    lead = window[begin]
    length = 1 if lead < _CONTINUES else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4  # noqa: PLR2004 - UTF-8
    return begin if begin + length > end else end
