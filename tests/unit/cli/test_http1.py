"""One HTTP exchange over a real socket, with servers that answer well, badly, or with something else."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agent.cli.http1 import Answer, Connection, HttpFault

BODY_BYTES_MAX = 1_000


@contextmanager
def answering(*parts: bytes) -> Iterator[tuple[Connection, list[bytes]]]:
    """A server that reads one request and writes these parts, each on its own, and then closes."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            served, _ = listening.accept()
            with served:
                served.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                heard.append(served.recv(65_536))
                for part in parts:
                    served.sendall(part)

        thread = threading.Thread(target=serve)
        thread.start()
        with Connection("127.0.0.1", listening.getsockname()[1]) as connection:
            connection.open(5.0)
            yield connection, heard
        thread.join()


def asked(connection: Connection) -> Answer:
    connection.limit(due_s=time.monotonic() + 5.0)
    return connection.send("POST", "/x?y=1", {"X-One": "1"}, b"{}")


@pytest.mark.parametrize(
    "parts",
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: Text/Plain; charset=utf-8\r\n\r\nhello and more",),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200\r\ncontent-type: text/plain\r\n\r\nhello",),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/plain\r\n\r\n2;x=1\r\nhe",
            b"\r\n3\r\nllo\r\n0\r\n\r\n",
        ),
        tuple(bytes([byte]) for byte in b"HTTP/1.1 200 OK\nContent-Length: 5\nContent-Type: text/plain\n\nhello"),
    ],
)
def test_an_answer_is_read_however_its_length_is_given_and_its_bytes_come(parts: tuple[bytes, ...]) -> None:
    with answering(*parts) as (connection, heard):
        answer = asked(connection)
        assert (answer.status, answer.content_type, answer.body(BODY_BYTES_MAX)) == (200, "text/plain", b"hello")
    head, _, body = heard[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /x?y=1 HTTP/1.1\r\nHost: 127.0.0.1:")
    assert {b"X-One: 1", b"Content-Length: 2", b"Connection: close"} <= set(head.split(b"\r\n"))
    assert body == b"{}"


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((), "closed the connection without an answer"),
        ((b"SSH-2.0-OpenSSH_9\r\n",), "does not speak HTTP: SSH-2.0"),
        ((b"HTTP/1.1 200 OK\r\nA: 1\r\n",), "headers have no end"),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",), "broke off in the middle"),
        ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",), "broke off in the middle"),
        ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",), "broke off in the middle"),
        ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfive\r\nhello",), "has no length"),
        ((b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2_000,), "larger than 1000 bytes"),
    ],
)
def test_what_is_no_whole_answer_is_a_fault_that_says_so(parts: tuple[bytes, ...], words: str) -> None:
    with answering(*parts) as (connection, _), pytest.raises(HttpFault, match=words):
        asked(connection).body(BODY_BYTES_MAX)


def test_lines_of_a_stream_come_whole_whatever_parts_they_come_in() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with answering(head, b"4\r\nab\nc\r\n", b"3\r\nd\ne\r\n", b"0\r\n\r\n") as (connection, _):
        assert list(asked(connection).lines()) == [b"ab", b"cd", b"e"]


def test_a_header_that_would_forge_another_is_not_sent() -> None:
    with pytest.raises(HttpFault, match="cannot be sent"):
        Connection("127.0.0.1", 1).send("GET", "/", {"A": "1\r\nB: 2"}, None)


def test_a_server_that_trickles_is_given_up_when_the_time_is_over() -> None:
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe") as (connection, _):
        answer = asked(connection)
        connection.limit(due_s=time.monotonic())
        with pytest.raises(TimeoutError):
            answer.body(BODY_BYTES_MAX)
