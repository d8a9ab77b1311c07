"""The line of the log about a request of a client, and what else is written down of it: the audit, and its allowance.

Used by the servers of both eras, and by `agent.server.forward`, which notes what became of a request. The one rule: one
line for each request, with names and outcomes, never arguments or results.
"""

import asyncio
import logging
import re
import time
from dataclasses import dataclass
from typing import Final

import orjson

from agent.authority.caller import Caller, caller
from agent.errors import FORBIDDEN, MCPError, TooManyCalls
from agent.mcp_terms import CLIENT_INFO_META_KEY
from agent.model import NODE_CLIENT_NAME, POLL_META_KEY, PROBE_META_KEY, Json
from agent.tasks.ids import TASK_METHODS
from agent.traffic_log import request_line, usual_line

# A client may send a name of any length; the log keeps its beginning.
NAME_LEN_LOGGED: Final = 128
REQUEST_ID_LEN_LOGGED: Final = 64
_TRACE_KEY: Final = "traceparent"
_TRACE_PARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.{0,64}")
_OK: Final = {"outcome": "ok"}
_DISCOVER: Final = "server/discover"
# What counts towards the limits of a token, and what the record of calls has: all that servers have to work for.
CALLS: Final = TASK_METHODS | {
    "tools/call",
    "prompts/get",
    "resources/read",
    "resources/subscribe",
    "completion/complete",
    "tasks/result",
    "tasks/list",
}


@dataclass(slots=True)
class Served:
    """The backend that served a request, and the outcome, for its line in the log.

    `backend`: the last one tried, None when there was none. `tool_error`: the result has `isError`. `reason`: what
    went wrong, for operators. `public_name`: what the mesh calls it, where the client used its server's own name.
    `by_search`: a model calls a tool in search mode, where no list has told its client of the tool's page.
    `was_delivered`: a large result went out whole before its reader left. `trace`: where it is recorded.
    """

    backend: str | None = "own"
    tool_error: bool = False
    reason: str = ""
    public_name: str | None = None
    by_search: bool = False
    was_delivered: bool = False
    trace: str | None = None

    def delivered(self, is_error: bool) -> None:
        """Note that the caller had the whole result when it left."""
        self.was_delivered, self.tool_error = True, is_error

    def asked(self, backend: str) -> None:
        """Note the backend of an attempt."""
        self.backend = backend

    def traced(self, trace: str) -> None:
        """Note the trace that its attempts are recorded in, which its client may not have begun."""
        self.trace = trace


class logged:  # noqa: N801 - read as the verb that it is: `with logged(method, params)`
    """Let a request of the present caller begin, and write one line about it when it is over.

    Raises `TooManyCalls` at its beginning. Not a generator: every call passes here. `of`: another caller; `began_s`:
    on the monotonic clock, of a request that has begun already.
    """

    __slots__ = ("_allowance", "_caller", "_method", "_params", "_request_id", "_served", "_started_s")

    def __init__(
        self,
        method: str,
        params: Json,
        request_id: str | float | None = None,
        *,
        of: Caller | None = None,
        began_s: float | None = None,
    ) -> None:
        self._method, self._params, self._request_id = method, params, request_id
        self._served: Served | None = None
        self._caller = caller() if of is None else of
        self._allowance = self._caller.allowance if method in CALLS else None
        self._started_s = began_s

    def __enter__(self) -> Served:
        self._served = Served()
        if self._started_s is not None:
            return self._served
        self._started_s = time.monotonic()
        if self._allowance is not None and (wait_s := self._allowance.begin(self._started_s)) > 0:
            self._recorder(failure := too_many(self._caller, wait_s), self._served)
            raise failure
        return self._served

    def __exit__(self, _kind: object, failure: BaseException | None, _trace: object) -> None:
        assert self._started_s is not None, "it has begun"
        assert self._served is not None, "it has begun"
        if self._allowance is not None:
            self._allowance.end()
        if self._caller.recorder.records_calls or isinstance(failure, MCPError):
            self._recorder(failure, self._served)
        served = self._served
        fields = _begun(self._method, self._params, self._request_id, self._caller, served)
        fields["backend"] = served.backend
        fields["outcome"] = "ok" if failure is None and not served.tool_error else _outcome(served, failure)
        if served.reason:
            fields["reason"] = served.reason
        fields["ms"] = round((time.monotonic() - self._started_s) * 1000, 2)
        quiet = failure is None and self._is_quiet()
        request_line(logging.DEBUG if quiet else logging.INFO, fields)

    def _is_quiet(self) -> bool:
        """Whether it says nothing about what clients do: another node looks, reads lists or follows them."""
        if self._method in CALLS and "requestState" not in self._params:
            return False
        is_housekeeping = self._method not in CALLS and self._caller.grant.is_another_node
        return is_housekeeping or _only_polls(self._method, self._params)

    def _recorder(self, failure: BaseException | None, served: Served) -> None:
        """Have calls and refusals recorded: names and outcomes, never arguments."""
        recorder, who = self._caller.recorder, self._caller.grant.name
        name = served.public_name or self._params.get("name") or self._params.get("uri")
        shown = name[:NAME_LEN_LOGGED] if isinstance(name, str) else ""
        if isinstance(failure, TooManyCalls) or (isinstance(failure, MCPError) and failure.code == FORBIDDEN):
            recorder.refusal(who, f"{self._method} {shown}", failure.message)
        elif recorder.records_calls and self._method in CALLS:
            recorder.call(who, self._method, shown, _outcome(served, failure))


