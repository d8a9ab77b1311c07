"""The first steps of an MCP request over HTTP: its body within limits, and the media types of its sender.

Called by the servers of both eras before anything else is parsed. The one rule: a body comes whole and within its
limits of size and time, and a large one is JSON that costs little more than its bytes, or it is refused with a JSON-RPC
error that names no ID.
"""

import asyncio
import mmap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import orjson
from aiohttp import web

from agent.dispatch.param_headers import received_headers
from agent.errors import NOT_EXECUTED
from agent.lossless_json.large import TooManyMembers, read_large
from agent.rpc_codes import INVALID_REQUEST, PARSE_ERROR
from agent.server.fast_path.connection import HELD_BYTES_MAX, FastRequest

BODY_BYTES_MAX: Final = 4 * 1024 * 1024  # The MCP SDK's own limit for a streamable HTTP request.
# For requests of nodes: to a client's body they add an envelope, a deadline and a session's capabilities (8 KiB).
FROM_NODE_BYTES_MAX: Final = BODY_BYTES_MAX + 64 * 1024
# Read, JSON takes up to forty times its bytes: 5 MB for a body of this size. What is larger is read in part.
READ_WHOLE_BYTES_MAX: Final = HELD_BYTES_MAX
# Reading a large body holds the event loop for so long at a time, and for one piece of it more.
SLICE_S: Final = 0.002
# A body of 4 MiB in that time needs 1.1 Mbit/s; a slower sender only holds a connection.
BODY_TIMEOUT_S: Final = 30.0
# Clients send one of few `Accept` headers with every request; the bound protects against hostile ones.
REMEMBERED_MAX: Final = 256

_JSON_TYPES: Final = frozenset({"*/*", "application/*", "application/json"})
_SSE_TYPES: Final = frozenset({"*/*", "text/*", "text/event-stream"})


@dataclass(frozen=True, slots=True)
class LargeBody:
    """A body that was read in part. `value`: see `agent.lossless_json.large`."""

    value: Any


def body_at_hand(request: web.Request) -> bytes:
    """The body, where it has come with the head; else empty."""
    return request.whole_body if isinstance(request, FastRequest) else b""


async def read_body(request: web.Request, bytes_max: int = BODY_BYTES_MAX) -> bytes | LargeBody | web.Response:
    """Return the body, read already if it is large, or the refusal to send in its place."""
    if isinstance(request, FastRequest):  # There are no large ones.
        return request.whole_body
    body = await _whole_body(request, bytes_max)
    if isinstance(body, memoryview) or (isinstance(body, bytes) and len(body) > READ_WHOLE_BYTES_MAX):
        return await _read(body)
    return body


async def _read(body: bytes | memoryview) -> LargeBody | web.Response:
    reading, until_s = read_large(body), time.perf_counter() + SLICE_S
    del body  # What is passed on of it is copied; the rest ends with the reading.
    try:
        while True:
            next(reading)
            if time.perf_counter() >= until_s:
                await asyncio.sleep(0)
                until_s = time.perf_counter() + SLICE_S
    except StopIteration as end:
        return LargeBody(end.value)
    except orjson.JSONDecodeError as exc:
        return refuse(400, f"Parse error: {exc}", PARSE_ERROR)
    except TooManyMembers as exc:
        return refuse(413, f"The body has {exc}")


async def _whole_body(request: web.Request, bytes_max: int) -> bytes | memoryview | web.Response:
    if (request.content_length or 0) > bytes_max:
        return _too_large(bytes_max)
    if request.content.at_eof():
        return await request.read()
    if request.content.is_eof():  # Most bodies come with their head: then there is nothing to wait for.
        whole = request.content.read_nowait()
        return whole if len(whole) <= bytes_max else _too_large(bytes_max)
    small, large, size = bytearray(), None, 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.content.iter_any():
                size += len(chunk)
                if size > bytes_max:
                    return _too_large(bytes_max)
                if large is None and size > READ_WHOLE_BYTES_MAX:
                    # Pages of its own: they are taken as they are filled, and given back with the last part of it.
                    large = mmap.mmap(-1, request.content_length or bytes_max)
                    large.write(small)
                    small.clear()
                if large is None:
                    small += chunk
                else:
                    large.write(chunk)
    except TimeoutError:
        return _unread(408, f"The body did not arrive within {BODY_TIMEOUT_S:g} s")
    except web.RequestPayloadError:
        return _unread(400, "The body cannot be decoded")
    return bytes(small) if large is None else memoryview(large)[:size]


def headers_by_name(request: web.Request) -> dict[str, str]:
    """One value of each header, by names in lower case. Not to be changed."""
    if type(request) is FastRequest:
        return request.head.by_name
    return {name.lower(): value for name, value in request.headers.items()}


def speaks_json(request: web.Request) -> bool:
    """Whether a POST is JSON whose sender reads JSON and streams of events."""
    head = request.head if type(request) is FastRequest else None
    if head is not None and head.speaks_json is not None:
        return head.speaks_json
    accepted = _media_types(request.headers.get("Accept", ""))
    is_json = request.content_type == "application/json"
    speaks = is_json and not accepted.isdisjoint(_JSON_TYPES) and not accepted.isdisjoint(_SSE_TYPES)
    if head is not None:
        head.speaks_json = speaks
    return speaks


def param_headers(request: web.Request, by_name: Mapping[str, str]) -> Mapping[str, str]:
    """The headers that repeat arguments, or may, by names in lower case. `by_name`: as from `headers_by_name`."""
    head = request.head if type(request) is FastRequest else None
    if head is not None and head.param_headers is not None:
        return head.param_headers
    # All headers are read again only where one is repeated.
    received = received_headers((by_name if len(by_name) == len(request.headers) else request.headers).items())
    if head is not None:
        head.param_headers = received
    return received


def accepts_events(request: web.Request) -> bool:
    """Whether the sender reads a stream of events."""
    return not _media_types(request.headers.get("Accept", "")).isdisjoint(_SSE_TYPES)


def refuse(
    status: int,
    message: str,
    code: int = INVALID_REQUEST,
    *,
    headers: Mapping[str, str] | None = None,
    request_id: object = None,
    data: object = None,
) -> web.Response:
    """Refuse a request; `request_id` is None where it is not known."""
    error = {"code": code, "message": message} | ({} if data is None else {"data": data})
    body = orjson.dumps({"jsonrpc": "2.0", "id": request_id, "error": error})
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def refuse_for_now(message: str) -> web.Response:
    """Refuse a request for what will soon be known."""
    return refuse(503, message, NOT_EXECUTED, headers={"Retry-After": "1"}, data={"outcome": "not_executed"})


def _unread(status: int, message: str) -> web.Response:
    response = refuse(status, message)
    response.force_close()  # What is left of the body is not worth reading.
    return response


def _too_large(bytes_max: int) -> web.Response:
    return _unread(413, f"The body is larger than {bytes_max} bytes")


@lru_cache(maxsize=REMEMBERED_MAX)
def _media_types(accept: str) -> frozenset[str]:
    return frozenset(part.partition(";")[0].strip().lower() for part in accept.split(","))
