"""PURE: where the members of a large JSON object stand in its text, found without reading a value.

Used by `agent.lossless_json.outline` for messages, and by `agent.lossless_json.unread` for arguments. The text has been
proven to be JSON; of any other, what is found means nothing. The one rule: no quantifier can give back what it took,
so time grows with the text alone and memory with nothing: small members are passed many at once, a large one by pieces.
"""

import re
import sys
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

import orjson

from agent.lossless_json.ends import Text, end_of_value

# So many members of one name that is looked for may stand in one object; honest objects have each name once.
PLACES_MAX: Final = 1_000
# So many members may be passed by themselves, some 75 µs each at worst: those that are looked for, those of more than
# 4 KiB, a thousand at most, and those of more than 32 levels, which honest members have not.
APART_MAX: Final = 4_000
# Members are passed at once within so many bytes; then others have their turn. A longer one is passed by itself.
_RUN_BYTES: Final = 4 << 10
# Lists and objects that are passed as one; what is nested deeper is passed by itself.
_LEVELS: Final = 32

_SPACE: Final = rb"[ \t\r\n]*+"
_TEXT: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_BRACE, _LIST_END = b"{]"
_REMEMBERED_MAX: Final = 256


def _nested(levels: int) -> bytes:
    """The pattern of a list or an object with at most so many levels."""
    inner = b"|" + _nested(levels - 1) if levels > 1 else b""
    return rb'[\[{](?:[^"\[\]{}]++|' + _TEXT + inner + rb")*+[\]}]"


_VALUE: Final = _TEXT + rb'|[^"\[\]{},: \t\r\n]++|' + _nested(_LEVELS)
_QUOTE: Final = re.compile(_SPACE + b'(?=")')
_COLON: Final = re.compile(_SPACE + b":" + _SPACE)
_AFTER: Final = re.compile(_SPACE + b",?+")
_OPENING: Final = re.compile(_SPACE + rb"\{")
_LIST: Final = re.compile(_SPACE + rb"\[" + _SPACE)
_NEXT: Final = re.compile(_SPACE + b",?+" + _SPACE)
_END: Final = re.compile(_SPACE + rb"\}")
# What may stand for a character within a text, beside itself and its number.
_SHORT: Final = {
    '"': rb"\"",
    "\\": rb"\\",
    "/": rb"\/",
    "\b": rb"\b",
    "\f": rb"\f",
    "\n": rb"\n",
    "\r": rb"\r",
    "\t": rb"\t",
}


class TooMany(Exception):
    """An object has too many members that have to be passed by themselves: `PLACES_MAX`, `APART_MAX`."""


# Names that are looked for, each with those that are looked for in its value.
Tree: TypeAlias = Mapping[str, "Tree"]
_NONE: Final[Tree] = {}


class Place(NamedTuple):
    """Where a member stands, with the comma behind it; and its value. `inner`: what was looked for in that."""

    name: str
    begin: int
    value: int
    value_end: int
    end: int
    inner: "Members | None" = None


@dataclass(frozen=True, slots=True)
class Members:
    """Those that were looked for, in their order. `begin`, `end`: of all members, within the braces."""

    places: tuple[Place, ...]
    begin: int
    end: int

    def last(self) -> dict[str, Place]:
        """One for each name: of members with one name the last counts, as everywhere."""
        return {place.name: place for place in self.places}


@dataclass(frozen=True, slots=True)
class _LookedFor:
    """Names, however they are spelled; and members of all other names, many at once."""

    names: re.Pattern[bytes]
    others: re.Pattern[bytes]


