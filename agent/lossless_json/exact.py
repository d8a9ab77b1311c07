"""Reads JSON so that writing it again changes no number and no text.

Called wherever a message is read that is passed on: orjson reads integers beyond 64 bits as floats, and refuses floats
beyond a double and texts with half a surrogate pair, such as JavaScript cuts them. Here a value that orjson cannot hold
stays JSON, an `orjson.Fragment`, which orjson writes unchanged; so a message that was read can be written, and such a
text does not count as a name. The one rule: all other values, and all errors, are exactly orjson's.
"""

import json
import math
import re
import sys
from typing import Any, Final, Never, TypeAlias

import orjson

Buffer: TypeAlias = bytes | bytearray | memoryview

# Digits as zeros, so that `find` finds a run of any digits.
_AS_ZEROS: Final = bytes.maketrans(b"123456789", b"0" * 9)
# 2**63 has 19 digits; what is shorter fits.
_LONG_RUN: Final = b"0" * 19
# Up to here scanning the bytes is quicker (0.4 µs for a call), beyond it the values: long texts cost nothing.
_SCANNED_BYTES_MAX: Final = 4096
# So many values are checked in 30 µs; a message may hold a million, and then its bytes are quicker again.
_SCANNED_VALUES_MAX: Final = 256
# What orjson may have refused for its size: so many digits, or such an exponent. The digits are searched as zeros: a
# regular expression that counts them scans each run anew from every position, which took 7 s for a hostile 4 MiB.
_OVERFLOWING_RUN: Final = b"0" * 309
_LARGE_EXPONENT: Final = re.compile(rb"[0-9][eE]\+?[0-9]{3}")
# orjson's own message; Python's json goes deeper from 3.12 on, and later steps would not.
_TOO_DEEP: Final = "depth limit exceeded"
# As many levels as orjson reads, and the calls in which Python's json reads them: Python 3.11 counts those with all
# others, up to 1,000.
_LEVELS_MAX: Final = 1_024
_CALLS_MAX: Final = 4_000
# A surrogate as a JSON escape, and half a pair as a character of a Python string.
_SURROGATE_ESCAPE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_HALF_PAIR: Final = re.compile("[\ud800-\udfff]")
# Shorter integers are within 64 bits, longer ones than the second beyond it.
_SAFE_LEN: Final = 18
_FITTING_LEN: Final = 20
_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**64 - 1


def is_deeper_than(value: Any, levels_max: int) -> bool:
    """Whether objects and arrays are nested more than `levels_max` deep; a text or a number has no level."""
    layer = [value] if isinstance(value, (dict, list)) else []
    for _ in range(levels_max):
        if not layer:
            return False
        layer = [
            child
            for parent in layer
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, (dict, list))
        ]
    return bool(layer)


def read_json(data: Buffer) -> Any:
    """The value of a JSON text. Raises `orjson.JSONDecodeError`, also for half a surrogate pair in a member's name."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        text = bytes(data)
        if exc.msg == _TOO_DEEP or (not _may_overflow(text) and _SURROGATE_ESCAPE.search(text) is None):
            raise
        return _read_exactly(text)
    if len(data) <= _SCANNED_BYTES_MAX:  # As `may_have_changed` looks at most messages, without two calls for it.
        has_long_run = bytes(data).translate(_AS_ZEROS).find(_LONG_RUN) >= 0  # With `in`, bytes take twice as long.
        return _read_exactly(bytes(data)) if has_long_run else value
    return _read_exactly(bytes(data)) if may_have_changed(data, value) else value


def may_have_changed(data: Buffer, value: Any) -> bool:
    """Whether any number of `data` may have changed in `value`, which orjson has read from it."""
    if len(data) <= _SCANNED_BYTES_MAX:
        return _has_long_run(data)
    pending = [value]
    if (found := _holds_huge_float(pending, _SCANNED_VALUES_MAX)) is not None:
        return found
    # The bytes rule it out in 3 ms for a hostile 4 MiB; only digits in its texts, or such a number, cost more.
    return _has_long_run(data) and _holds_huge_float(pending, len(data)) is True


def with_own_numbers(value: Any) -> Any:
    """The value with Python's numbers only, for writers other than orjson. Raises ValueError beyond 254 levels."""
    return json.loads(orjson.dumps(value))


