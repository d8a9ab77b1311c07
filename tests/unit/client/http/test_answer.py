"""Heads and chunks by themselves: what servers send in other forms than most, and where an answer is said to end."""

import pytest

from agent.client.http.answer import (
    FIELD_BYTES_MAX,
    FIELDS_MAX,
    BadAnswer,
    Chunks,
    Head,
    end_of_head,
    parsed_head,
)


def head_of(*lines: str, end: str = "\r\n") -> Head:
    data = end.join((*lines, "", "")).encode()
    assert end_of_head(data + b"body\n\n") == len(data)
    return parsed_head(data)


def test_lines_may_end_with_a_line_feed_alone() -> None:
    head = head_of("HTTP/1.1 200 OK", "Content-Length: 5", "X: a b ", end="\n")
    assert (head.status, head.length, head.headers["x"]) == (200, 5, "a b")


def test_a_value_that_goes_on_in_the_next_line_is_one_value() -> None:
    assert head_of("HTTP/1.1 200 OK", "X: a", "  b", "Y: c").headers["X"] == "a b"


def test_fields_of_one_name_are_all_kept_in_order() -> None:
    head = head_of("HTTP/1.1 200 OK", "Set-Cookie: a=1", "set-cookie: b=2")
    assert head.headers.getall("Set-Cookie") == ["a=1", "b=2"]


def test_bytes_that_are_no_text_are_kept_as_they_are() -> None:
    head = parsed_head(b"HTTP/1.1 200 OK\r\nX: \xff\r\n\r\n")
    assert head.headers["X"].encode("utf-8", "surrogateescape") == b"\xff"


@pytest.mark.parametrize(
    ("lines", "closing"),
    [
        (("HTTP/1.1 200 OK", "Content-Length: 1"), False),
        (("HTTP/1.1 200 OK", "Content-Length: 1", "Connection: x", "Connection: Close"), True),
        (("HTTP/1.0 200 OK", "Content-Length: 1"), True),
        (("HTTP/1.0 200 OK", "Content-Length: 1", "Connection: Keep-Alive"), False),
        (("HTTP/1.0 200 OK", "Transfer-Encoding: chunked", "Connection: keep-alive"), True),
        (("HTTP/1.1 200 OK", "Transfer-Encoding: gzip, Chunked"), False),
        (("HTTP/1.1 200 OK", "Transfer-Encoding: chunked, gzip"), True),
        (("HTTP/1.1 200",), True),
        (("HTTP/1.1 204 No Content",), False),
        (("HTTP/1.1 200 OK", "Upgrade: h2c", "Connection: Upgrade, Keep-Alive", "Content-Length: 1"), False),
    ],
)
def test_a_connection_ends_with_an_answer_that_says_so_or_has_no_other_end(
    lines: tuple[str, ...], closing: bool
) -> None:
    assert head_of(*lines).closing is closing


def test_an_endless_head_is_refused_before_it_is_complete() -> None:
    begun = b"HTTP/1.1 200 OK\r\n"
    assert end_of_head(begun) is None
    with pytest.raises(BadAnswer, match="does not end"):
        end_of_head(begun + b"X" * FIELDS_MAX * FIELD_BYTES_MAX)


def test_endless_lines_between_chunks_are_refused() -> None:
    for begun in (b"5;" + b"a" * 10_000, b"0\r\n" + b"X: 1\r\n" * 200, b"0\r\nX:" + b"a" * 10_000, b"1\r\nab"):
        with pytest.raises(BadAnswer):
            Chunks().fed(begun)


def test_what_follows_the_last_chunk_is_handed_back() -> None:
    chunks = Chunks()
    assert chunks.fed(b"2\r\nab\r\n0\r\n\r\nmore") == ([b"ab"], b"more")
    assert chunks.done
    assert repr(chunks) == "<Chunks done>"
