"""Reads JSON so that writing it again changes no number.

Called wherever a message is read that is passed on: orjson reads integers beyond 64 bits as floats and refuses floats
beyond a double. Here such a number stays the text that it is, an `orjson.Fragment`, which orjson writes as it stands.
The one rule: all other values, and what is no JSON, are exactly orjson's.
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
# What orjson may have refused for its size: so many digits, or such an exponent. The digits are looked for as zeros: an
# expression that counts them reads each run anew from every place in it, which took 7 s for a hostile 4 MiB.
_OVERFLOWING_RUN: Final = b"0" * 309
_LARGE_EXPONENT: Final = re.compile(rb"[0-9][eE]\+?[0-9]{3}")
# Shorter integers are within 64 bits, longer ones than the second beyond it.
_SAFE_LEN: Final = 18
_FITTING_LEN: Final = 20
_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**64 - 1


def read_json(data: Buffer) -> Any:
    """The value of a JSON text. Raises `orjson.JSONDecodeError`."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        if not _may_overflow(bytes(data)):
            raise
        return _read_exactly(bytes(data))
    return _read_exactly(bytes(data)) if _may_have_changed(data, value) else value


def holds_huge_float(value: Any) -> bool:
    """Whether any number that orjson read is so large that it may have been an integer beyond 64 bits."""
    pending = [value]
    while pending:
        found = pending.pop()
        if isinstance(found, dict):
            pending += found.values()
        elif isinstance(found, list):
            pending += found
        elif isinstance(found, float) and not _INT_MIN < found < _INT_MAX:
            return True
    return False


def with_own_numbers(value: Any) -> Any:
    """The value with Python's numbers only, for who writes JSON by other means. Raises ValueError beyond 254 levels."""
    return json.loads(orjson.dumps(value))


def _may_overflow(data: bytes) -> bool:
    return _LARGE_EXPONENT.search(data) is not None or _OVERFLOWING_RUN in data.translate(_AS_ZEROS)


def _may_have_changed(data: Buffer, value: Any) -> bool:
    if len(data) <= _LOOKED_AT_BYTES_MAX:
        return _LONG_RUN in bytes(data).translate(_AS_ZEROS)
    return holds_huge_float(value)


def _read_exactly(data: bytes) -> Any:
    try:
        text = data.decode()
        value = json.loads(text, parse_int=_integer, parse_float=_float, parse_constant=_refuse)
        if "\\u" in text:
            # Half a surrogate pair is no text; only here is it found.
            json.dumps(value, ensure_ascii=False, default=repr).encode()
    except (ValueError, RecursionError) as exc:
        raise orjson.JSONDecodeError(str(exc), "", 0) from exc
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
