"""Rewrites a few texts of one JSON object while it comes in parts.

Called for results that are too large to be held. The values of interest are given as a small tree of places; all others
are skipped at the speed of `bytes.find` and friends. The one rule: when `feed` raised nothing until there is a `rest`,
exactly one object has passed, on one line, and no byte behind it was taken for a part of it.

Theory: every JSON reader separates texts from brackets alike, so the object ends where its brackets are balanced.
Whether the bytes between are JSON is for the reader; if not, every reader refuses the whole. A rewriter stops where the
end of a part cuts a token, and that token waits for the next part.
"""

import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final, TypeAlias

import orjson

from agent.lossless_json.exact import read_json
from agent.model import Json

# The same limit as for a result that is held (orjson's).
DEPTH_MAX: Final = 1024
# The longest token that waits for the part that completes it. A longer text at a place stays unchanged: as a URI it
# would be too long for a request.
TOKEN_BYTES_MAX: Final = 64 << 10

_QUOTE, _COLON, _COMMA = b'":,'
_BRACE, _BRACE_END, _BRACKET, _BRACKET_END = b"{}[]"
_NO_VALUE: Final = frozenset((_COLON, _COMMA, _BRACE_END, _BRACKET_END))
# As allowed as line breaks between tokens, and as forbidden in a text: a space would make JSON of what was none.
_LINE_BREAKS: Final = bytes.maketrans(b"\r\n", b"\t\t")
# All expressions are for text whose escapes are masked: each quote begins or ends a text.
_BETWEEN: Final = re.compile(rb"[ \t,]*")
_MEMBER: Final = re.compile(rb'[ \t,]*"([^"]*)"[ \t]*:[ \t]*(?=[^ \t])')
_WORD: Final = re.compile(rb'[^ \t,:"{}\[\]]*')
_BRACKETS: Final = re.compile(rb'[{}\[\]"]')
_ALL_BUT_BRACKETS: Final = bytes(set(range(256)) - set(b"{}[]"))
_STEP: Final = tuple({_BRACE: 1, _BRACKET: 1, _BRACE_END: -1, _BRACKET_END: -1}.get(byte, 0) for byte in range(256))
# A container is skipped in blocks that double while it goes on and halve where it ends; the smallest is scanned bracket
# by bracket.
_BLOCK_BYTES_MIN: Final = 256
_BLOCK_BYTES_MAX: Final = 64 << 10

_Rewriter: TypeAlias = Generator[None, None, None]


class RewriteBroken(ValueError):
    """The bytes are not one JSON object, are nested too deep, or have too long a name where a place has members."""


@dataclass(frozen=True, slots=True)
class Place:
    """The parts of interest of a value: the places of an object's members, and that of all items of an array.

    `text` returns the new text for a text. `note`: the name under which the value, if it is a text, a number or a
    constant, is kept in `JsonRewriter.noted`; of any other value only that it was there, as None.
    """

    members: Mapping[str, "Place"] = field(default_factory=dict)
    items: "Place | None" = None
    text: Callable[[str], str] | None = None
    note: str = ""


_NOTHING: Final = Place()


