"""A large call is read but for its arguments where reading it whole finds the same, and in no other case."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.lossless_json.envelope import REST_BYTES_MAX, read_call
from agent.lossless_json.exact import read_json
from agent.lossless_json.unread import Unread
from agent.lossless_json.writable import LEVELS_MAX, writable
from tests.unit.lossless_json.test_writable import found, nested

MESSAGE = b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"a","arguments":%s,"_meta":{"k":1.50}}}'
read_json(b"[1e400]")  # Raises Python's limit of recursion for good, which hypothesis would note in mid-test.
READ = [
    *(b"{}", b'{"a":1}', b'{ "a" :\t[1 , 2.50]\r\n}', b'{"a":1,"a":2}', b'{"a":"\\u00e9\\ud83d\\ude00\\n\\/\\b"}'),
    *(b'{"":null}', b'{"a":"\x7f\xc3\xa9"}', b'{"a":[-0,0,-0.0,1e5,1E-400,1.5e+3,true,false,null]}'),
    *(b'{"a":1e400}', b'{"a":-1E400}', b'{"a":%s}' % (b"1" * 400), b'{"a":12345678901234567890123}', b'{"a":1.%s}'),
    *(b'{"a":"\\u0000"}', b'{"a\\u0000b":1}', b'{"a":%s}' % nested(LEVELS_MAX - 3), b'{"%s":1}' % (b"n" * 5_000)),
]
READ = [text % (b"3" * 5_000) if b"%s" in text else text for text in READ]
REFUSED = [
    *(b"", b"{", b"}", b"{}}", b"{,}", b'{"a"}', b'{"a":}', b'{"a":1,}', b'{"a":1 "b":2}', b"{a:1}", b"{'a':1}"),
    *(b'{"a":01}', b'{"a":-01}', b'{"a":1.}', b'{"a":.5}', b'{"a":-}', b'{"a":+1}', b'{"a":1e}', b'{"a":1E+}'),
    *(b'{"a":0x1}', b'{"a":NaN}', b'{"a":-Infinity}', b'{"a":tru}', b'{"a":nul}', b'{"a":True}', b'{"a":1 2}'),
    *(b'{"a":"\xff"}', b'{"\xff":1}', b'{"a":"\xed\xa0\x80"}', b'{"a":"\x00"}', b'{"a":"\n"}', b'{"a\r":1}'),
    *(b'{"a":"\\x"}', b'{"a":"\\u12"}', b'{"a":"\\u12g4"}', b'{"a":"}', b'{"a":[}', b'{"a":[1}', b'{"a":[1,]}'),
    *(b'{"a":[,1]}', b'{"a":[1 2]}', b'{"a":1}\x00', b'{"a":1\x0c}', b'{"a":1\xc2\xa0}', b'{"a":/**/1}', b"{1:1}"),
    *(b'{"\\ud83d":1}', b'{"a":{"\\ude00\\ud83d":1}}', b"\xef\xbb\xbf{}", b'{"a":%s}' % nested(1_100), b'{"a":"\t"}'),
]
WHOLE = [b"null", b"[]", b'"{}"', b"1", b"true", b'{"a":"\\ud83d"}', b'{"a":%s}' % nested(LEVELS_MAX - 2)]


def called(body: bytes) -> dict[str, Any] | None:
    return found(read_call(body)) if found(writable(body)) else None


def as_written(message: Any) -> bytes:
    """A message as JSON, whatever the order of its members."""
    return orjson.dumps(message, option=orjson.OPT_SORT_KEYS)


def agrees(body: bytes) -> bool:
    """Whether a body was read but for its arguments. Fails where that says another thing than reading it whole."""
    message = called(body)
    if message is None:
        return False
    whole = read_json(body)
    arguments = message["params"]["arguments"]
    assert isinstance(arguments, Unread)
    read = {**message, "params": {**message["params"], "arguments": arguments.read()}}
    assert as_written(read) == as_written({name: whole[name] for name in ("jsonrpc", "id", "method", "params")})
    assert list(message["params"]) == list(whole["params"])
    assert b"\n" not in arguments.raw
    assert b"\r" not in arguments.raw
    assert as_written(read_json(arguments.raw)) == as_written(whole["params"]["arguments"])
    return True


@pytest.mark.parametrize("arguments", READ)
def test_arguments_that_are_json_stay_as_they_were_written(arguments: bytes) -> None:
    assert agrees(MESSAGE % arguments)
    message = called(MESSAGE % arguments)
    assert message is not None
    assert message["params"]["arguments"].raw == arguments.replace(b"\r\n", b"  ")


@pytest.mark.parametrize("arguments", REFUSED)
def test_what_is_no_json_is_left_to_the_reader_that_refuses_it(arguments: bytes) -> None:
    assert called(MESSAGE % arguments) is None
    with pytest.raises(orjson.JSONDecodeError):
        read_json(MESSAGE % arguments)


@pytest.mark.parametrize("arguments", WHOLE)
def test_what_is_unusual_is_left_to_the_reader_of_all(arguments: bytes) -> None:
    assert called(MESSAGE % arguments) is None
    read_json(MESSAGE % arguments)


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        (
            b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":{"a":1},"arguments":{"b":2}}}',
            b'{"b":2}',
        ),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":{"a":1},"argum\\u0065nts":{}}}', b"{}"),
        (
            b'{"params":{"arguments":{}},"id":1,"jsonrpc":"2.0","params":{"arguments":{"b":2}},"id":"x","method":"prompts/get"}',
            b'{"b":2}',
        ),
        (
            b' {"zz":[1],"jsonrpc":"2.0","id":1,"method":"tools\\/call","params":{"a":0,"arguments" : {  } ,"b":1}} ',
            b"{  }",
        ),
    ],
)
def test_of_members_with_one_name_the_last_counts(body: bytes, arguments: bytes) -> None:
    assert agrees(body)
    message = called(body)
    assert message is not None
    assert message["params"]["arguments"].raw == arguments


@pytest.mark.parametrize(
    "body",
    [
        *(b"[%s]" % (MESSAGE % b"{}"), b"{}", b"[]", b"1", b'{"jsonrpc":"2.0","id":1,"result":{}}'),
        *(
            MESSAGE.replace(b"tools/call", name) % b"{}"
            for name in (b"tools/list", b"initialize", b"completion/complete")
        ),
        *(MESSAGE.replace(old, b"") % b"{}" for old in (b'"id":7,', b'"method":"tools/call",', b'"jsonrpc":"2.0",')),
        *(MESSAGE.replace(b'"tools/call"', new) % b"{}" for new in (b"1", b"null", b"[]", b'{"a":1}')),
        *(
            MESSAGE.replace(b'"params":{', b'"params":[],"params":{') % b"{}",
            (MESSAGE % b"{}")[:-2] + b',"\\ud83d":1}}',
        ),
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}}',
        *(MESSAGE.replace(b"1.50", b'"%s"' % (b"x" * REST_BYTES_MAX)) % b"{}", b" " * REST_BYTES_MAX + MESSAGE % b"{}"),
        MESSAGE.replace(b'"params":', b'"params":{%s},"params":' % b",".join([b'"a":1'] * 11_000)) % b"{}",
    ],
)
def test_any_other_message_is_read_whole(body: bytes) -> None:
    assert called(body) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.text(max_size=6) | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=15,
)
DAMAGE = st.sampled_from([*(bytes([code]) for code in range(256)), b"\\u", b"\\ud83d", b'"', b"\\", b"1e999", b"]}"])


@given(arguments=st.dictionaries(st.text(max_size=6), JSON, max_size=5), ascii_only=st.booleans(), indent=st.booleans())
def test_whatever_python_writes_is_left_unread(arguments: dict[str, Any], ascii_only: bool, indent: bool) -> None:
    written = json.dumps(arguments, ensure_ascii=ascii_only, indent=2 if indent else None)
    assert agrees(MESSAGE % written.encode("utf-8", "surrogatepass"))


@given(
    value=st.dictionaries(st.text(max_size=6), JSON, max_size=5),
    cuts=st.lists(st.tuples(st.integers(0), st.integers(0, 3), DAMAGE), min_size=1, max_size=3),
)
def test_nothing_passes_damaged_that_the_reader_refuses_or_reads_otherwise(
    value: dict[str, Any], cuts: list[tuple[int, int, bytes]]
) -> None:
    body = MESSAGE % json.dumps(value).encode()
    for place, dropped, put in cuts:
        at = place % len(body)
        body = body[:at] + put + body[at + dropped :]
    agrees(body)  # `read_json` raises within where the whole is refused.