def as_plain(value: Any) -> Any:
    """The value as every reader can have it: half a surrogate pair is U+FFFD, a number is what a double holds of it.

    Raises ValueError beyond 254 levels, and for a number beyond a double.
    """
    try:
        text = orjson.dumps(value)
    except TypeError as exc:  # orjson.JSONEncodeError is one
        raise ValueError(str(exc)) from exc
    return _without_fragments(json.loads(text, parse_int=_plain_integer, parse_float=_plain_float))


def as_text(value: Any) -> str | None:
    """A text that was read, also one with half a surrogate pair; None for anything else, of whatever size."""
    if not isinstance(value, orjson.Fragment):
        return value if isinstance(value, str) else None
    try:
        plain = as_plain(value)
    except ValueError:  # A number beyond a double.
        return None
    return plain if isinstance(plain, str) else None


def _may_overflow(data: bytes) -> bool:
    return _LARGE_EXPONENT.search(data) is not None or _OVERFLOWING_RUN in data.translate(_AS_ZEROS)


def _has_long_run(data: Buffer) -> bool:
    return _LONG_RUN in bytes(data).translate(_AS_ZEROS)


def _holds_huge_float(pending: list[Any], values_max: int) -> bool | None:
    """Whether any number is so large that it may have been an integer beyond 64 bits; None if that is still open.

    `pending`: the values to check; afterwards, those that are left.
    """
    for _ in range(values_max):
        if not pending:
            return False
        found = pending.pop()
        if isinstance(found, dict):
            pending += found.values()
        elif isinstance(found, list):
            pending += found
        elif isinstance(found, float) and not _INT_MIN < found < _INT_MAX:
            return True
    return None if pending else False


def _read_exactly(data: bytes) -> Any:
    if sys.getrecursionlimit() < _CALLS_MAX:
        sys.setrecursionlimit(_CALLS_MAX)  # And left there: another thread may read, too.
    try:
        text = data.decode()
        value = json.loads(text, parse_int=_integer, parse_float=_float, parse_constant=_refuse)
        if _SURROGATE_ESCAPE.search(data) is not None:
            value = _without_half_pairs(value)
    except ValueError as exc:
        raise orjson.JSONDecodeError(str(exc), "", 0) from exc
    except RecursionError as exc:
        raise orjson.JSONDecodeError(_TOO_DEEP, "", 0) from exc
    if is_deeper_than(value, _LEVELS_MAX):
        raise orjson.JSONDecodeError(_TOO_DEEP, "", 0)
    return value


def _without_half_pairs(value: Any) -> Any:
    """The value, changed in place: each text that UTF-8 cannot hold as JSON. Raises ValueError for such a name."""
    whole = [value]
    pending: list[Any] = [whole]
    while pending:
        parent = pending.pop()
        for place, child in parent.items() if isinstance(parent, dict) else enumerate(parent):
            if isinstance(place, str):
                place.encode()
            if isinstance(child, (dict, list)):
                pending.append(child)
            elif isinstance(child, str) and _HALF_PAIR.search(child) is not None:
                parent[place] = orjson.Fragment(json.dumps(child))
    return whole[0]


def _integer(text: str) -> Any:
    if len(text) <= _SAFE_LEN:
        return int(text)
    if len(text) <= _FITTING_LEN and _INT_MIN <= (value := int(text)) <= _INT_MAX:
        return value
    return orjson.Fragment(text)


def _float(text: str) -> Any:
    value = float(text)
    return value if math.isfinite(value) else orjson.Fragment(text)


def _refuse(text: str) -> Never:
    raise ValueError(f"{text} is no JSON")


def _without_fragments(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_fragments(child) for name, child in value.items()}
    if isinstance(value, list):
        return [_without_fragments(child) for child in value]
    return _HALF_PAIR.sub("\ufffd", value) if isinstance(value, str) else value


def _plain_integer(text: str) -> int | float:
    value = _integer(text)
    return value if isinstance(value, int) else _plain_float(text)


def _plain_float(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)
