"""A large body is read but for its arguments where reading it whole finds the same; what is no JSON is refused."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.lossless_json import outline
from agent.lossless_json.envelope import read_message
from agent.lossless_json.exact import read_json
from agent.lossless_json.outline import BodyRefused
from agent.lossless_json.unread import Unread
from agent.lossless_json.writable import LEVELS_MAX
from agent.rpc_codes import PARSE_ERROR
from tests.unit.lossless_json.test_outline import sent
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
NO_OBJECTS = [b"null", b"[]", b'"{}"', b"1", b"true"]


def called(body: bytes) -> Any:
    """A message whose arguments stay unread, however small they are; None for what is refused."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outline, "_READ_BYTES_MAX", 1)
        try:
            return found(read_message(body))
        except BodyRefused as exc:
            return None if (exc.status, exc.code) == (400, PARSE_ERROR) else exc


def as_written(message: Any) -> bytes:
    """A message as JSON, whatever the order of its members."""
    return orjson.dumps(message, option=orjson.OPT_SORT_KEYS)


def agrees(body: bytes) -> bool:
    """Whether the arguments of a body stayed unread. Fails where that says another thing than reading it whole."""
    message = called(body)
    if message is None or message == []:  # A list is refused by its first byte.
        return False
    whole = read_json(body)
    params = message.get("params") if isinstance(message, dict) else None
    arguments = params.get("arguments") if isinstance(params, dict) else None
    if not isinstance(arguments, Unread):
        return False
    assert as_written({**message, "params": 0}) == as_written({name: whole[name] for name in message} | {"params": 0})
    assert as_written(sent(params)) == as_written(whole["params"])
    assert b"\n" not in arguments.raw
    assert b"\r" not in arguments.raw
    return True


@pytest.mark.parametrize("arguments", READ)
def test_arguments_that_are_json_stay_as_they_were_written(arguments: bytes) -> None:
    assert agrees(MESSAGE % arguments)
    message = called(MESSAGE % arguments)
    assert message is not None
    assert message["params"]["arguments"].raw == arguments.replace(b"\r\n", b"  ")


@pytest.mark.parametrize("arguments", REFUSED)
def test_what_is_no_json_is_refused(arguments: bytes) -> None:
    assert called(MESSAGE % arguments) is None
    with pytest.raises(orjson.JSONDecodeError):
        read_json(MESSAGE % arguments)


@pytest.mark.parametrize("arguments", NO_OBJECTS)
def test_arguments_that_are_no_object_are_refused_whatever_they_hold(arguments: bytes) -> None:
    assert not agrees(MESSAGE % arguments)


@pytest.mark.parametrize("levels", [LEVELS_MAX - 2, 1_000])
def test_what_no_node_could_write_again_is_refused_though_it_is_json(levels: int) -> None:
    assert called(MESSAGE % (b'{"a":%s}' % nested(levels))) is None


@pytest.mark.parametrize("body", [b"null", b"1", b"true", b'"{}"', b" [%s]" % (MESSAGE % b"{}"), b"[", b"[]"])
def test_json_that_is_no_message_is_known_by_its_beginning(body: bytes) -> None:
    assert called(body) == []


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