class JsonRewriter:
    """`noted`: see `Place`. `rest`: the bytes behind the object, None as long as it is not complete.

    `added`: members that the object gets at its end, except for those that are in `noted`.

    Long because each kind of value is one method of one scanner, which all move the same position.
    """

    def __init__(self, place: Place, added: Json | None = None) -> None:
        self.noted: dict[str, Any] = {}
        self.rest: bytes | None = None
        self._added = added or {}
        self._held = b""  # From where the rewriter stopped.
        self._text = b""  # The part that is rewritten now.
        self._masked = b""
        self._at = 0
        self._taken = 0  # Up to here the text was passed on, or replaced.
        self._out: list[bytes] = []
        self._depth = 0
        self._rewriter = self._root(place)

    def __repr__(self) -> str:
        return f"<JsonRewriter {'closed' if self.rest is not None else 'open'} {self.noted}>"

    def feed(self, part: bytes) -> bytes:
        """Take the next part; returns the bytes that can be passed on. Do not feed a rewriter that has a `rest`.

        Raises `RewriteBroken`.
        """
        text = self._held + part if self._held else part
        if b"\n" in text or b"\r" in text:
            text = text.translate(_LINE_BREAKS)
        late = b""
        if text.endswith(b"\\") and (len(text) - len(text.rstrip(b"\\"))) % 2:
            text, late = text[:-1], b"\\"  # It waits for what it escapes.
        self._text, self._at, self._taken = text, 0, 0
        # Pairs first, from the left, so that a single backslash that is left escapes the byte behind it.
        self._masked = text.replace(b"\\\\", b"__").replace(b'\\"', b"__") if b"\\" in text else text
        try:
            next(self._rewriter)
        except StopIteration:
            self.rest = text[self._at :] + late
        self._send_up_to(self._at)
        self._held = text[self._at :] + late
        sent = b"".join(self._out)
        self._out.clear()
        self._text = self._masked = b""  # Between two parts only `_held` is kept.
        return sent

    def _send_up_to(self, end: int) -> None:
        self._out.append(self._text[self._taken : end])
        self._taken = end

    # Each of these yields where it needs another part, with `_at` behind the bytes that it no longer needs.

    def _root(self, place: Place) -> _Rewriter:
        while not self._text:
            yield
        if self._masked[0] != _BRACE:
            raise RewriteBroken("not a JSON object")
        has_members = yield from self._object(place)
        missing = {name: value for name, value in self._added.items() if name not in self.noted}
        if missing:
            self._send_up_to(self._at - 1)
            self._out.append((b"," if has_members else b"") + orjson.dumps(missing)[1:-1])

    def _object(self, place: Place) -> Generator[None, None, bool]:
        """Returns whether it has members."""
        self._at += 1
        self._depth += 1
        has_members = False
        while True:
            if (member := _MEMBER.match(self._masked, self._at)) is not None:
                self._at = member.end()
                has_members = True
                wanted = place.members.get(self._name(*member.span(1)), _NOTHING)
                if wanted is not _NOTHING or not self._skip_whole_string():
                    yield from self._value(wanted)
                continue
            over = self._ends(_BRACE_END)
            if over:
                break
            if over is False and (self._masked[self._at] != _QUOTE or len(self._masked) - self._at > TOKEN_BYTES_MAX):
                raise RewriteBroken("a member of an object has no name, or too long a one")
            yield
        self._depth -= 1
        return has_members

    def _array(self, items: Place) -> _Rewriter:
        self._at += 1
        self._depth += 1
        while not (over := self._ends(_BRACKET_END)):
            if over is None:
                yield
            elif self._masked[self._at] == _BRACE and items.members:
                yield from self._object(items)
            else:
                yield from self._value(items)
        self._depth -= 1

    def _ends(self, bracket: int) -> bool | None:
        """Go to the next value or name; True at the closing bracket instead, None where the part ends before."""
        found = _BETWEEN.match(self._masked, self._at)
        assert found is not None, "it matches nothing, too"
        self._at = found.end()
        if self._at == len(self._masked):
            return None
        if self._masked[self._at] != bracket:
            return False
        self._at += 1
        return True

    def _value(self, place: Place) -> _Rewriter:
        first = self._masked[self._at]
        if first in _NO_VALUE:
            raise RewriteBroken("a value is missing")
        if place.note:
            self.noted[place.note] = None
        if first == _QUOTE:
            yield from self._string(place)
        elif first == _BRACE and place.members:
            yield from self._object(place)
        elif first == _BRACKET and place.items is not None:
            yield from self._array(place.items)
        elif first in (_BRACE, _BRACKET):
            yield from self._skip_container()
        else:
            yield from self._word(place)

    def _skip_whole_string(self) -> bool:
        """Skip a text at no place, if there is one and it has come whole: the most frequent kind of member."""
        end = self._masked.find(b'"', self._at + 1) if self._masked[self._at] == _QUOTE else -1
        if end >= 0:
            self._at = end + 1
        return end >= 0

    def _string(self, place: Place) -> _Rewriter:
        wanted = place.text is not None or bool(place.note)
        search_from = self._at + 1
        while (end := self._masked.find(b'"', search_from)) < 0:
            wanted = wanted and len(self._masked) - self._at <= TOKEN_BYTES_MAX
            if wanted:
                yield
                search_from = self._at + 1
            else:
                self._at = search_from = len(self._masked)
                yield
                self._at = search_from = 0
        if wanted and end - self._at < TOKEN_BYTES_MAX:
            self._take_token(place, self._at, end + 1)
        self._at = end + 1

    def _word(self, place: Place) -> _Rewriter:
        """A number or a constant."""
        while True:
            found = _WORD.match(self._masked, self._at)
            assert found is not None, "it matches nothing, too"
            if found.end() < len(self._masked):
                break
            if not place.note:
                self._at = found.end()
            elif found.end() - self._at > TOKEN_BYTES_MAX:
                raise RewriteBroken("a number is too long")
            yield
        if place.note:
            self._take_token(place, self._at, found.end())
        self._at = found.end()

    def _take_token(self, place: Place, begin: int, end: int) -> None:
        token = self._text[begin:end]
        try:
            plain = b"\\" not in token and token.startswith(b'"')
            value = orjson.loads(token) if plain else read_json(token)  # Most are plain, and that is quicker.
        except ValueError:
            return  # Every reader will refuse it.
        if place.note:
            self.noted[place.note] = value
        if place.text is not None and isinstance(value, str) and (shown := place.text(value)) != value:
            self._send_up_to(begin)
            self._out.append(orjson.dumps(shown))
            self._taken = end

    def _name(self, begin: int, end: int) -> str:
        name = self._text[begin:end]
        try:
            return str(orjson.loads(b'"' + name + b'"')) if b"\\" in name else name.decode()
        except ValueError:
            return ""  # Every reader will refuse it.

    def _skip_container(self) -> _Rewriter:
        depth, size, in_text, grows = 0, _BLOCK_BYTES_MIN, False, True
        while True:
            block = self._masked[self._at : self._at + size]
            if not block:
                yield
            elif size == _BLOCK_BYTES_MIN:
                for found in _BRACKETS.finditer(block):
                    if found[0] == b'"':
                        in_text = not in_text
                    elif not in_text:
                        depth += _STEP[block[found.start()]]
                        if depth == 0:
                            self._at += found.end()
                            return
                        self._check_depth(depth)
                self._at += len(block)
            else:
                depths, ends_in_text = _depths(block, depth, in_text=in_text)
                if 0 in depths:
                    size, grows = size // 2, False
                    continue
                self._check_depth(max(depths))
                depth, in_text = depths[-1], ends_in_text
                self._at += len(block)
            if grows and block:
                size = min(2 * size, _BLOCK_BYTES_MAX)

    def _check_depth(self, depth: int) -> None:
        if self._depth + depth > DEPTH_MAX:
            raise RewriteBroken(f"nested more than {DEPTH_MAX} levels deep")


def _depths(block: bytes, depth: int, *, in_text: bool) -> tuple[list[int], bool]:
    """The depth before the first and after each bracket of a block, and whether it ends within a text."""
    pieces = block.split(b'"')
    outside = b"".join(pieces[1::2] if in_text else pieces[::2]).translate(None, _ALL_BUT_BRACKETS)
    return list(accumulate(map(_STEP.__getitem__, outside), initial=depth)), in_text ^ (len(pieces) % 2 == 0)
