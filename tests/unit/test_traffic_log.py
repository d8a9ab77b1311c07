"""The line in the log about each request: what became of it, and what is kept out of it."""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from agent.authority.caller import Caller, caller, serve_for
from agent.authority.grant import Grant, Scope
from agent.errors import MCPError
from agent.lossless_json.exact import read_json
from agent.mcp_terms import CLIENT_INFO_META_KEY
from agent.model import NODE_CLIENT_NAME, POLL_META_KEY, PROBE_META_KEY, Json
from agent.rest.tokens import TokenTable
from agent.server.request_log import NAME_LEN_LOGGED, REQUEST_ID_LEN_LOGGED, Served, logged, write_usual


@contextmanager
def served_for(holder: Caller) -> Iterator[None]:
    """Serve requests in the name of this caller."""
    before = caller()
    serve_for(holder)
    try:
        yield
    finally:
        serve_for(before)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "agent.mcp")
    return caplog


def serve(method: str, params: Json, failure: BaseException | None = None, **served: Any) -> None:
    with logged(method, params) as how:
        for name, value in served.items():
            setattr(how, name, value)
        if failure is not None:
            raise failure


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [
        (MCPError(code=-32001, message="lost"), "error -32001"),
        (asyncio.CancelledError(), "ended by the client"),
        (ConnectionResetError("the client has gone"), "ended by the client"),
        (RuntimeError("a bug"), "failed"),
    ],
)
def test_a_request_that_ends_badly_is_logged_as_its_client_hears_of_it(
    failure: BaseException, outcome: str, log: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(type(failure)):
        serve("tools/call", {"name": "kit__do"}, failure)
    assert [vars(line)["outcome"] for line in log.records] == [outcome]


def test_a_request_is_logged_with_its_server_and_nothing_of_what_it_carries(log: pytest.LogCaptureFixture) -> None:
    serve("tools/call", {"name": "kit__do", "arguments": {"secret": 1}}, backend="server:kit")
    serve("resources/read", {"uri": "x" * 1000})
    serve("tools/call", {"name": 5}, tool_error=True)
    told = [{name: vars(line)[name] for name in ("mcp_name", "backend", "outcome")} for line in log.records]
    assert told == [
        {"mcp_name": "kit__do", "backend": "server:kit", "outcome": "ok"},
        {"mcp_name": "x" * NAME_LEN_LOGGED, "backend": Served().backend, "outcome": "ok"},
        {"mcp_name": None, "backend": Served().backend, "outcome": "tool_error"},
    ]
    assert not any("secret" in str(vars(line)) for line in log.records)


def test_what_peers_ask_every_few_seconds_and_when_they_join_is_no_line(log: pytest.LogCaptureFixture) -> None:
    joins = {"_meta": {CLIENT_INFO_META_KEY: {"name": NODE_CLIENT_NAME, "version": "1"}}}
    serve("server/discover", {"_meta": {PROBE_META_KEY: True}})
    serve("server/discover", joins)
    serve("tools/call", {"name": "kit__do", "requestState": "s", "_meta": {POLL_META_KEY: True}})
    assert log.records == []
    serve("server/discover", {"_meta": {PROBE_META_KEY: "yes"}})
    serve("tools/call", {"name": "kit__do", "requestState": "s", "_meta": {POLL_META_KEY: "yes"}})
    with pytest.raises(MCPError):
        serve("server/discover", joins, MCPError(code=-32022, message="no such version"))
    assert len(log.records) == 3


def test_request_is_logged_with_its_client_its_id_and_its_trace(log: pytest.LogCaptureFixture) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    grant = Grant("ci", scopes=frozenset({Scope.MCP}))
    with served_for(Caller(grant)):
        with logged("tools/call", {"name": "kit__do", "_meta": {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}}, 7):
            pass
        with logged("tools/call", {"name": "kit__do", "_meta": {"traceparent": "nonsense\x1b[31m"}}, "x" * 1000):
            pass
    told = [{name: vars(line).get(name) for name in ("caller", "request_id", "trace")} for line in log.records]
    assert told == [
        {"caller": "ci", "request_id": 7, "trace": trace},
        {"caller": "ci", "request_id": "x" * REQUEST_ID_LEN_LOGGED, "trace": None},
    ]


@pytest.mark.parametrize("request_id", ["18446744073709551621", r'"half \ud800"', "-9223372036854775809"])
def test_an_id_that_is_json_that_was_not_read_is_logged_as_its_text(
    request_id: str, log: pytest.LogCaptureFixture
) -> None:
    params, read = {"name": "kit__do"}, read_json(request_id.encode())
    with logged("tools/call", params, read):
        pass
    write_usual(("tools/call", params, read), Caller(Grant("ci")), "server:kit", time.monotonic())
    assert [vars(line)["request_id"] for line in log.records] == [request_id] * 2


def test_what_other_nodes_read_when_anything_changes_is_no_line_and_their_calls_are(
    log: pytest.LogCaptureFixture,
) -> None:
    with served_for(TokenTable((), ()).node("id-of-a-node")):
        serve("tools/list", {})
        serve("server/discover", {})
        assert log.records == []
        with pytest.raises(MCPError):
            serve("tools/list", {}, MCPError(code=-32603, message="broken"))
        serve("tools/call", {"name": "kit__do"})
    assert [vars(line)["method"] for line in log.records] == ["tools/list", "tools/call"]
