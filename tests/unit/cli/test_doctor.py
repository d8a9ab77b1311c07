"""`mesh-agent doctor` in this process: against no node, against a program that is none, and with a servers file."""

import json
import socket
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from agent.cli.parser import main

CONSUL_LEADER = '"10.0.0.1:8300"'
RIGHTS = [
    {"Resource": "service", "Access": "write", "Allow": True},
    {"Resource": "node", "Access": "read", "Allow": False},
]


@pytest.fixture
def program() -> Iterator[str]:
    """A program that is no node, but has Consul's answers; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, CONSUL_LEADER if "leader" in self.path else "<html>")

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._send(200, json.dumps(RIGHTS))

        def _send(self, status: int, text: str) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def findings(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] == all(row["status"] != "fault" for row in told["findings"])
    return {row["check"]: row for row in told["findings"]}


def test_no_node_is_a_fault_of_the_port_and_what_is_here_is_looked_at_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (servers := tmp_path / "servers.json").write_text(
        json.dumps({"mcpServers": {"good": {"command": sys.executable}, "bad": {"command": "no-such-command-here"}}})
    )
    monkeypatch.setenv("MESH_SERVERS_FILE", str(servers))
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PORT", str(held.getsockname()[1]))
    assert main(["doctor", "--json"]) == 1
    found = findings(capsys)
    assert found["port"]["fix"] == "start a node with `mesh-agent run`, or give its --url"
    assert "no-such-command-here was not found" in found["servers"]["cause"]
    assert (found["settings"]["status"], found["consul"]["status"]) == ("ok", "skipped")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "What to do:" in out
    assert "  servers: change the servers file" in out


def test_another_program_at_the_port_is_no_node_and_consul_says_which_right_is_lacking(
    program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_ADDR", program.removeprefix("http://"))
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "canary-of-consul")
    assert main(["doctor", "--url", program, "-o", "json"]) == 1
    out = capsys.readouterr()
    assert "canary" not in out.out + out.err
    found = {row["check"]: row for row in json.loads(out.out)["findings"]}
    assert "does not answer as a node" in found["port"]["cause"]
    assert found["consul"]["cause"].endswith("lacks node:read")


def test_settings_that_cannot_be_used_are_one_fault_among_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PORT", "none")
    assert main(["doctor", "--url", "http://name.invalid", "--json"]) == 1
    found = findings(capsys)
    assert "PORT" in found["settings"]["cause"]
    assert "cannot be resolved" in found["port"]["cause"]
