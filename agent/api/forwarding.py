"""Forwards one routed request and fits what comes back to the client: result shape, errors, the line in the log.

Called by both ways into an endpoint. The one rule: every failure says whether the request may have been executed, and
a backend's own result or error passes unchanged, but for the URI that the client named.
"""

import asyncio
import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import orjson
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS

from agent.api.catalogue import LIST_HINTS
from agent.core.nesting import is_deeper_than
from agent.core.route_table import Route
from agent.dispatch import CallRefused, CallUnanswered, Dispatch, Forwarded, OnNotification
from agent.errors import NOT_EXECUTED, OUTCOME_UNKNOWN, RpcError
from agent.model import Json
from agent.request_state import StateRefused, asks

log = logging.getLogger("agent.mcp")

# Results that must carry cache hints at 2026-07-28; a legacy backend does not know them.
_CACHEABLE: Final = frozenset({"resources/read"})
# Words of 2026-07-28 that earlier clients have no use for.
_MODERN_KEYS: Final = frozenset({"resultType", "ttlMs", "cacheScope"})
# A message can be read 1,024 levels deep, but written only 254 deep, of which its envelope takes a few.
ANSWER_NESTING_MAX: Final = 250
# What a client sends as a name may be a book; the log keeps its title.
NAME_LEN_LOGGED: Final = 128


@dataclass(slots=True)
class Served:
    """Who served a request and how, for its line in the log; what is `handed_on` is logged where it ends up.

    `backend`: who was asked last, None when nobody could be. `tool_error`: the result says that the tool failed.
    """

    backend: str | None = "own"
    tool_error: bool = False
    handed_on: bool = False

    def asked(self, backend: str) -> None:
        """Somebody is being asked now."""
        self.backend = backend


async def forward(
    dispatch: Dispatch,
    method: str,
    route: Route,
    params: Json,
    on_notification: OnNotification,
    *,
    served: Served,
    session_id: str | None = None,
) -> Forwarded:
    """Send a request to one of the route's replicas. Raises `MCPError` for everything that is no result."""
    served.backend = None

    async def pass_on(note_method: str, note: Json) -> None:
        # One that cannot be written must not cost the call its result.
        if not is_deeper_than(note, ANSWER_NESTING_MAX):
            await on_notification(note_method, note)

    try:
        forwarded = await dispatch.forward(
            method, route, params, pass_on, session_id=session_id, on_attempt=served.asked
        )
    except RpcError as exc:
        data = _named_as_asked(exc.data, route, params) if method == "resources/read" else exc.data
        if is_deeper_than(data, ANSWER_NESTING_MAX):
            data = {"outcome": "unknown"}
        raise MCPError(code=exc.code, message=exc.message, data=data) from exc
    except StateRefused as exc:
        raise MCPError(code=INVALID_PARAMS, message=str(exc), data={"reason": "invalid_request_state"}) from exc
    except CallRefused as exc:
        data = {"outcome": "not_executed", "replica": exc.backend, "bytes_sent": exc.bytes_sent}
        raise MCPError(code=NOT_EXECUTED, message=str(exc), data=data) from exc
    except CallUnanswered as exc:
        data = {
            "outcome": "unknown",
            "timed_out": exc.timed_out,
            "replica": exc.backend,
            "bytes_sent": exc.bytes_sent,
        }
        code = INTERNAL_ERROR if exc.broken else OUTCOME_UNKNOWN
        raise MCPError(code=code, message=f"{route.public_name}: {exc}", data=data) from exc
    served.tool_error = forwarded.result.get("isError") is True
    if not _can_be_written(forwarded.result):
        raise _unwritable(route, forwarded)
    if method == "resources/read":
        result = _with_public_uri(forwarded.result, forwarded.replica.remote_name, params["uri"])
        return Forwarded(result, forwarded.replica)
    return forwarded


def _can_be_written(result: Json) -> bool:
    """Whether the result fits into an answer. Writing it is nine times faster than walking through it in Python."""
    try:
        orjson.dumps([[[[result]]]])  # As deep as an answer's envelope, which leaves `ANSWER_NESTING_MAX`.
    except orjson.JSONEncodeError:
        return False
    return True


def shaped(method: str, result: Json, *, modern: bool) -> Json:
    """Fit a backend's result to the era of the client that asked; content is never touched."""
    if modern:
        hints = LIST_HINTS if method in _CACHEABLE else {}
        return {"resultType": "complete", **hints, **result}
    if asks(result):
        raise MCPError(
            code=INVALID_PARAMS,
            message="The server asks for client input that this client did not declare, or cannot be asked for.",
        )
    return {key: value for key, value in result.items() if key not in _MODERN_KEYS}


@contextmanager
def logged(method: str, params: Json) -> Generator[Served, None, None]:
    """Write one line about a request when it is over."""
    started_s = time.monotonic()
    served = Served()
    outcome = "failed"
    try:
        yield served
        outcome = "tool_error" if served.tool_error else "ok"
    except MCPError as exc:
        outcome = f"error {exc.code}"
        raise
    except asyncio.CancelledError:
        outcome = "ended by the client"  # Also how a stream of list changes ends.
        raise
    finally:
        if log.isEnabledFor(logging.INFO) and not served.handed_on:
            name = params.get("name") or params.get("uri")
            log.info(
                "MCP request",
                extra={
                    "method": method,
                    "mcp_name": name[:NAME_LEN_LOGGED] if isinstance(name, str) else None,
                    "backend": served.backend,
                    "outcome": outcome,
                    "ms": round((time.monotonic() - started_s) * 1000, 2),
                },
            )


def _unwritable(route: Route, forwarded: Forwarded) -> MCPError:
    backend = forwarded.replica.backend_key
    return MCPError(
        code=INTERNAL_ERROR,
        message=f"{route.public_name}: {backend} answered with more than {ANSWER_NESTING_MAX} levels of nesting",
        data={"outcome": "unknown", "timed_out": False, "replica": backend, "bytes_sent": True},
    )


def _named_as_asked(data: object, route: Route, params: Json) -> object:
    """An error about a resource tells its URI (MCP 2026-07-28, resources): the client's, not the backend's."""
    if isinstance(data, dict) and data.get("uri") in [replica.remote_name for replica in route.replicas]:
        return {**data, "uri": params["uri"]}
    return data


def _with_public_uri(result: Json, remote_uri: str, public_uri: str) -> Json:
    """Name the contents that were asked for as the client named them."""
    contents = result.get("contents")
    if not isinstance(contents, list):
        return result
    renamed = [
        {**part, "uri": public_uri} if isinstance(part, dict) and part.get("uri") == remote_uri else part
        for part in contents
    ]
    return {**result, "contents": renamed}
