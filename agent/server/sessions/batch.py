"""Batches of JSON-RPC messages, which sessions of 2025-03-26 may send and no other version knows.

Called by `agent.server.sessions.http` for a body that is an array. Each request gets one response: all of them in one
array, or each as an event of its own once something has preceded them on a stream, since clients of that time read no
arrays there. The one rule: a member that is no message costs an error of its own, and no other member.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import orjson
from aiohttp import web

from agent.errors import MCPError
from agent.lossless_json.raw import Bytes
from agent.model import Json
from agent.rpc_codes import INVALID_REQUEST
from agent.server.preferences import Preferences
from agent.server.response import Answer, SlowAnswers, error_message
from agent.server.sessions.session import Outcome

# The only version whose transport has batches (MCP 2025-03-26, transports); they went with 2025-06-18.
VERSION: Final = "2025-03-26"
# More than a client asks of its servers in one go; each member may be a call.
BATCH_LEN_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class BatchedCall:
    """A request of a batch that is under way."""

    message: Json
    task: asyncio.Task[Outcome]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A member that is no valid request, and why. `request_id`: None where it has none that can be named."""

    why: str
    request_id: Any = None


# What became of a member: a call, a response as JSON, a refusal; None for what has no response.
Taken: TypeAlias = BatchedCall | bytes | Refusal | None


async def answer_batch(
    members: Sequence[Taken], answer: Answer, slow: SlowAnswers, preferences: Preferences
) -> web.StreamResponse:
    """Wait for the calls of a batch and write `answer`. Its calls outlive a client that goes away."""
    calls = {member.task: member.message for member in members if isinstance(member, BatchedCall)}
    ready = [_refused(one) if isinstance(one, Refusal) else one for one in members if isinstance(one, bytes | Refusal)]
    if not calls and not ready:
        return web.Response(status=202, content_type="application/json")
    waiting = set(calls)
    try:
        with slow.kept_alive(answer.ping):
            while waiting:
                ended, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                # One that its client has cancelled has no response.
                ready += [_response(calls[call], call.result(), preferences) for call in ended if not call.cancelled()]
                if answer.is_stream:
                    ready = await _told(answer, ready)
    except asyncio.CancelledError:
        answer.client_gone()
        raise
    if answer.is_stream or not ready:
        await _told(answer, ready)
        return await answer.nothing()
    nothing_is_valid = all(isinstance(member, Refusal) for member in members)
    return await answer.whole(b"[" + b",".join(ready) + b"]", 400 if nothing_is_valid else 200)


async def _told(answer: Answer, responses: list[bytes]) -> list[bytes]:
    """Send responses as events; returns what is left."""
    for response in responses:
        await answer.tell(response)
    return []


def result_message(request_id: Any, *result: Bytes) -> bytes:
    """The response with a result, given as JSON in consecutive parts."""
    return b"".join((b'{"jsonrpc":"2.0","id":', orjson.dumps(request_id), b',"result":', *result, b"}"))


def _response(message: Json, outcome: Outcome, preferences: Preferences) -> bytes:
    if isinstance(outcome, MCPError):
        result = preferences.as_result(message["method"], outcome)
        if result is None:
            return error_message(orjson.dumps(message["id"]), outcome)
        outcome = (orjson.dumps(result),)
    assert isinstance(outcome, tuple), "without a sink no part of a result is sent before its end"
    return result_message(message["id"], *outcome)


def _refused(refusal: Refusal) -> bytes:
    error = {"code": INVALID_REQUEST, "message": refusal.why}
    return orjson.dumps({"jsonrpc": "2.0", "id": refusal.request_id, "error": error})
