"""Scripts that clients are opened to, and the one call that their tests make through a client."""

from collections.abc import Awaitable, Callable

from agent.client.connect import open_client
from agent.client.protocol import Request
from agent.model import HttpTarget, Json
from tests.integration.servers.hosting import (
    Script,
    Seen,
    discovered,
    http,
    initialized,
)

Answer = Callable[[Seen], Awaitable[tuple[bytes | None, bool]]]
CALL: Json = {"name": "pay", "arguments": {}}


def always(data: bytes | None, *, keep: bool = True) -> Answer:
    async def answer(_: Seen) -> tuple[bytes | None, bool]:
        return data, keep

    return answer


def modern(to_call: Callable[[Seen], bytes | None], *, keep: bool = True) -> Answer:
    """A modern server that answers calls as told."""

    async def answer(request: Seen) -> tuple[bytes | None, bool]:
        if request.body.get("method") == "server/discover":
            return discovered(request), True
        return to_call(request), keep

    return answer


def legacy(to_call: Callable[[Seen], bytes], **headers: str) -> Answer:
    async def answer(request: Seen) -> tuple[bytes | None, bool]:
        match request.body.get("method"):
            case "server/discover":
                return http(400), True
            case "initialize":
                return initialized(request, **headers), True
            case "notifications/initialized" | "notifications/cancelled" | None:
                return http(202 if request.method == "POST" else 405), True
        return to_call(request), True

    return answer


async def open_and_call(script: Script, **options: float) -> Json:
    times = {name: options[name] for name in ("connect_timeout_s", "start_timeout_s") if name in options}
    async with open_client(HttpTarget(script.url), **times) as client:
        return await client.request(Request.within("tools/call", CALL, timeout_s=options.get("timeout_s", 10.0)))


def calls(script: Script) -> int:
    return sum(1 for one in script.seen if one.body.get("method") == "tools/call")
