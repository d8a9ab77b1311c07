"""The event parser against the WHATWG rules, and against every way of cutting a stream into chunks."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.client.http.sse import EventTooLarge, SseParser

STREAM = (
    b"\xef\xbb\xbf: hello\r\n"
    b'id: 7\r\nevent: message\r\ndata: {"a":\r\ndata:1}\r\n\r\n'
    b"event: other\ndata: not for us\n\n"
    b"data\n\n"
    b"retry: 100\rdata: x\r\r"
    b"data: last\n\n"
    b"data: never finished"
)
EVENTS = [b'{"a":\n1}', b"x", b"last"]


def parse(chunks: list[bytes], limit: int = 1000) -> list[bytes]:
    parser = SseParser(limit)
    return [event for chunk in chunks for event in parser.feed(chunk)]


def test_all_line_endings_comments_and_the_byte_order_mark_are_understood() -> None:
    assert parse([STREAM]) == EVENTS


@given(st.lists(st.integers(min_value=0, max_value=len(STREAM)), max_size=20))
def test_any_cutting_into_chunks_gives_the_same_events(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    assert parse([STREAM[start:end] for start, end in itertools.pairwise(edges)]) == EVENTS


def test_single_bytes_give_the_same_events() -> None:
    assert parse([bytes([byte]) for byte in STREAM]) == EVENTS


@given(st.lists(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1), max_size=5))
def test_data_lines_come_back_joined_by_newlines(lines: list[str]) -> None:
    stream = "".join(f"data: {line}\n" for line in lines) + "\n"
    expected = [] if not lines else ["\n".join(lines).encode()]
    assert parse([stream.encode()], limit=100_000) == expected


def test_only_one_space_after_the_colon_is_dropped() -> None:
    assert parse([b"data:  two\n\ndata:none\n\n"]) == [b" two", b"none"]


def test_an_event_of_exactly_the_limit_passes_and_one_byte_more_does_not() -> None:
    assert parse([b"data: " + b"x" * 50 + b"\n\n"], limit=50) == [b"x" * 50]
    with pytest.raises(EventTooLarge):
        parse([b"data: " + b"x" * 51 + b"\n\n"], limit=50)


def test_an_endless_event_of_empty_lines_is_refused_before_it_ends() -> None:
    assert parse([b"data:\n" * 51 + b"\n"], limit=50) == [b"\n" * 50]
    with pytest.raises(EventTooLarge):
        parse([b"data:\n" * 52], limit=50)


def test_an_endless_line_is_refused_before_it_ends() -> None:
    with pytest.raises(EventTooLarge):
        parse([b"x" * 40] * 3, limit=100)


def test_many_data_lines_count_together() -> None:
    with pytest.raises(EventTooLarge):
        parse([b"data: xxxxxxxxxx\n"] * 11, limit=100)


def test_a_finished_event_does_not_count_against_the_next() -> None:
    assert len(parse([b"data: xxxxxxxxxx\n\n"] * 100, limit=20)) == 100


def test_the_repr_shows_how_much_is_held() -> None:
    parser = SseParser(100)
    parser.feed(b"data: abc\ndata: de")
    assert repr(parser) == "<SseParser 1 data lines, 11 bytes held>"


def test_what_resumes_a_stream_is_kept_of_whole_events_only() -> None:
    parser = SseParser(1000)
    assert parser.feed(b"retry: 250\nid: 1\ndata:\n\nid: 2\ndata: x\n\ndata: y\n\nid: 3\ndata: half") == [b"x", b"y"]
    assert (parser.last_id, parser.retry_ms) == (b"2", 250)
    for odd in (b"id: a\0b\n", b"retry: soon\n", b"retry: 1e9\n", b"retry: -1\n", b"retry: 12345678901\n"):
        parser = SseParser(1000, b"2", 250)
        parser.feed(odd + b"data: z\n\n")
        assert (parser.last_id, parser.retry_ms) == (b"2", 250)


def test_an_endpoint_is_kept_and_is_no_message() -> None:
    parser = SseParser(1000)
    assert parser.endpoint is None
    assert parser.feed(b"event: endpoint\r\ndata: /messages?id=1\r\n\r\n") == []
    assert parser.endpoint == b"/messages?id=1"
