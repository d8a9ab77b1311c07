"""Whether a part of a text is proven to be JSON by its pieces exactly where the whole is JSON."""

from collections.abc import Generator
from typing import TypeVar

import orjson
import pytest

from agent.lossless_json import proof as module
from agent.lossless_json.exact import read_json
from agent.lossless_json.proof import Proof

T = TypeVar("T")
LEVELS = 1_024


def ended(steps: Generator[None, None, T]) -> T:
    """What a generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            value: T = end.value
            return value


@pytest.fixture(autouse=True, params=[(8, 16), (8, 40), (16, 400)])
def tiny_pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    first, most = request.param
    monkeypatch.setattr(module, "_FIRST_BYTES", first)
    monkeypatch.setattr(module, "PIECE_BYTES", most)
    monkeypatch.setattr(module, "_WORD_BYTES_MAX", 12)


VALUES = {
    "arrays": b"[[1,[2,3],[]],[[[4]]],5]",
    "objects": b'{"a":{"b":{"c":[{"d":1},{"e":{}}]}},"f":null}',
    "white space": b'[ 1 ,\n\t{ "a" :\r 2 } , [ ] ]' + b" " * 5,
    "wide white space": b"[1" + b" \n" * 60 + b"," + b"\t" * 99 + b"2]",
    "a long name": b'{"' + b"name" * 40 + b'" : 1, "b":2}',
    "a long name before a long text": b'{"' + b"name" * 40 + b'" : "' + b"text" * 40 + b'" , "b" : 2}',
    "a long number": b"[1," + b"1" * 200 + b"." + b"2" * 99 + b"e-7,2]",
    "numbers beyond a double": b"[1e999,-1e999," + b"9" * 400 + b"]",
    "escapes": b'["' + b'\\"\\\\\\n\\u00e9' * 30 + b'","x"]',
    "pairs of escapes": b'["' + rb"\ud83d\ude00" * 30 + b'"]',
    "pairs of escapes in a name": b'{"' + rb"\ud83d\ude00" * 30 + b'":1}',
    "half a pair": rb'["aaaaaaaaaaaaaaaaaaa\ud83d","\ude00aaaaaaaaaaaaaaaaaaaaaaaa"]',
    "characters of many bytes": ("[" + ",".join('"' + one * 20 + '"' for one in "aé漢😀") + "]").encode(),
    "brackets and quotes in texts": b'["{[",",]}\\"[","\\\\",{"a,b]":"}{"}]',
    "a quote behind backslashes": b'["\\\\\\\\\\\\\\"","\\\\\\\\"]',
    "members of one name": b'{"a":1,"a":[2,2,2,2,2,2,2,2,2],"":3,"":4}',
    "deep": b"[" * LEVELS + b"]" * LEVELS,
    "deep objects": b'{"a":' * 400 + b"1" + b"}" * 400,
    "a text": b'"' + b"text" * 50 + b'"',
    "a number": b"-12.50e+3",
    "a constant": b"false",
}


@pytest.mark.parametrize("kind", VALUES)
def test_a_value_ends_where_it_ends_wherever_its_pieces_end(kind: str) -> None:
    value = VALUES[kind]
    read_json(value)
    for before, behind in ((b"", b""), (b'{"a" : ', b" , 1]")):
        found = ended(Proof(before + value + behind).value_end(len(before), 0))
        assert found == len(before) + len(value.rstrip())


NO_VALUES = {
    "nothing": b"",
    "one bracket": b"[",
    "no end": b"[1,2,[3,4,[5,6,[7,8,[9,10",
    "another bracket": b"[1,2,3,4,5,6,7,8,9,10}",
    "another bracket deep in it": b"[[[[1,2,3,4,5,6,7]]],{]]",
    "a comma before the end": b"[1,2,3,4,5,6,7,8,9,10,11,12,]",
    "a comma before the end of an object": b'{"aaaaaaaaaa":1,"bbbbbbbbbb":2,}',
    "a comma first": b"[[[[[[[[[[,1]]]]]]]]]]",
    "a comma first in an object": b'[[[[[[[{,"a":1}]]]]]]]',
    "two commas": b"[1,2,3,4,5,6,,7]",
    "no comma": b"[[1,2,3,4,5,6,7] [8]]",
    "no comma before a fraction": b"[[1,2,3,4,5,6,7].5]",
    "no comma before an exponent": b'{"a":{"aaaaaaa":1}e5}',
    "no name": b'{"aaaaaaaaaa":1,2:3}',
    "no text as name": b"{aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa:1}",
    "no value": b'{"aaaaaaaaaa":1,"bbbbbbbbbb":}',
    "no colon": b'{"aaaaaaaaaa":1,"bbbbbbbbbb" 1}',
    "a long name without a value": b'{"' + b"name" * 40 + b'"}',
    "two long texts": b'["' + b"a" * 99 + b'" "' + b"b" * 99 + b'"]',
    "a long text as a second value": b'{"a":1 "' + b"b" * 99 + b'":1}',
    "a colon in an array": b'["' + b"a" * 99 + b'":1]',
    "two colons": b'{"' + b"a" * 99 + b'"' + b" " * 99 + b"::1}",
    "leading zeros": b"[" + b"0" * 99 + b"]",
    "a long word": b"[" + b"x" * 500 + b"]",
    "two dots": b"[" + b"1" * 99 + b".1.1]",
    "NaN": b"[1,2,3,4,5,6,7,8,9,NaN]",
    "a control character": b'["' + b"a" * 99 + b'\x01"]',
    "a line break in a text": b'["' + b"a" * 99 + b'\n"]',
    "no escape": b'["' + b"a" * 99 + b'\\x"]',
    "an escape that is cut": b'["' + b"a" * 99 + b'\\u00"]',
    "no UTF-8": b'["' + b"a" * 99 + b'\xff"]',
    "half a character": '["漢漢漢漢漢漢漢漢漢漢漢漢"]'.encode().replace(b'\xa2"', b'"'),
    "a surrogate as UTF-8": b'["' + b"a" * 99 + b'\xed\xa0\x80"]',
    "half a pair in a name": b'{"' + b"a" * 99 + rb"\ud83d" + b'":1}',
    "half a pair in a short name": rb'{"aaaa\ude00":1}',
    "half a pair in a name that is dropped": rb'{"aaaaaaa":{"":{"\ud83d":1},"bbbbbbbbbbbbbbbbbbbbb":2},"c":3}',
    "too deep": b"[" * (LEVELS + 1) + b"]" * (LEVELS + 1),
    "a text without an end": b'"' + b"a" * 99,
    "a text that ends with its backslash": b'["' + b"a" * 99 + b'\\"]',
    "a word": b"tru",
    "a byte order mark": b"\xef\xbb\xbf[]",
}


@pytest.mark.parametrize("kind", NO_VALUES)
def test_what_is_no_json_whole_is_none_in_pieces(kind: str) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        read_json(NO_VALUES[kind])
    with pytest.raises(orjson.JSONDecodeError):
        ended(Proof(NO_VALUES[kind]).value_end(0, 0))


def test_the_levels_around_a_value_count() -> None:
    value = b"[" * 1_000 + b"]" * 1_000
    proof = Proof(value)
    ended(proof.value_end(0, 24))
    assert proof.levels == LEVELS
    with pytest.raises(orjson.JSONDecodeError, match="depth limit exceeded"):
        ended(proof.value_end(0, 25))


def test_an_error_says_what_is_wrong_and_where() -> None:
    text = b"[" + b"1," * 300 + b"x" + b",1" * 300 + b"]"
    with pytest.raises(orjson.JSONDecodeError, match="unexpected character, expected a JSON value") as refused:
        ended(Proof(text).value_end(0, 0))
    assert refused.value.pos == text.index(b"x")
