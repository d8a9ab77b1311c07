"""A result is kept as bytes only where they are one JSON object and the envelope holds nothing else."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.client import jsonrpc as rpc
from agent.errors import ProtocolBroken
from agent.lossless_json.raw import RawObject, answered_id, answered_id_of_ends, exact, read_response

PYTHON = b'{"jsonrpc":"2.0","id":7,"result":%s}'
SPACED = b' {"jsonrpc": "2.0", "id": 7, "result": %s}\n'
TYPESCRIPT = b'{"result":%s,"jsonrpc":"2.0","id":7}'

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=12,
)
objects = st.dictionaries(st.sampled_from(["content", "isError", "result", "id", "jsonrpc", "}"]), json_values)


def pairs_of(message: bytes) -> list[tuple[str, Any]]:
    """The members of the outermost object as they stand, doubled ones too."""
    outermost: list[tuple[str, Any]] = []

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        outermost[:] = pairs  # Inner objects come first.
        return dict(pairs)

    json.loads(message, object_pairs_hook=keep)
    return outermost


@pytest.mark.parametrize("layout", [PYTHON, SPACED, TYPESCRIPT])
@given(result=objects, indented=st.booleans())
def test_a_result_keeps_its_bytes_in_every_usual_layout(layout: bytes, result: dict[str, Any], indented: bool) -> None:
    written = orjson.dumps(result, option=orjson.OPT_INDENT_2 if indented else 0)
    message = read_response(layout % written)
    assert message == {"jsonrpc": "2.0", "id": 7, "result": result}
    found = message["result"]
    assert isinstance(found, RawObject)
    assert bytes(found.raw) == written.replace(b"\n", b" ")


@given(
    inner=st.one_of(
        st.text(alphabet='{}[]",:\\ \n"1ab'),
        st.builds(lambda one, more: f"{json.dumps(one)}{more}", objects, st.text(alphabet='{}[]",:\\ "1ab')),
    ),
    layout=st.sampled_from([PYTHON, SPACED, TYPESCRIPT]),
)
@example(inner='{},"result":{"a":1}', layout=PYTHON)
@example(inner='{},"error":{"code":1,"message":""}', layout=TYPESCRIPT)
@example(inner='{},"id":8,"result":{}', layout=PYTHON)
def test_what_is_kept_as_bytes_is_one_object_on_one_line(inner: str, layout: bytes) -> None:
    message = read_response(layout % inner.encode())
    if message is None:
        return
    raw = bytes(message["result"].raw)
    assert b"\n" not in raw
    assert b"\r" not in raw
    answer = b'{"jsonrpc":"2.0","id":1,"result":' + raw + b"}"
    assert [name for name, _ in pairs_of(answer)] == ["jsonrpc", "id", "result"]
    assert json.loads(raw) == message["result"]


@pytest.mark.parametrize(
    "message",
    [
        b'{"jsonrpc":"2.0","id":7,"result":{},"result":{"later":1}}',
        b'{"id":7,"result":{"later":1},"jsonrpc":"2.0"}',
        b'{"jsonrpc":"2.0","id":7,"result":{"later":1},"x":{}}',
    ],
)
def test_other_layouts_are_read_as_ever_and_keep_no_bytes(message: bytes) -> None:
    result = rpc.result_of(rpc.decode(message))
    assert result == {"later": 1}
    assert not isinstance(result, RawObject)


def test_a_changed_copy_of_a_result_has_no_bytes() -> None:
    message = read_response(PYTHON % b'{"a":1}')
    assert message is not None
    assert not isinstance({**message["result"], "b": 2}, RawObject)
    assert not isinstance(message["result"] | {"b": 2}, RawObject)


@pytest.mark.parametrize("deep", [b'{"n":1180591620717411303424}', b'{"a":{"n":[-1180591620717411303424]}}'])
def test_a_result_that_is_written_anew_keeps_numbers_that_no_float_holds(deep: bytes) -> None:
    message = read_response(PYTHON % (b'{"kept":%s,"more":"%s"}' % (deep, b"x" * 5000)))
    assert message is not None
    assert deep in orjson.dumps({**exact(message["result"]), "new": 1})


def test_a_result_of_ordinary_numbers_is_not_read_again() -> None:
    message = read_response(PYTHON % b'{"n":[1,1.5,-7]}')
    assert message is not None
    assert exact(message["result"]) is message["result"]


@pytest.mark.parametrize(
    ("line", "answered"),
    [
        (PYTHON % b'{"mean":NaN}', 7),
        (SPACED % b'{"mean": NaN}', 7),
        (TYPESCRIPT % b'{"mean":NaN}', 7),
        (b'{"id": 7, "jsonrpc": "2.0", "result": {"mean": NaN}}', 7),
        (b'{"jsonrpc": "2.0", "id": 7, "error": {"data": NaN}}', 7),
        (b'{"jsonrpc": "2.0", "id": 7, "method": "ping", "params": {"x": NaN}}', None),
        (b'{"jsonrpc": "2.0", "id": 7, "result": {"content": [{"te...', None),
        (b'sent {"jsonrpc": "2.0", "id": 7, "result": {"mean": NaN}}', None),
        (b'{"jsonrpc": "2.0", "id": "7", "result": {"mean": NaN}}', None),
        (b'{"loss": NaN, "id": 7, "result": 1}', None),
    ],
)
def test_an_answer_that_is_no_json_still_says_whose_it_is(line: bytes, answered: int | None) -> None:
    assert answered_id(line) == answered
    if answered is None:
        with pytest.raises(ProtocolBroken):
            rpc.decode(line)
    else:
        message = rpc.decode(line)
        assert message["id"] == answered
        with pytest.raises(ProtocolBroken, match="not JSON"):
            rpc.result_of(message)


@pytest.mark.parametrize(
    ("head", "tail", "request_id"),
    [
        (b'{"jsonrpc":"2.0","id":7,"result":{"a', None, 7),
        (b'{"id": 7, "jsonrpc": "2.0", "error": {"code', None, 7),
        (b'{"result":{"a":"x', None, None),
        (b'{"result":{"a":"x', b'x"},"jsonrpc":"2.0","id":7}', 7),
        (b'{ "result": {"a":"x', b'x"}, "id": 7, "jsonrpc": "2.0" }\r', 7),
        (b'{"result":{"a":"x', b'x"},"id":7}', 7),
        (b'{"result":{"a":"x', b'x","id":7}}', None),
        (b'{"jsonrpc":"2.0","id":7,"method":"roots/list"', b',"id":8}', None),
        (b'{"method":"sampling/createMessage","params":{"a', b'x"},"jsonrpc":"2.0","id":7}', None),
        (b"Loading", b',"id":7}', None),
    ],
)
def test_the_ends_of_a_response_tell_whose_it_is(head: bytes, tail: bytes | None, request_id: int | None) -> None:
    assert answered_id_of_ends(head, tail) == request_id
