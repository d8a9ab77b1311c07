"""Reads JSON so that writing it again changes no number and no text.

Called wherever a message is read that is passed on: orjson reads integers beyond 64 bits as floats, and refuses floats
beyond a double and texts with half a surrogate pair, such as JavaScript cuts them. Here what orjson cannot hold stays
the JSON that it is, an `orjson.Fragment`, which orjson writes as it stands; so nothing that was read fails later, and
such a text is none where a name is needed. The one rule: all other values, and what is no JSON, are exactly orjson's.
"""

import json
import math
import re
from typing import Any, Final, TypeAlias

import orjson

Buffer: TypeAlias = bytes | bytearray | memoryview

# Digits as zeros, so that a run of any digits is found as one word.
_AS_ZEROS: Final = bytes.maketrans(b"123456789", b"0" * 9)
# 2**63 has 19 digits; what is shorter fits.
_LONG_RUN: Final = b"0" * 19
# Up to here it is quicker to look at the bytes (0.4 µs for a call), beyond it at the values: long texts cost nothing.
_LOOKED_AT_BYTES_MAX: Final = 4096
# So many values are looked at in 30 µs; a message may hold a million, and then its bytes are quicker again.
_LOOKED_AT_VALUES_MAX: Final = 256
# What orjson may have refused for its size: so many digits, or such an exponent. The digits are looked for as zeros: an
# expression that counts them reads each run anew from every place in it, which took 7 s for a hostile 4 MiB.
_OVERFLOWING_RUN: Final = b"0" * 309
_LARGE_EXPONENT: Final = re.compile(rb"[0-9][eE]\+?[0-9]{3}")
# orjson's own word; Python's json goes deeper from 3.12 on, and whatever comes after it would not.
_TOO_DEEP: Final = "depth limit exceeded"
# What JSON calls a surrogate, and what is left of one in Python where its other half is missing.
_SURROGATE_ESCAPE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_HALF_PAIR: Final = re.compile("[\ud800-\udfff]")
# Shorter integers are within 64 bits, longer ones than the second beyond it.
_SAFE_LEN: Final = 18
_FITTING_LEN: Final = 20
_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**64 - 1


def is_deeper_than(value: Any, levels_max: int) -> bool:
    """Whether more than `levels_max` objects and arrays lie inside each other; a text or a number has no level."""
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
    return _read_exactly(bytes(data)) if may_have_changed(data, value) else value


def may_have_changed(data: Buffer, value: Any) -> bool:
    """Whether any number in `data` may be another one in `value`, as which orjson has read it."""
    if len(data) <= _LOOKED_AT_BYTES_MAX:
        return _has_long_run(data)
    pending = [value]
    if (found := _holds_huge_float(pending, _LOOKED_AT_VALUES_MAX)) is not None:
        return found
    # What the bytes rule out costs a hostile 4 MiB 3 ms; only digits in its texts, or such a number, cost more.
    return _has_long_run(data) and _holds_huge_float(pending, len(data)) is True


def with_own_numbers(value: Any) -> Any:
    """The value with Python's numbers only, for who writes JSON by other means. Raises ValueError beyond 254 levels."""
    return json.loads(orjson.dumps(value))


def _may_overflow(data: bytes) -> bool:
    return _LARGE_EXPONENT.search(data) is not None or _OVERFLOWING_RUN in data.translate(_AS_ZEROS)


def _has_long_run(data: Buffer) -> bool:
    return _LONG_RUN in bytes(data).translate(_AS_ZEROS)


def _holds_huge_float(pending: list[Any], values_max: int) -> bool | None:
    """Whether any number is so large that it may have been an integer beyond 64 bits; None if that is still open.

    `pending`: the values to look at; those that are left, afterwards.
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
    try:
        text = data.decode()
        value = json.loads(text, parse_int=_integer, parse_float=_float, parse_constant=_refuse)
        if _SURROGATE_ESCAPE.search(data) is not None:
            value = _without_half_pairs(value)
    except (ValueError, RecursionError) as exc:
        raise orjson.JSONDecodeError(str(exc), "", 0) from exc
    return value


def _without_half_pairs(value: Any) -> Any:
    """The value with each text that is none in UTF-8 as JSON. Raises ValueError for such a name of a member."""
    if isinstance(value, str):
        return orjson.Fragment(json.dumps(value)) if _HALF_PAIR.search(value) else value
    if isinstance(value, list):
        return [_without_half_pairs(item) for item in value]
    if isinstance(value, dict):
        for name in value:
            name.encode()
        return {name: _without_half_pairs(item) for name, item in value.items()}
    return value


def _integer(text: str) -> Any:
    if len(text) <= _SAFE_LEN:
        return int(text)
    if len(text) <= _FITTING_LEN and _INT_MIN <= (value := int(text)) <= _INT_MAX:
        return value
    return orjson.Fragment(text)


def _float(text: str) -> Any:
    value = float(text)
    return value if math.isfinite(value) else orjson.Fragment(text)


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")
