"""Logs: one harmless line a record, in both formats, without secrets; third parties keep quiet."""

import io
import json
import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest

from agent.logs import TRAFFIC_LOGGER, configure_logging

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


def test_auto_is_json_where_nobody_watches_and_text_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert logged("auto", "event").startswith("{")
    terminal = Terminal()
    configure_logging("info", "auto", terminal)
    logging.getLogger("agent.x").info("event")
    assert not terminal.getvalue().startswith("{")


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
