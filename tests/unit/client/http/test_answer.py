"""Heads and chunks by themselves: what servers send in other forms than most, and where an answer is said to end."""

from uuid import uuid4

import pytest

from agent.client.http.answer import (
    FIELD_BYTES_MAX,
    FIELDS_MAX,
    BadAnswer,
    Chunks,
    Head,
    end_of_head,
    parsed_head,
    whole_answer,
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


DATE = "Date: Sun, 29 Nov 2026 22:00:00 GMT"


def answer_of(body: bytes, *lines: str, length: int | None = None) -> bytes:
    declared = f"Content-Length: {len(body) if length is None else length}"
    head = "\r\n".join(("HTTP/1.1 200 OK", "Content-Type: application/json", declared, *lines, "", ""))
    return head.encode() + body


def known(*lines: str) -> None:
    """Have a head of these lines come once, of another length and with another proof."""
    parsed_head(answer_of(b"", *lines, length=987))


def test_an_answer_is_whole_once_its_head_has_come_before_whatever_its_length() -> None:
    once = f"X-Once: {uuid4()}"
    assert whole_answer(answer_of(b"{}", once)) is None
    known(once)
    for body in (b"", b"{}", b"x" * 100_000):
        found = whole_answer(answer_of(body, once))
        assert found is not None
        assert (found.body, found.proof, found.head.status) == (body, None, 200)


def test_each_answer_has_its_own_proof() -> None:
    once = f"X-Once: {uuid4()}"
    known("Mesh-Proof: 0a1b", once)
    for proof in ("ff00", "0a1b", "unknown"):
        found = whole_answer(answer_of(b"{}", f"Mesh-Proof: {proof}", once))
        assert found is not None
        assert found.proof == proof
    assert whole_answer(answer_of(b"{}", once)) is None, "one without a proof has another head"


@pytest.mark.parametrize("lines", [(), ("Date: Sun, 29 Nov 2026 22:00:00 GMT", "Mesh-Proof: 0a1b")])
def test_an_answer_that_is_known_by_the_one_before_is_what_a_search_finds(lines: tuple[str, ...]) -> None:
    once = f"X-Once: {uuid4()}"
    known(once, *lines)
    before = whole_answer(answer_of(b"{}", once, *lines))
    assert before is not None
    for data in (answer_of(b"x" * 5_000, once, *lines), answer_of(b"", once, *lines), answer_of(b"{}", once, *lines)):
        assert whole_answer(data, before.known) == whole_answer(data) is not None
        for part in (data + b"x", data[:-1], data.replace(b"X-Once", b"X-Else")):
            assert whole_answer(part, before.known) is None


@pytest.mark.parametrize("name", ["Date", "date"])
def test_an_answer_of_another_second_is_known_as_well(name: str) -> None:
    once = f"X-Once: {uuid4()}"
    known(f"{name}: Sun, 29 Nov 2026 22:00:00 GMT", once)
    for second in range(1, 4):
        assert whole_answer(answer_of(b"{}", f"{name}: Sun, 29 Nov 2026 22:00:0{second} GMT", once)) is not None


@pytest.mark.parametrize(
    "line",
    [
        "Date: Sun, 29 Nov 2026 22:00:00\nX: y",  # As long as a date.
        "Date: Sun, 29 Nov 2026 22:00:00\x00GMT",
        "Date: Sun, 29 Nov 2026",
        "Date: Sun, 29 Nov 2026 22:00:00 GMT, and more",
        "X: Date: Sun, 29 Nov 2026 22:00:00 GMT",
    ],
)
def test_a_date_hides_nothing_else_of_its_head(line: str) -> None:
    once = f"X-Once: {uuid4()}"
    known("Date: Sun, 29 Nov 2026 22:00:00 GMT", once)
    known(once)
    assert whole_answer(answer_of(b"{}", line, once)) is None


@pytest.mark.parametrize(
    ("kept", "other"),
    [
        (("Connection: clos", f"{DATE}e"), ("Connection: close", DATE)),
        (("Connection: keep-alive", f"{DATE}\r\n , close"), ("Connection: keep-alive\r\n , close", DATE)),
    ],
)
def test_what_follows_a_date_is_not_taken_for_the_end_of_the_line_before_it(
    kept: tuple[str, str], other: tuple[str, str]
) -> None:
    once = f"X-Once: {uuid4()}"
    known(once, *kept)
    assert whole_answer(answer_of(b"{}", once, *other)) is None


@pytest.mark.parametrize(
    "lines",
    [
        ("Mesh-Proof: 0a\nTransfer-Encoding: chunked",),
        ("Mesh-Proof: 0a\nConnection: close",),
        ("Mesh-Proof: 0a\x00",),
        ("Mesh-Proof: ",),
        ("Mesh-Proof: \x00",),
        ("Mesh-Proof: \u00e9",),
        ("Mesh-Proof: 0a", "Mesh-Proof: 0b"),
        ("Mesh-Proof: 0a", "Content-Length: 2"),
        ("Mesh-Proof: 0a", "Transfer-Encoding: chunked"),
        ("mesh-proof: 0a",),
    ],
)
def test_a_proof_hides_nothing_else_of_its_head(lines: tuple[str, ...]) -> None:
    once = f"X-Once: {uuid4()}"
    known("Mesh-Proof: 0a1b", once)
    known(once)
    assert whole_answer(answer_of(b"{}", *lines, once)) is None


@pytest.mark.parametrize(
    "data",
    [
        answer_of(b"{}")[:-1],
        answer_of(b"{}") + b"\n",
        answer_of(b"{}") * 2,
        answer_of(b"{}", length=1),
        answer_of(b"{}", length=3),
        answer_of(b"{}").replace(b"\r\n\r\n", b"\r\n"),
        answer_of(b"{}").replace(b": 2", b": -2"),
        answer_of(b"{}").replace(b": 2", b": 0000000000000002"),
        b"HTTP/1.1 100 Continue\r\n\r\n" + answer_of(b"{}"),
        b"",
        b"\r\n\r\n",
    ],
)
def test_what_is_not_one_answer_from_beginning_to_end_is_not_taken_at_a_glance(data: bytes) -> None:
    parsed_head(answer_of(b"", length=987))
    assert whole_answer(answer_of(b"{}")) is not None
    assert whole_answer(data) is None


@pytest.mark.parametrize(
    "line", ["Content-Encoding: gzip", "Set-Cookie: a=b", "Connection: close", "X-Long: " + "x" * 1_024]
)
def test_a_head_that_says_more_is_looked_at_each_time(line: str) -> None:
    parsed_head(answer_of(b"", line, length=2))
    assert whole_answer(answer_of(b"{}", line)) is None


def test_no_more_heads_are_remembered_than_a_few() -> None:
    for number in range(500):
        parsed_head(answer_of(b"", f"X-Each: {number}", length=2))
        assert whole_answer(answer_of(b"{}", f"X-Each: {number}")) is not None
    assert whole_answer(answer_of(b"{}", "X-Each: 1")) is None
