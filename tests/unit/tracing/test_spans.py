"""The trace context in requests, and spans as a collector reads them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.tracing.spans import Parent, Span, otlp, parent_in, with_parent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def told(parent: Any) -> dict[str, Any]:
    return {"name": "x", "_meta": {"traceparent": parent}}


def test_the_context_of_a_client_is_read() -> None:
    assert parent_in(told(PARENT)) == Parent(TRACE, SPAN, 1)
    unrecorded = parent_in(told(f"00-{TRACE}-{SPAN}-00"))
    assert unrecorded is not None
    assert not unrecorded.sampled
    assert parent_in(told(f"cc-{TRACE}-{SPAN}-01-what-comes-later")) == Parent(TRACE, SPAN, 1)


@pytest.mark.parametrize(
    "parent",
    [
        None,
        7,
        "",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}",
        f"cc-{TRACE}-{SPAN}-01-{'x' * 300}",
    ],
)
def test_a_context_that_is_none_is_not_taken(parent: Any) -> None:
    assert parent_in(told(parent)) is None
    assert parent_in({"name": "x"}) is None
    assert parent_in({"_meta": None}) is None


@given(st.text(max_size=80))
def test_no_text_makes_reading_the_context_fail(text: str) -> None:
    parent_in(told(text))


def test_the_next_hop_goes_on_from_the_span_and_keeps_the_rest() -> None:
    params = {"_meta": {"traceparent": PARENT, "progressToken": 1}}
    meta = params["_meta"]
    with_parent(params, Span(TRACE, "b" * 16, SPAN, "tools/call x", 1))
    assert params["_meta"] == {"traceparent": f"00-{TRACE}-{'b' * 16}-01", "progressToken": 1}
    assert meta["traceparent"] == PARENT, "the client's own object is never changed"


def test_spans_have_the_shape_that_collectors_read() -> None:
    good = Span(TRACE, "b" * 16, SPAN, "tools/call x", 1_000, {"mcp.method.name": "tools/call"}, 2_000, "ok")
    failed = Span(TRACE, "c" * 16, "", "tools/call x", 1_000, {}, 2_000, "timeout")
    body = json.loads(json.dumps(otlp([good, failed], {"service.name": "s", "service.version": "1"})))
    (of_node,) = body["resourceSpans"]
    assert {"key": "service.name", "value": {"stringValue": "s"}} in of_node["resource"]["attributes"]
    first, second = of_node["scopeSpans"][0]["spans"]
    assert (first["traceId"], first["parentSpanId"], first["kind"], first["status"]) == (TRACE, SPAN, 3, {})
    assert (first["startTimeUnixNano"], first["endTimeUnixNano"]) == ("1000", "2000")
    assert "parentSpanId" not in second
    assert second["status"] == {"code": 2, "message": "timeout"}
    assert {"key": "error.type", "value": {"stringValue": "timeout"}} in second["attributes"]
