"""The line in the log about each request: what became of it, and what is kept out of it."""

import asyncio
import logging
from typing import Any

import pytest

from agent.errors import MCPError
from agent.model import POLL_META_KEY, PROBE_META_KEY, Json
from agent.server.forward import NAME_LEN_LOGGED, Served, logged


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


def test_what_peers_ask_every_few_seconds_is_no_line(log: pytest.LogCaptureFixture) -> None:
    serve("server/discover", {"_meta": {PROBE_META_KEY: True}})
    serve("tools/call", {"name": "kit__do", "requestState": "s", "_meta": {POLL_META_KEY: True}})
    assert log.records == []
    serve("server/discover", {"_meta": {PROBE_META_KEY: "yes"}})
    assert len(log.records) == 1
