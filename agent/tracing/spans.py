"""PURE: the trace context of a request, one span for each attempt of a call, and spans as OTLP has them in JSON.

Called by `agent.tracing.export`. The context travels in `_meta.traceparent` (W3C Trace Context, section 3.2), so that
the attempts of all nodes on the way, the client's spans and the server's are one trace. Attributes are those of
OpenTelemetry's conventions for MCP. The one rule: a span has names, outcomes and times, never arguments or results.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from agent.model import Json

TRACE_KEY: Final = "traceparent"
SAMPLED: Final = 1
# How a call ended that its server answered well; all others are errors of the span (agent/dispatch/outlier.py).
_FINE: Final = frozenset({"ok", "cancelled"})
_CLIENT: Final = 3  # SPAN_KIND_CLIENT of OTLP.
_ERROR: Final = 2  # STATUS_CODE_ERROR of OTLP.
_PARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True)
class Parent:
    """The span that a request comes from. `flags`: bit 0 says that it is recorded."""

    trace_id: str
    span_id: str
    flags: int = SAMPLED

    @property
    def sampled(self) -> bool:
        """Whether the caller records the trace."""
        return bool(self.flags & SAMPLED)


@dataclass(slots=True)
class Span:
    """One attempt of a call. Times in nanoseconds since the epoch; `end_ns` 0 while it lasts."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    start_ns: int
    attributes: dict[str, str] = field(default_factory=dict)
    end_ns: int = 0
    outcome: str = ""


def parent_in(params: Json) -> Parent | None:
    """The context in a request's `_meta`; None where there is none that is valid."""
    meta = params.get("_meta")
    told = meta.get(TRACE_KEY) if isinstance(meta, dict) else None
    found = _PARENT.fullmatch(told) if isinstance(told, str) and len(told) <= 256 else None  # noqa: PLR2004 - of later versions
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    is_none = version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16)
    return None if is_none else Parent(trace_id, span_id, int(flags, 16))


def with_parent(params: Json, span: Span) -> None:
    """Have the next hop go on from this span. `params` is the request's own copy, and so is its `_meta`."""
    params["_meta"] = {**params.get("_meta", {}), TRACE_KEY: f"00-{span.trace_id}-{span.span_id}-01"}


def otlp(spans: Iterable[Span], resource: Mapping[str, str]) -> Json:
    """An `ExportTraceServiceRequest` in OTLP's JSON."""
    scope = {"name": "mcp-mesh-agent", "version": resource.get("service.version", "")}
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(resource)},
                "scopeSpans": [{"scope": scope, "spans": [_shown(span) for span in spans]}],
            }
        ]
    }


def _shown(span: Span) -> Json:
    failed = span.outcome not in _FINE
    attributes = {**span.attributes, "mesh.outcome": span.outcome, **({"error.type": span.outcome} if failed else {})}
    return {
        "traceId": span.trace_id,
        "spanId": span.span_id,
        **({"parentSpanId": span.parent_id} if span.parent_id else {}),
        "name": span.name,
        "kind": _CLIENT,
        "startTimeUnixNano": str(span.start_ns),
        "endTimeUnixNano": str(span.end_ns),
        "attributes": _attributes(attributes),
        "status": {"code": _ERROR, "message": span.outcome} if failed else {},
    }


def _attributes(values: Mapping[str, str]) -> list[Json]:
    return [{"key": name, "value": {"stringValue": value}} for name, value in values.items()]
