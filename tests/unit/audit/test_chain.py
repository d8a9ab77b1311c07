"""The chain of the audit: what it shows, and every way in which a file can differ from what was written."""

import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.audit.chain import NOTHING_BEFORE, ChainBroken, Head, checked, read_line, record_line

TIME = "2026-11-29T04:00:00.000Z"


def lines(number: int) -> list[bytes]:
    head, written = Head(), []
    for index in range(number):
        line, head = record_line(head, TIME, "peer.add", "ops", {"peer": f"p{index}"})
        written.append(line)
    return written


def test_a_record_has_its_number_its_hash_and_the_one_before() -> None:
    first, second = (orjson.loads(line) for line in lines(2))
    assert (first["seq"], first["prev"], first["act"], first["who"], first["peer"]) == (
        1,
        NOTHING_BEFORE,
        "peer.add",
        "ops",
        "p0",
    )
    assert (second["seq"], second["prev"]) == (2, first["hash"])


def test_a_whole_chain_ends_at_its_head() -> None:
    written = lines(5)
    found = list(checked(written))
    assert [record["seq"] for record, _ in found] == [1, 2, 3, 4, 5]
    assert found[-1][1] == read_line(written[-1])[1]
    assert len(list(checked(written[2:]))) == 3, "older files may have been dropped"


@given(st.integers(0, 4), st.integers(0, 400), st.integers(1, 255))
def test_any_changed_byte_of_any_line_shows(number: int, place: int, change: int) -> None:
    written = lines(5)
    line = bytearray(written[number])
    place %= len(line) - 1
    line[place] ^= change
    changed = [*written[:number], bytes(line), *written[number + 1 :]]
    with pytest.raises(ChainBroken) as broken:
        list(checked(changed))
    assert broken.value.number in (number + 1, number + 2)


def test_any_other_order_and_any_missing_line_but_the_first_shows() -> None:
    written = lines(4)
    for order in itertools.permutations(range(4)):
        if list(order) != sorted(order):
            with pytest.raises(ChainBroken):
                list(checked([written[index] for index in order]))
    for missing in (1, 2):
        with pytest.raises(ChainBroken, match="what was between is gone"):
            list(checked([*written[:missing], *written[missing + 1 :]]))


def test_a_file_has_to_follow_the_one_before_it() -> None:
    written = lines(4)
    *_, (_, head) = checked(written[:2])
    assert len(list(checked(written[2:], head))) == 2
    with pytest.raises(ChainBroken, match="line 1"):
        list(checked(written[3:], head))


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"7", b"{}", b'{"seq":true,"time":"","act":"","who":"","prev":""}'])
def test_what_is_no_record_is_refused_as_such(line: bytes) -> None:
    with pytest.raises(ValueError, match="is no "):
        read_line(line)


def test_fields_never_take_the_place_of_the_chains_own_members() -> None:
    forged: dict[str, Any] = {"seq": 7, "prev": "x", "who": "nobody", "hash": "y"}
    line, head = record_line(Head(), TIME, "peer.add", "ops", forged)
    record, read = read_line(line)
    assert (record["seq"], record["prev"], record["who"], read) == (1, NOTHING_BEFORE, "ops", head)


@given(st.binary(max_size=80))
def test_no_bytes_are_more_than_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_line(line)
