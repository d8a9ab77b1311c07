"""A head that is known again is the head that a search would find, and nothing else is known again."""

import pytest

from agent.client.http.same_head import Beginning, same_head

HEAD = b"POST /mcp HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\nAccept: any\r\n\r\n"
PROVEN = b"POST /mcp HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\nMesh-Proof: kit.1.ab\r\n\r\n"


def again(head: bytes, data: bytes) -> Beginning[str] | None:
    known = same_head(head)
    return None if known is None else known.again(data, "known")


@pytest.mark.parametrize("head", [HEAD, HEAD.replace(b"Content-Length", b"content-length")])
def test_a_head_of_another_length_is_known_again(head: bytes) -> None:
    longer = head.replace(b": 2\r", b": 1234\r")
    assert again(head, longer + b"{}") == Beginning("known", len(longer), 1234, None)


def test_a_proof_is_read_out_of_a_head_that_is_known_again() -> None:
    other = PROVEN.replace(b"kit.1.ab", b"kit.23.cd-_")
    assert again(PROVEN, other + b"{}") == Beginning("known", len(other), 2, "kit.23.cd-_")


@pytest.mark.parametrize(
    "data",
    [
        HEAD[:-1],
        HEAD.replace(b"Host: here", b"Host: else"),
        HEAD.replace(b"Accept: any", b"Accept: one"),
        HEAD.replace(b": 2\r", b": \r"),
        HEAD.replace(b": 2\r", b": +2\r"),
        HEAD.replace(b": 2\r", b": 1234567890\r"),
        HEAD.replace(b"Content-Length: 2\r\n", b"Content-Length: 2\r\nContent-Length: 3\r\n"),
        HEAD.replace(b"\r\n\r\n", b"\r\nMore: 1\r\n\r\n"),
    ],
)
def test_a_head_that_differs_elsewhere_is_not_known_again(data: bytes) -> None:
    assert again(HEAD, HEAD) is not None
    assert again(HEAD, data) is None


@pytest.mark.parametrize("proof", [b"", b"a b", b"ab\r\nHost: else", b"a" * 257, b"ab\n\n"])
def test_what_is_no_proof_is_not_read_out_of_a_head(proof: bytes) -> None:
    assert again(PROVEN, PROVEN) is not None
    assert again(PROVEN, PROVEN.replace(b"kit.1.ab", proof)) is None


@pytest.mark.parametrize(
    "head",
    [
        HEAD.replace(b"Content-Length: 2\r\n", b""),
        HEAD.replace(b"Content-Length: ", b"Content-Length:"),
        b"POST /mcp HTTP/1.1\r\nMesh-Proof: kit.1.ab\r\nContent-Length: 2\r\n\r\n",
        b"POST /mcp HTTP/1.1\r\nContent-Length: 2\r\nMesh-Proof: kit.1.ab\r\nHost: here\r\n\r\n",
    ],
)
def test_a_head_that_is_written_otherwise_is_searched_each_time(head: bytes) -> None:
    assert same_head(head) is None
