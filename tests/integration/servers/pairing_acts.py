"""What the server of the pairings does in the middle of a request: it tells, waits for others, hangs, and asks.

Called by `pairing_server` for tools, prompts and resources alike. The one rule: what happens can be waited for, by
rooms that each test names for itself.
"""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any, Final

from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError

from agent.model import Era, Json
from tests.integration.servers.pairing_definitions import LEVELS, LINKED_QUESTION, QUESTIONS

Context = ServerRequestContext[Any, Any]

ASKED: Final = {**QUESTIONS, "linked": LINKED_QUESTION}
ACTS: Final = frozenset({"ask", "hang", "meet", "talk", "when", "release"})
# What prompts and resources, which name no more than a room, get besides.
USUAL: Final[Json] = {"name": "it", "others": [], "kinds": ["form"]}


@dataclass
class Room:
    """What a test's requests have come to, and an event that is set with every change of that."""

    states: set[str] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def enter(self, state: str) -> None:
        self.states.add(state)
        self.changed.set()

    async def when(self, *states: str) -> None:
        """Wait until all of these were reached."""
        while not self.states.issuperset(states):
            self.changed.clear()
            await self.changed.wait()


async def act(ctx: Context, era: Era, what: str, arguments: Json, room: Room) -> str | Json:
    """Do one of `ACTS`; gives a text to answer with, or a whole result that asks for input."""
    match what:
        case "ask":
            return await _ask(ctx, era, dict(ctx.params or {}), arguments["kinds"])
        case "hang":
            await _hang(arguments["name"], room)
        case "meet":
            await _meet(ctx, arguments["name"], arguments["others"], room)
        case "talk":
            for level in LEVELS:
                note = {"level": level, "logger": "pair", "data": {"said": level, "n": 1.0}, "x-future": 1.0}
                await _tell(ctx, "notifications/message", note)
        case "when":
            await room.when(*arguments["states"])
        case "release":
            room.enter("released")
    return "done"


async def _ask(ctx: Context, era: Era, params: Json, kinds: list[str]) -> str | Json:
    """Ask one thing after the other; the text tells the answers, each as it came."""
    if era is Era.LEGACY:
        return json.dumps([await _asked(ctx, kind) for kind in kinds])
    answers = json.loads(params.get("requestState") or "[]")
    if "inputResponses" in params:
        answers.append(params["inputResponses"]["q"])
    if len(answers) == len(kinds):
        return json.dumps(answers)
    return {
        "resultType": "input_required",
        "inputRequests": {"q": ASKED[kinds[len(answers)]]},
        "requestState": json.dumps(answers),
    }


async def _asked(ctx: Context, kind: str) -> Json:
    """What the client of a session answers, or its error."""
    question = ASKED[kind]
    try:
        answer: Json = await ctx.session._request_outbound.send_raw_request(question["method"], question["params"])
    except MCPError as exc:
        return {"error": exc.error.model_dump(exclude_none=True)}
    return answer


async def _meet(ctx: Context, name: str, others: list[str], room: Room) -> None:
    """Progress before and after the others of the room have come, for those who gave a token."""
    token = ((ctx.params or {}).get("_meta") or {}).get("progressToken")
    for step, awaited in ((1, ()), (2, others)):
        await room.when(*awaited)
        note = {"progressToken": token, "progress": step, "total": 2.5, "message": name, "x-future": 1.0}
        if token is not None:
            await _tell(ctx, "notifications/progress", note)
        room.enter(name)


async def _hang(name: str, room: Room) -> None:
    """Wait until the room is released, and tell it when that is cancelled."""
    room.enter(f"{name} hangs")
    try:
        await room.when("released")
    except asyncio.CancelledError:
        room.enter(f"{name} cancelled")
        raise
    room.enter(f"{name} done")


async def _tell(ctx: Context, method: str, params: Json) -> None:
    """Tell the client something on the stream of this very request."""
    await ctx.session._request_outbound.notify(method, params)
