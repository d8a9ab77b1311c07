"""The first steps of an MCP request over HTTP: its body within limits, and the media types of its sender.

Called by the servers of both eras before anything is parsed. The one rule: a body comes whole and within its limits of
size and time, and nothing large is read whole, or it is refused with a JSON-RPC error that names no ID.
"""

import asyncio
from collections.abc import Mapping
from functools import lru_cache
from types import ModuleType
from typing import Any, Final

import orjson
from aiohttp import web

from agent.dispatch.param_headers import received_headers
from agent.errors import NOT_EXECUTED
from agent.late import Late, give_back_memory
from agent.lossless_json.outline import BodyRefused
from agent.model import Json
from agent.rpc_codes import INVALID_REQUEST
from agent.server.fast_path.connection import FastRequest
from agent.turns import in_slices

BODY_BYTES_MAX: Final = 4 * 1024 * 1024  # The MCP SDK's own limit for a streamable HTTP request.
# For requests of nodes: to a client's body they add an envelope, a deadline and a session's capabilities (8 KiB).
FROM_NODE_BYTES_MAX: Final = BODY_BYTES_MAX + 64 * 1024
# What no node looks at in a larger body stays unread (docs/adr/0026): read, it takes up to forty times its bytes.
READ_WHOLE_BYTES_MAX: Final = 256 * 1024
# A body of 4 MiB in that time needs 1.1 Mbit/s; a slower sender only holds a connection.
BODY_TIMEOUT_S: Final = 30.0
# Clients send one of few `Accept` headers with every request; the bound protects against hostile ones.
REMEMBERED_MAX: Final = 256

_JSON_TYPES: Final = frozenset({"*/*", "application/*", "application/json"})
_SSE_TYPES: Final = frozenset({"*/*", "text/*", "text/event-stream"})


def _envelope() -> ModuleType:
    from agent.lossless_json import envelope  # noqa: PLC0415 - imports msgspec, which only large bodies need

    return envelope


_ENVELOPE: Final = Late(_envelope)


def body_at_hand(request: web.Request) -> bytes:
    """The body, where it has come with the head; else empty."""
    return request.whole_body if isinstance(request, FastRequest) else b""


async def read_body(
    request: web.Request, bytes_max: int = BODY_BYTES_MAX, *, batch_len_max: int = 0
) -> bytes | Json | list[Any] | web.Response:
    """Return the body, or the refusal to send in its place; of a large one what it holds, partly `Unread`.

    `batch_len_max`: so many messages may come in a list; 0: none may, and a large list is an empty one.
    """
    if isinstance(request, FastRequest):  # There are no large ones.
        return request.whole_body
    body = await _whole_body(request, bytes_max)
    if not isinstance(body, bytes) or len(body) <= READ_WHOLE_BYTES_MAX:
        return body
    read_message = (await _ENVELOPE.get()).read_message
    try:
        read: Json | list[Any] = await in_slices(
            read_message(body, from_node=bytes_max > BODY_BYTES_MAX, batch_len_max=batch_len_max)
        )
    except BodyRefused as exc:
        return refuse(exc.status, str(exc), exc.code)
    return read


async def _whole_body(request: web.Request, bytes_max: int) -> bytes | web.Response:
    length = request.content_length or 0
    if length > bytes_max:
        return _too_large(bytes_max)
    if request.content.at_eof():
        return await request.read()
    if request.content.is_eof():  # Most bodies come with their head: then there is nothing to wait for.
        whole = request.content.read_nowait()
        return whole if len(whole) <= bytes_max else _too_large(bytes_max)
    if length > READ_WHOLE_BYTES_MAX:
        give_back_memory()  # What an earlier one left among small blocks.
    # Of its whole length at once where that is known: one that grows does so among small blocks, which keep its place.
    body, received = bytearray(length), 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.content.iter_any():
                body[received : received + len(chunk)] = chunk
                received += len(chunk)
                if received > bytes_max:
                    return _too_large(bytes_max)
    except TimeoutError:
        return _unread(408, f"The body did not arrive within {BODY_TIMEOUT_S:g} s")
    except web.RequestPayloadError:
        return _unread(400, "The body cannot be decoded")
    del body[received:]
    whole = bytes(body)
    if received > READ_WHOLE_BYTES_MAX:
        del body
        give_back_memory()  # Its pieces lay among small blocks.
    return whole


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
    accepted = _accepted(request)
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
    return not _accepted(request).isdisjoint(_SSE_TYPES)


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


def _accepted(request: web.Request) -> frozenset[str]:
    """A list may stand in several lines (RFC 9110, section 5.3)."""
    return _media_types(",".join(request.headers.getall("Accept", ())))


@lru_cache(maxsize=REMEMBERED_MAX)
def _media_types(accept: str) -> frozenset[str]:
    return frozenset(part.partition(";")[0].strip().lower() for part in accept.split(","))
