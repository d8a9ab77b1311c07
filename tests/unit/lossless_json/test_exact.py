"""Reading JSON without changing a number that it holds."""

import json
import time
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.lossless_json.exact import as_plain, as_text, may_have_changed, read_json, with_own_numbers

HUGE = ["9223372036854775808", "18446744073709551616", "-9223372036854775809", "1" + "0" * 30, "9" * 5000]
OVERFLOWING = ["1e400", "-1E+400", "1" * 400 + ".5"]
# As deep as orjson reads, and as long as makes the reader look at values instead of bytes.
LONG_TEXT = "x" * 5000


@pytest.mark.parametrize("number", HUGE + OVERFLOWING)
@pytest.mark.parametrize("padding", ["", LONG_TEXT])
def test_a_number_that_fits_nowhere_is_written_as_it_was_read(number: str, padding: str) -> None:
    text = f'{{"pad":"{padding}","deep":[{{"n":{number}}},1.0,2]}}'.encode()
    assert orjson.dumps(read_json(text)) == text
    assert orjson.dumps(read_json(memoryview(text))) == text


@given(
    st.recursive(
        st.none() | st.booleans() | st.text() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=20,
    )
)
def test_whatever_python_writes_is_read_and_written_unchanged(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False).encode()
    assert json.loads(orjson.dumps(read_json(text))) == value
    assert repr(with_own_numbers(read_json(text))) == repr(value)


@pytest.mark.parametrize("number", ["-9223372036854775808", "18446744073709551615", "1.0", "1e308", "-0.0", "0"])
def test_a_number_that_fits_is_an_ordinary_one(number: str) -> None:
    value = read_json(f"[{number}, {10**20}]".encode())[0]
    assert type(value) in (int, float)
    assert repr(value) == repr(orjson.loads(number))


def test_digits_in_a_text_are_no_number() -> None:
    for padding in ("", LONG_TEXT):
        assert read_json(orjson.dumps(["1" * 40, padding])) == ["1" * 40, padding]


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"{", b"[1e400", b"[1e400]]", b"[01e400]", b"[NaN,1e400]", b"[1e400,Infinity]"),
        *(
            b'{"\\ud800":1e400}',
            b'{"\\ud800":1}',
            b'["\\ud8",1e400]',
            b'["\xff",1e400]',
            b"[" * 1100 + b"1e400" + b"]" * 1100,
        ),
    ],
)
def test_what_is_no_json_stays_none_beside_a_number_that_fits_nowhere(text: bytes) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        read_json(text)


@pytest.mark.timeout(180)
def test_what_is_no_json_is_refused_in_time_that_grows_with_its_size_alone() -> None:
    began_s = time.thread_time()
    with pytest.raises(orjson.JSONDecodeError):
        read_json(b'{"a":"' + (b"9" * 308 + b"x") * (32 * 1024 * 1024 // 309))
    # It takes 0.2 s; a search that reads each run of digits again and again takes a minute.
    assert time.thread_time() - began_s < 10


def test_a_surrogate_pair_beside_such_a_number_is_a_character() -> None:
    assert read_json(b'["\\ud83d\\ude00",1e400]')[0] == "\N{GRINNING FACE}"


@pytest.mark.parametrize("cut", ["\\ud83d", "\\ude00", "\\ude00\\ud83d", "a\\uD83Db", "\\ud83d\\\\u0041"])
@pytest.mark.parametrize("padding", ["", LONG_TEXT])
def test_half_a_surrogate_pair_is_written_as_the_same_text(cut: str, padding: str) -> None:
    text = f'{{"pad":"{padding}","deep":[{{"t":"{cut}"}},1.0,1e400,"\\ud83d\\ude00"]}}'
    value = read_json(text.encode())
    assert json.loads(orjson.dumps(value)) == json.loads(text)
    assert not isinstance(value["deep"][0]["t"], str)


def test_a_number_that_fits_nowhere_is_found_behind_very_many_values() -> None:
    for many in ("[]", '{"a":1}', '"1234567890123456789"'):
        text = b"[" + b",".join([b"18446744073709551616", *[many.encode()] * 5000]) + b"]"
        assert orjson.dumps(read_json(text)) == text


def test_very_many_values_without_a_long_number_are_not_looked_at_one_by_one() -> None:
    text = b"[" + b",".join([b"[]"] * 100_000) + b"]"
    value = orjson.loads(text)
    value[0] = 1e300  # Not in the bytes, so a check of each value finds it.
    assert not may_have_changed(text, value)


@pytest.mark.parametrize("inner", ["1", "1e400", str(2**70), '"\\ud800"'])
@pytest.mark.parametrize(("opening", "closing"), ["[]", ('{"a":', "}")])
def test_as_many_levels_are_read_on_every_path(inner: str, opening: str, closing: str) -> None:
    value = read_json(f"{opening * 1024}{inner}{closing * 1024}".encode())
    for _ in range(1024):
        (value,) = value if isinstance(value, list) else value.values()
    assert orjson.dumps(value) == inner.encode()
    with pytest.raises(orjson.JSONDecodeError, match="depth limit exceeded"):
        read_json(f"{opening * 1025}{inner}{closing * 1025}".encode())


def test_of_two_members_of_one_name_the_last_one_counts_as_in_orjson() -> None:
    assert orjson.dumps(read_json(b'{"a":1e400,"b":2,"a":1e401}')) == b'{"a":1e401,"b":2}'


def test_plain_values_are_what_every_writer_can_write() -> None:
    text = (
        rb'{"half":["\ud800a","\ud83d\ude00"],"long":18446744073709551616,"fits":18446744073709551615,"n":[null,1.5]}'
    )
    plain = as_plain(read_json(text))
    assert plain == {
        "half": ["\ufffda", "\U0001f600"],
        "long": float(2**64),
        "fits": 2**64 - 1,
        "n": [None, 1.5],
    }
    assert orjson.loads(orjson.dumps(plain)) == plain == as_plain(plain)
    for refused in (b'{"a":1e400}', b"9" * 400, b'["\\ud800",' + b"[" * 300 + b"]" * 300 + b"]"):
        with pytest.raises(ValueError, match=r"JSON|ecursion|levels"):
            as_plain(read_json(refused))


def test_a_text_is_a_text_and_nothing_else_is_of_whatever_size() -> None:
    said = read_json(b'["a", "", "\\ud83da", 1' + b"0" * 400 + b', 1e400, {"a": "b"}, null]')
    assert [as_text(one) for one in said] == ["a", "", "\ufffda", None, None, None, None]