def members_of(text: Text, at: int, names: Collection[str], deeper: Tree = _NONE) -> Generator[None, None, Members]:
    """The steps to the members of these names in the object that begins at `at`. Raises `TooMany`.

    `deeper`: what is looked for in their values on the way, where these are objects.
    """
    looked_for = _looked_for(frozenset(names))
    begin = at = _past(_OPENING, text, at)
    places: list[Place] = []
    counts: Counter[str] = Counter()
    apart = 0
    while True:
        yield
        member, at = at, _past(looked_for.others, text, at, at + _RUN_BYTES)
        if at > member:
            continue
        if (key := _QUOTE.match(text, member)) is None:
            return Members(tuple(places), begin, _past(_END, text, member) - 1)
        if (apart := apart + 1) > APART_MAX:
            kinds = f"looked for, large, or nested deeper than {_LEVELS} levels"
            raise TooMany(f"more than {APART_MAX} members of an object are {kinds}")
        key_end = yield from end_of_value(text, key.end())
        value = _past(_COLON, text, key_end)
        if looked_for.names.fullmatch(text, key.end(), key_end) is None:
            at = _past(_AFTER, text, (yield from end_of_value(text, value)))
            continue
        name = orjson.loads(text[key.end() : key_end])
        if (count := counts[name]) == PLACES_MAX:
            raise TooMany(f"{name!r} stands there again and again, {PLACES_MAX} times and more")
        counts[name] = count + 1
        inner, tree = None, deeper.get(name)
        if tree and text[value] == _BRACE:
            inner = yield from members_of(text, value, tree, tree)
            value_end = inner.end + 1
        else:
            value_end = yield from end_of_value(text, value)
        at = _past(_AFTER, text, value_end)
        places.append(Place(name, member, value, value_end, at, inner))


def items_of(text: Text, len_max: int) -> Generator[None, None, list[memoryview]]:
    """The steps to the values in a list, so many at most."""
    view, at, items = memoryview(text), _past(_LIST, text, 0), list[memoryview]()
    while len(items) < len_max and view[at] != _LIST_END:
        yield
        end = yield from end_of_value(text, at)
        items.append(view[at:end])
        at = _past(_NEXT, text, end)
    return items


def without(text: Text, members: Members, cut: Iterable[Place]) -> list[memoryview]:
    """What stands within the braces when these places, in their order, have been cut out; empty for nothing."""
    view, at, kept = memoryview(text), members.begin, []
    for place in cut:
        kept.append(view[at : place.begin])
        at = place.end
    kept.append(view[at : members.end])
    kept = [piece for piece in kept if len(piece) > 0]
    # Behind what is left of the last one that was cut, a comma may stand that parted the two.
    if kept and at == members.end:
        kept[-1] = kept[-1][:-1]
    return [piece for piece in kept if re.search(rb"[^ \t\r\n]", piece) is not None]


def _past(pattern: re.Pattern[bytes], text: Text, at: int, end: int = sys.maxsize) -> int:
    """Where that ends which stands there in any JSON."""
    found = pattern.match(text, at, end)
    assert found is not None, "the text is JSON"
    return found.end()


@lru_cache(maxsize=_REMEMBERED_MAX)
def _looked_for(names: frozenset[str]) -> _LookedFor:
    spelled = b'"(?:' + b"|".join(map(_spelled, sorted(names))) + b')"'
    member = _SPACE + b"(?!" + spelled + b")" + _TEXT + _SPACE + b":" + _SPACE + b"(?:" + _VALUE + b")" + _SPACE
    others = b"(?:" + member + rb"(?:,|(?=\})))*+"
    return _LookedFor(re.compile(spelled, re.DOTALL), re.compile(others, re.DOTALL))


def _spelled(name: str) -> bytes:
    """The pattern of a name in each of its spellings."""
    return b"".join(map(_spelled_character, name))


def _spelled_character(character: str) -> bytes:
    units = character.encode("utf-16-be").hex()
    numbers = [units[at : at + 4] for at in range(0, len(units), 4)]
    forms = ["".join(rf"\\u{''.join(map(_digit, number))}" for number in numbers).encode()]
    if character in _SHORT:
        forms.append(re.escape(_SHORT[character]))
    if character not in '"\\' and character >= " ":
        forms.insert(0, re.escape(character.encode()))
    return b"(?:" + b"|".join(forms) + b")"


def _digit(digit: str) -> str:
    return digit if digit.isdigit() else f"[{digit}{digit.upper()}]"
