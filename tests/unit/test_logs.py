"""Logs: one harmless line a record, in both formats, without secrets; third parties keep quiet."""

import io
import json
import logging
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

from agent.logs import TRAFFIC_LOGGER, configure_logging, kept_lines
from agent.traffic_log import request_line, usual_line
from tests.waiting import one_pass

HOSTILE = "peer\x1b[31m-red\x1b]0;title\x07\r\n2026-01-01 ERROR forged\u202egnp\u2066\u200b\U000e0041\x9b2J\udc80"


@pytest.fixture(autouse=True)
def put_logging_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FASTMCP_LOG_ENABLED", "true")
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level = before


def logged(fmt: str, event: str, level: int = logging.INFO, name: str = "agent.x", **settings: Any) -> str:
    stream = io.StringIO()
    fields = settings.pop("fields", {})
    exc_info = settings.pop("exc_info", None)
    configure_logging("info", fmt, stream, **settings)
    logging.getLogger(name).log(level, event, extra=fields, exc_info=exc_info)
    return stream.getvalue()


def test_json_line_has_time_level_logger_event_and_fields() -> None:
    text = logged("json", "link ready", fields={"peer": "node-2", "latency_ms": 1.5, "attempt": 3, "up": True})
    line = json.loads(text)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "agent.x",
        "event": "link ready",
        "peer": "node-2",
        "latency_ms": 1.5,
        "attempt": 3,
        "up": True,
    }
    assert text.count("\n") == 1


def test_text_line_has_the_same_and_quotes_what_has_blanks() -> None:
    text = logged("text", "link ready", fields={"peer": "node-2", "reason": "two words"})
    assert text.endswith(' INFO    agent.x: link ready  peer=node-2 reason="two words"\n')


@pytest.mark.parametrize("fmt", ["text", "json"])
def test_hostile_text_stays_on_its_line_and_loses_its_controls(fmt: str) -> None:
    text = logged(fmt, HOSTILE, fields={"peer": HOSTILE, HOSTILE: "x", "names": [HOSTILE]})
    assert text.count("\n") == 1
    assert text.isprintable() or text.rstrip("\n").isprintable()
    for hidden in ("\x1b", "\u202e", "\u2066", "\u200b", "\U000e0041", "\x9b", "[31m"):
        assert hidden not in text
    assert "peer-red 2026-01-01 ERROR forgedgnp" in text


@pytest.mark.parametrize("fmt", ["text", "json"])
def test_traceback_is_kept_in_the_record_and_cannot_forge_a_line(fmt: str) -> None:
    fault = RuntimeError("bad\n2026-01-01T00:00:00Z INFO forged")
    text = logged(fmt, "gone wrong", logging.ERROR, exc_info=fault)
    assert "RuntimeError" in text
    assert not [row for row in text.splitlines()[1:] if not row.startswith("  | ")]


@pytest.mark.parametrize("fmt", ["text", "json"])
def test_known_secrets_bearer_tokens_and_secret_fields_are_masked(fmt: str) -> None:
    text = logged(
        fmt,
        "sent canary-secret-1 as Bearer canary-2222",
        fields={"auth_token": "canary-3", "note": "x canary-secret-1 y", "tokens": 2},
        secrets=["canary-secret-1"],
        exc_info=ValueError("canary-secret-1"),
    )
    assert "canary" not in text
    assert '"tokens":2' in text or "tokens=2" in text


def test_field_cannot_pass_itself_off_as_the_level_or_the_event() -> None:
    line = json.loads(logged("json", "true", fields={"level": "error", "event": "false", "time": 0}))
    assert (line["level"], line["event"], line["level_"]) == ("info", "true", "error")


def test_long_fields_are_cut_and_odd_values_do_not_break_the_line() -> None:
    fields = {"long": "x" * 10_000, "big": 1 << 80, "nan": float("nan"), "odd": object(), "none": None, "raw": b"\xff"}
    line = json.loads(logged("json", "event", fields=fields))
    assert len(line["long"]) == 2000
    assert (line["big"], line["nan"], line["none"]) == (str(1 << 80), None, None)


def test_every_line_of_mcp_traffic_carries_the_word() -> None:
    assert json.loads(logged("json", "request", name=TRAFFIC_LOGGER))["event"] == "MCP request"
    assert json.loads(logged("json", "MCP request", name=TRAFFIC_LOGGER))["event"] == "MCP request"


def test_auto_is_json_without_a_terminal_and_text_on_one() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert logged("auto", "event").startswith("{")
    terminal = Terminal()
    configure_logging("info", "auto", terminal)
    logging.getLogger("agent.x").info("event")
    assert not terminal.getvalue().startswith("{")