def write_usual(request: tuple[str, Json, str | float], who: Caller, backend: str, began_s: float) -> None:
    """Write the line that `logged` would, of a call that has begun then and went as most do."""
    method, params, request_id = request
    ms = round((time.monotonic() - began_s) * 1000, 2)
    if _TRACE_KEY in (params.get("_meta") or ()):
        request_line(
            logging.INFO, {**_begun(method, params, request_id, who, None), "backend": backend, **_OK, "ms": ms}
        )
        return
    shown = request_id if type(request_id) is int else _short(request_id)
    usual_line((method, params["name"][:NAME_LEN_LOGGED], who.grant.name, backend), shown, ms)


def _begun(
    method: str, params: Json, request_id: str | float | None, who: Caller, served: Served | None
) -> dict[str, str | float | None]:
    """How the line of a request begins."""
    name = params.get("name") or params.get("uri")
    fields: dict[str, str | float | None] = {
        "method": method,
        "mcp_name": name[:NAME_LEN_LOGGED] if isinstance(name, str) else None,
    }
    if served is not None and served.public_name is not None:
        fields["public_name"] = served.public_name[:NAME_LEN_LOGGED]
    fields["caller"] = who.grant.name
    if request_id is not None:
        fields["request_id"] = request_id if type(request_id) is int else _short(request_id)
    meta = params.get("_meta")
    trace = _trace_of(meta) if isinstance(meta, dict) and _TRACE_KEY in meta else None
    if (trace := trace or (None if served is None else served.trace)) is not None:
        fields["trace"] = trace
    return fields


def _short(request_id: str | float) -> str:
    """Beyond 64 bits, and with half a surrogate pair, an ID is JSON that was not read."""
    text = request_id if isinstance(request_id, str) else orjson.dumps(request_id).decode()
    return text[:REQUEST_ID_LEN_LOGGED]


def _trace_of(meta: Json) -> str | None:
    """The trace that a request belongs to, if its client says so (W3C Trace Context, section 3.2, in `_meta`)."""
    parent = meta[_TRACE_KEY]
    found = _TRACE_PARENT.fullmatch(parent) if isinstance(parent, str) else None
    return None if found is None else found[1]


def too_many(who: Caller, wait_s: float) -> TooManyCalls:
    """The error of a caller whose allowance is spent."""
    grant = who.grant
    limits = [] if grant.calls_per_s is None else [f"{grant.calls_per_s:g} calls a second"]
    limits += [] if grant.concurrent_calls is None else [f"{grant.concurrent_calls} at once"]
    return TooManyCalls(f"Token {grant.name!r} may make {' and '.join(limits)}; try again in {wait_s:.1f} s", wait_s)


def _outcome(served: Served, failure: BaseException | None) -> str:
    match failure:
        case asyncio.CancelledError() | ConnectionError() if not served.was_delivered:
            return "ended by the client"  # Also how a stream of list changes ends.
        case None | asyncio.CancelledError() | ConnectionError():
            return "tool_error" if served.tool_error else "ok"
        case MCPError():
            return f"error {failure.code}"
        case _:
            return "failed"


def _only_polls(method: str, params: Json) -> bool:
    """Whether a node looks for another, for a sign of life, or whether server requests are still open."""
    if method != _DISCOVER and "requestState" not in params:
        return False
    meta = params.get("_meta")
    if not isinstance(meta, dict):
        return False
    if method != _DISCOVER:
        return meta.get(POLL_META_KEY) is True
    client = meta.get(CLIENT_INFO_META_KEY)
    return meta.get(PROBE_META_KEY) is True or (isinstance(client, dict) and client.get("name") == NODE_CLIENT_NAME)
