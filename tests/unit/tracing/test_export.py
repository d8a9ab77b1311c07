"""Spans on their way: what is recorded, what is dropped, and a collector that takes them or is not there."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from agent.tracing import export as module
from agent.tracing.export import Spans
from tests.ports import free_port

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@dataclass
class Collector:
    """A collector by OTLP over HTTP: what it got, as JSON."""

    url: str
    got: list[dict[str, Any]] = field(default_factory=list)
    came: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()
            found.came.set()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", free_port()), Handler) as server:
        found = Collector(f"http://127.0.0.1:{server.server_port}/v1/traces")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield found
        server.shutdown()
        thread.join(10)


def call(spans: Spans, params: dict[str, Any], outcome: str = "ok") -> None:
    span = spans.begin("tools/call", "notes__add", "server:notes", params)
    assert span is not None
    spans.end(span, outcome)


def test_a_call_is_sent_as_a_child_of_its_clients_span(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_EVERY_S", 0.01)
    spans = Spans(collector.url, {"service.name": "s"})
    params: dict[str, Any] = {"arguments": {"secret": "s3cret"}, "_meta": {"traceparent": f"00-{TRACE}-{SPAN}-01"}}
    call(spans, params)
    assert collector.came.wait(10)
    spans.stop()
    ((sent,),) = [scope["spans"] for one in collector.got for scope in one["resourceSpans"][0]["scopeSpans"]]
    assert (sent["traceId"], sent["parentSpanId"], sent["name"]) == (TRACE, SPAN, "tools/call notes__add")
    assert params["_meta"]["traceparent"] == f"00-{TRACE}-{sent['spanId']}-01"
    assert "s3cret" not in str(collector.got)


def test_what_waits_is_sent_at_the_end(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_EVERY_S", 60.0)
    spans = Spans(collector.url, {})
    for _ in range(3):
        call(spans, {})
    spans.stop()
    assert sum(len(one["resourceSpans"][0]["scopeSpans"][0]["spans"]) for one in collector.got) == 3


def test_a_trace_that_its_client_does_not_record_is_left_alone() -> None:
    spans = Spans("http://127.0.0.1:1", {})
    params = {"_meta": {"traceparent": f"00-{TRACE}-{SPAN}-00"}}
    assert spans.begin("tools/call", "x", "server:x", params) is None
    assert params == {"_meta": {"traceparent": f"00-{TRACE}-{SPAN}-00"}}


def test_a_call_that_is_sent_again_stays_in_the_trace_that_its_first_attempt_began() -> None:
    spans = Spans("http://127.0.0.1:1", {})
    first = spans.begin("tools/call", "x", "server:one", {})
    assert first is not None
    again = spans.begin("tools/call", "x", "server:two", {}, first.trace_id)
    assert again is not None
    assert (again.trace_id, again.parent_id, again.span_id == first.span_id) == (first.trace_id, "", False)
    of_its_client: dict[str, Any] = {"_meta": {"traceparent": f"00-{TRACE}-{SPAN}-01"}}
    told = spans.begin("tools/call", "x", "server:two", of_its_client, TRACE)
    assert told is not None
    assert (told.trace_id, told.parent_id) == (TRACE, SPAN)


def test_without_a_collector_calls_go_on_and_spans_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_MAX", 2)
    monkeypatch.setattr(module, "BATCH_EVERY_S", 60.0)
    spans = Spans(f"http://127.0.0.1:{free_port()}/v1/traces", {})
    for _ in range(5):
        call(spans, {})
    assert repr(spans) == "<Spans 2 waiting, 3 dropped>"
    spans.stop()
    assert repr(spans) == "<Spans 0 waiting, 5 dropped>"