def test_json_is_on_stdout_where_docker_logs_filters_it_and_text_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    for fmt in ("auto", "json", "text"):
        configure_logging("info", fmt)
        logging.getLogger("agent.x").info("as %s", fmt)
    out, err = capsys.readouterr()
    assert [json.loads(line)["event"] for line in out.splitlines()] == ["as auto", "as json"]
    assert err.endswith("agent.x: as text\n")


async def test_reader_of_the_kept_lines_gets_what_the_log_itself_leaves_out() -> None:
    stream = io.StringIO()
    configure_logging("info", "json", stream, secrets=["hunter2hunter2"])
    reader = kept_lines().read("debug")
    assert reader is not None
    logging.getLogger("agent.x").debug("quiet hunter2hunter2")
    request_line(logging.DEBUG, {"ms": 1})
    request_line(logging.INFO, {"ms": 2})
    reader.leave()
    logging.getLogger("agent.x").debug("after")
    await one_pass()
    assert [line.get("ms", line["event"]) for line in reader.take()] == ["quiet ********", 1, 2]
    assert [line["ms"] for line in request_lines(stream)] == [2]


def test_level_keeps_less_severe_lines_out() -> None:
    assert logged("json", "event", logging.DEBUG) == ""


def test_third_parties_lose_their_own_handlers_and_their_chatter() -> None:
    vendor = logging.getLogger("fastmcp")
    vendor.addHandler(logging.NullHandler())
    assert logged("json", "payload", name="mcp.client") == ""
    assert logged("json", "request line", name="aiohttp.access") == ""
    assert vendor.handlers == []
    assert os.environ["FASTMCP_LOG_ENABLED"] == "false"
    assert json.loads(logged("json", "real trouble", logging.WARNING, name="mcp.client"))["event"] == "real trouble"


FIELDS = {"method": "tools/call", "mcp_name": HOSTILE, "backend": None, "outcome": "ok", "ms": 1.25}


def request_lines(stream: io.StringIO) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [{name: value for name, value in line.items() if name != "time"} for line in lines]


def test_a_request_has_the_line_that_its_record_would_have() -> None:
    stream = io.StringIO()
    configure_logging("debug", "json", stream, secrets=["hunter2hunter2"])
    fields = {**FIELDS, "reason": "it wants hunter2hunter2"}
    request_line(logging.INFO, fields)
    logging.getLogger(TRAFFIC_LOGGER).info("MCP request", extra=fields)
    request_line(logging.DEBUG, {"ms": 3})
    written, recorded, quiet = request_lines(stream)
    assert written == recorded
    assert list(json.loads(stream.getvalue().splitlines()[0])) == list(json.loads(stream.getvalue().splitlines()[1]))
    assert "hunter2" not in stream.getvalue()
    assert quiet["level"] == "debug"


@pytest.mark.parametrize("request_id", [7, HOSTILE, "7"])
@pytest.mark.parametrize("fmt", ["json", "text"])
def test_a_usual_call_has_the_line_of_any_other_request(fmt: str, request_id: int | str) -> None:
    lines = []
    for of_usual in (True, False):
        stream = io.StringIO()
        configure_logging("info", fmt, stream, secrets=["hunter2hunter2"])
        for name in (HOSTILE, "it wants hunter2hunter2", HOSTILE):
            if of_usual:
                usual_line(("tools/call", name, "all", "server:a"), request_id, 1.25)
                continue
            fields = {"method": "tools/call", "mcp_name": name, "caller": "all", "request_id": request_id}
            request_line(logging.INFO, {**fields, "backend": "server:a", "outcome": "ok", "ms": 1.25})
        lines.append([re.sub(r"\d{4}-\S+Z", "", line) for line in stream.getvalue().splitlines()])
    assert lines[0] == lines[1]
    assert len(lines[0]) == 3


async def test_lines_of_requests_come_before_what_is_logged_after_them_and_wait_for_one_turn_at_most() -> None:
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    request_line(logging.INFO, {"ms": 1})
    request_line(logging.INFO, {"ms": 2})
    assert not stream.getvalue()
    logging.getLogger("agent.x").info("after")
    request_line(logging.INFO, {"ms": 3})
    await one_pass()
    assert [line.get("ms", line["event"]) for line in request_lines(stream)] == [1, 2, "after", 3]


async def test_lines_of_requests_are_whole_at_the_end_of_the_process() -> None:
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    request_line(logging.INFO, {"ms": 1})
    logging.root.handlers[0].flush()  # As `logging.shutdown` does.
    assert len(request_lines(stream)) == 1


def test_a_log_that_cannot_be_written_costs_no_request_its_answer() -> None:
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    stream.close()
    request_line(logging.INFO, {"ms": 1})


def test_requests_below_the_level_are_no_lines() -> None:
    stream = io.StringIO()
    configure_logging("warning", "json", stream)
    request_line(logging.INFO, {"ms": 1})
    assert not stream.getvalue()
