"""The shapes of our own saved files, checked when they are read. PURE.

Used by the files of the state folder, which hold JSON that we have written. A shape is a function that raises
`Misshapen` with the place of the first fault. The one rule: no message repeats a value, for one may be a token.
"""

from collections.abc import Callable, Mapping
from typing import Any

Shape = Callable[[Any, str], None]


class Misshapen(ValueError):
    """The value has another shape; the text begins with the place of the fault, where that is not the whole."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"{place}: {problem}" if place else problem)


def text(value: Any, place: str) -> None:
    """A string."""
    _check(isinstance(value, str), place, "Input should be a valid string")


def optional_text(value: Any, place: str) -> None:
    """A string or null."""
    if value is not None:
        text(value, place)


def whole_number(value: Any, place: str) -> None:
    """An integer; true is none."""
    _check(type(value) is int, place, "Input should be a valid integer")


def one_of(*words: Any) -> Shape:
    """One of some values, of the same type."""
    named = " or ".join(map(repr, words))

    def shape(value: Any, place: str) -> None:
        known = any(type(value) is type(word) and value == word for word in words)
        _check(known, place, f"Input should be {named}")

    return shape


def list_of(item: Shape) -> Shape:
    """A list of such values."""

    def shape(value: Any, place: str) -> None:
        _check(isinstance(value, list), place, "Input should be a valid list")
        for number, one in enumerate(value):
            item(one, _within(place, number))

    return shape


def pair_of_texts(value: Any, place: str) -> None:
    """A list of two strings."""
    list_of(text)(value, place)
    _check(len(value) == 2, place, "Input should be a pair")  # noqa: PLR2004 - a pair


def texts_by_name(value: Any, place: str) -> None:
    """An object whose members are strings."""
    _check(isinstance(value, dict), place, "Input should be an object")
    for name, member in value.items():
        text(member, _within(place, name))


def object_of(members: Mapping[str, Shape], *, optional: frozenset[str] = frozenset()) -> Shape:
    """An object with these members and no other."""

    def shape(value: Any, place: str) -> None:
        _check(isinstance(value, dict), place, "Input should be an object")
        for name, member in members.items():
            if name in value:
                member(value[name], _within(place, name))
            else:
                _check(name in optional, _within(place, name), "Field required")
        for name in value:
            _check(name in members, _within(place, name), "Extra inputs are not permitted")

    return shape


def _within(place: str, name: object) -> str:
    return f"{place}.{name}" if place else str(name)


def _check(right: bool, place: str, problem: str) -> None:
    if not right:
        raise Misshapen(place, problem)
