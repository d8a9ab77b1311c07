"""What is read of a large message, what stays JSON, and that it says the same as one that is read whole."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agent.lossless_json import large as module
from agent.lossless_json import proof
from agent.lossless_json.exact import read_json
from agent.lossless_json.large import Crowded, Place, TooManyMembers, read_large
from agent.model import Json
from tests.unit.lossless_json.test_proof import ended

LONG = "x" * 600_000
TEXTS = st.text(alphabet='ab"\\\n é漢😀,[]{}:', max_size=24)
NUMBERS = st.sampled_from([0, 1, -7, 2.5, 1e300, 10**25, 12345678901234567890])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=25,
)
CALLS = st.builds(
    lambda name, arguments, meta: {"id": 1, "params": {"name": name, "arguments": arguments, "_meta": meta}},
    TEXTS,
    st.dictionaries(TEXTS, VALUES, max_size=5),
    VALUES,
)
FORMS = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:  ")])
# Put into a text at any place; nothing stands for a byte that is left out.
CHANGES = [b"", *map(bytes, zip(b',[]{}:"\\0e.- \x01\xff')), b"\\ud83d", b"\\udc00", b"1e999", b"9" * 400, b'"a":1,']
LIMITS = st.sampled_from([(8, 16), (8, 40), (16, 400)])


def call(arguments: Json, **params: Any) -> Json:
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "a", "arguments": arguments} | params}


def written(message: object, form: tuple[str, str], escaped: bool) -> bytes:
    return json.dumps(message, separators=form, ensure_ascii=escaped).encode()


def read(message: object) -> Any:
    return ended(read_large(orjson.dumps(message)))


def outcome(data: bytes, *, in_pieces: bool) -> object:
    """What is written of a message, read again; or that it cannot be read, or cannot be written."""
    try:
        written = orjson.dumps(ended(read_large(data)) if in_pieces else read_json(data))
        return json.loads(written)
    except orjson.JSONDecodeError:
        return "no JSON"
    except TypeError:
        return "too deep"
    except TooManyMembers:
        return "refused"


@given(
    data=st.builds(written, CALLS | st.lists(CALLS, max_size=3) | VALUES, FORMS, st.booleans()),
    limits=LIMITS,
    room=st.integers(0, 300),
    change=st.none() | st.tuples(st.integers(0, 2_000), st.sampled_from(CHANGES)),
)
def test_a_message_in_pieces_is_what_it_is_whole(
    data: bytes, limits: tuple[int, int], room: int, change: tuple[int, bytes] | None
) -> None:
    if change is not None:
        place = change[0] % (len(data) + 1)
        data = data[:place] + change[1] + data[place + (not change[1]) :]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(proof, "_FIRST_BYTES", limits[0])
        patched.setattr(proof, "PIECE_BYTES", limits[1])
        patched.setattr(proof, "_WORD_BYTES_MAX", 12)
        patched.setattr(module, "_SHORT_BYTES", 40)
        patched.setattr(module, "_SMALL_STEPS", (room // 2, room))
        patched.setattr(module, "_BYTES_MAX", {**module._BYTES_MAX, Place.ARGUMENT: room, Place.PARAM: room})
        found = outcome(data, in_pieces=True)
    assume(found != "refused")
    assert found == outcome(data, in_pieces=False), data


def test_what_is_large_stays_as_it_was_written() -> None:
    rows = b'[{"a" : 1.50, "b": "\\u00e9"},' + b" [1e5 , -0]," * 20_000 + b"1E400]"
    data = b'{"id":1,"params":{"arguments":{"rows":' + rows + b', "small" : {"a":1} } } }'
    message = ended(read_large(data))
    assert message["params"]["arguments"]["small"] == {"a": 1}
    assert orjson.dumps(message["params"]["arguments"]["rows"]) == rows


def test_members_are_read_wherever_they_stand_and_the_last_one_of_a_name_counts() -> None:
    pad = '"pad":["' + "x" * 300_000 + '"]'
    arguments = f'{{"region":"eu",{pad},"region":"us","in":{{{pad},"n":7}}}}'
    data = f'{{{pad},"params":{{"arguments":{arguments},"name":"n",{pad},"n\\u0061me":"m"}},"id":5}}'
    message = ended(read_large(data.encode()))
    assert message["id"] == 5
    assert message["params"]["name"] == "m"
    found = message["params"]["arguments"]
    assert (found["region"], found["in"]["n"]) == ("us", 7)
    assert isinstance(found["pad"], orjson.Fragment)


def test_a_request_state_is_read_and_a_longer_text_is_not() -> None:
    state = "s" * 300_000
    message = read(call({"text": LONG}, requestState=state, other=LONG))
    assert message["params"]["requestState"] == state
    assert isinstance(message["params"]["other"], orjson.Fragment)
    assert isinstance(message["params"]["arguments"]["text"], orjson.Fragment)


def test_arguments_with_too_many_members_are_passed_on_whole() -> None:
    arguments = {f"n{number}": number for number in range(30_000)}
    message = read(call(arguments, _meta={"a": 1}))
    crowded = message["params"]["arguments"]
    assert isinstance(crowded, Crowded)
    assert len(crowded) == 1
    assert message["params"]["_meta"] == {"a": 1}
    assert orjson.loads(orjson.dumps(message)) == call(arguments, _meta={"a": 1})


@pytest.mark.parametrize("crowds", [1, 3, 8])
def test_one_argument_with_too_many_members_hides_no_other(crowds: int) -> None:
    many = {f"n{number}": {"in": number} for number in range(3_000)}
    arguments = {"a": 1, **{f"b{number}": many for number in range(crowds)}, "c": {"d": "e"}}
    found = read(call(arguments))["params"]["arguments"]
    assert not isinstance(found, Crowded)
    assert (found["a"], found["c"]) == (1, {"d": "e"})
    assert all(isinstance(found[f"b{number}"], Crowded) for number in range(crowds))
    assert orjson.loads(orjson.dumps(found)) == arguments


@pytest.mark.parametrize("place", ["message", "params", "_meta", "batch"])
def test_too_many_members_elsewhere_are_refused(place: str) -> None:
    many = {f"n{number}": number for number in range(30_000)}
    message: object = {
        "message": {**call({}), **many},
        "params": call({}, **many),
        "_meta": call({}, _meta=many),
        "batch": [call({})] * 1_000,
    }[place]
    with pytest.raises(TooManyMembers):
        read(message)


def test_what_a_request_says_of_itself_is_read_or_refused_and_never_left_unread() -> None:
    fits = read(call({"text": LONG}, _meta={"pad": "x" * 90_000, "path": ["a", "b"]}))
    assert fits["params"]["_meta"]["path"] == ["a", "b"]
    with pytest.raises(TooManyMembers):
        read(call({"text": LONG}, _meta={"pad": "x" * 98_290, "path": ["a", "b"]}))


@pytest.mark.parametrize(
    "message", [b"[" + b"{}," * 2_000 + b" " * 140_000 + b"{}]", b'{"a":[' + b"[]," * 60_000 + b"1]}"]
)
def test_looking_for_the_ends_of_small_values_costs_by_their_own_bytes(
    message: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[int] = []

    def counted(window: bytes, stack: bytes) -> proof.Cut | None:
        looked_at.append(len(window))
        return proof.cut_of(window, stack)

    monkeypatch.setattr(module, "cut_of", counted)
    ended(read_large(message))
    assert sum(looked_at) < 3 * len(message)


def test_a_batch_is_a_list_of_messages() -> None:
    batch = read([call({"text": LONG}), call({"n": 1})])
    assert [message["method"] for message in batch] == ["tools/call"] * 2
    assert batch[1] == call({"n": 1})


@pytest.mark.parametrize("levels", [250, 251, 252, 600])
def test_what_is_too_deep_to_be_written_whole_is_not_written_either(levels: int) -> None:
    begin, end = b'{"params":{"arguments":{"a":' + b"[" * levels, b"]" * levels
    small = begin + end + b',"b":["' + LONG.encode() + b'"]}}}'
    assert outcome(small, in_pieces=True) == outcome(small, in_pieces=False)
    large = begin + b'"' + LONG.encode() + b'"' + end + b"}}}"
    assert (outcome(large, in_pieces=True) == "too deep") == (levels > 251)


def test_a_place_knows_the_place_of_its_members() -> None:
    assert Place.MESSAGE.of_member("params") is Place.PARAMS
    assert Place.PARAMS.of_member("arguments") is Place.ARGUMENTS
    assert Place.PARAM.of_member("arguments") is Place.ELSEWHERE


def test_a_batch_is_read_in_many_steps() -> None:
    assert len(list(read_large(b"[" + b"{}," * 1_000 + b"{}]"))) >= 1_000


def test_reading_is_done_in_many_steps() -> None:
    steps = read_large(orjson.dumps(call({"rows": [{"a": 1}] * 100_000})))
    assert sum(1 for _ in steps) > 20
