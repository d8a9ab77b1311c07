"""`mesh-agent events` and `top` over a stream as a node sends it, and over what is none."""

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from agent.cli.live import sparkline
from agent.cli.parser import main

UP = {"key": "peer:b", "name": "b", "kind": "peer", "state": "ready", "connected": True, "functions": 3}
DOWN = {"key": "server:c", "name": "c", "kind": "server", "state": "backoff", "connected": False, "last_error": "gone"}
FIRST = {
    "first": True,
    "node": {"name": "front"},
    "links": [DOWN, UP],
    "rates": {"peer:b": [20.0, 0.5, 3.0]},
    "events": [{"at": 0, "text": "peer b is new\x1b[31m"}],
}
THEN = {"rates": {}, "events": [{"at": 1, "text": "server c is gone"}], "gone": ["server:c"]}


@contextmanager
def streaming(*lines: bytes, status: int = 200) -> Iterator[str]:
    """A server that answers each request with these lines and ends; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.wfile.write(b"".join(lines))

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def data(change: object) -> bytes:
    return b"data: " + json.dumps(change).encode() + b"\n\n"


def test_events_are_those_so_far_and_with_a_word_those_that_come(capsys: pytest.CaptureFixture[str]) -> None:
    with streaming(data(FIRST), b":\n\n", data(THEN)) as url:
        assert main(["events", "--url", url]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 1
        assert "peer b is new" in lines[0]
        assert "\x1b" not in lines[0]
        assert main(["events", "--follow", "--json", "--url", url]) == 0
        assert [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()][1:] == ["server c is gone"]


def test_top_shows_the_busiest_link_first_and_why_one_is_down(capsys: pytest.CaptureFixture[str]) -> None:
    with streaming(data(FIRST)) as url:
        assert main(["top", "--url", url]) == 0
        title, _, heads, first, second = capsys.readouterr().out.splitlines()
        assert title == "front: 1 of 2 links connected"
        assert first.split()[:6] == ["b", "peer", "ready", "20.0", "0.5", "3.0"]
        assert "CALLS/S" in heads
        assert second.endswith("gone")
        assert main(["top", "--json", "--url", url]) == 0
        assert json.loads(capsys.readouterr().out)["rates"] == FIRST["rates"]


@pytest.mark.parametrize(
    ("values", "columns", "bars"),
    [([0, 1, 4, 8], 9, " ▁▄█"), ([8, 1, 2], 2, "▄█"), ([0, 0], 9, "  "), ([], 9, ""), ([-1.0, 5.0], 9, " █")],
)
def test_calls_of_the_last_minutes_are_bars_and_the_highest_one_is_full(
    values: list[float], columns: int, bars: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert sparkline(values, columns) == bars


def test_top_shows_the_history_of_calls_and_not_of_errors_that_never_were(capsys: pytest.CaptureFixture[str]) -> None:
    history = [[1.0, 4, 0, 1.0, 2.5], [2.0, 8, 0, 1.0, 1.0], "odd"]
    with streaming(data({**FIRST, "history": history})) as url:
        assert main(["top", "--url", url]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:6].strip() for line in lines[1:4]] == ["calls", "p99 ms", ""]
    assert lines[1].endswith("8 at most")
    assert lines[2].endswith("2.5 at most")


@pytest.mark.parametrize(
    ("lines", "status", "code", "said"),
    [
        ((b"data: {\n\n",), 200, 4, "no JSON"),
        ((b'{"success": false, "message": "m", "error": {"code": "insufficient_scope"}}',), 403, 3, "m"),
        ((b"<html>",), 404, 4, "not like a mesh node"),
    ],
)
def test_what_is_no_stream_is_one_line_with_its_code(
    lines: tuple[bytes, ...], status: int, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with streaming(*lines, status=status) as url:
        assert main(["events", "--url", url]) == code
    [line] = capsys.readouterr().err.splitlines()
    assert said in line
