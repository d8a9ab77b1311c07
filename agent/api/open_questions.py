"""Looks after a server's open call while its client is asked: a question that nobody waits for goes off the screen.

Used by `agent.api.questions` for clients with a session, whose users may think for minutes. Nobody tells this node that
a server has died meanwhile, gave the call up or took its question back, so it looks every few seconds, over all nodes
on the way. The one rule: looking changes nothing, and what is only out of reach for a moment is still asked.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any, Final

from mcp.shared.exceptions import MCPError

from agent.dispatch import Forwarded
from agent.errors import GIVEN_UP
from agent.request_state import asks

# A form that is of no use any more may stay for that long; each look is one request.
LOOK_EVERY_S: Final = 3.0
# Looks in a row that got nowhere; a link that broke is there again within two, if ever.
FAILED_MAX: Final = 3


async def while_wanted(
    asking: Coroutine[Any, Any, None], look: Callable[[], Awaitable[Forwarded]], keys: Collection[str]
) -> Forwarded | None:
    """Run `asking` to its end, which gives None; or until the questions `keys` are not all wanted any more.

    It is cancelled then, and what the server says in their place returned: a result, or other questions.

    Raises:
        MCPError: the call ended so.
    """
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(asking, name="ask a client")
        watched = group.create_task(_ended(look, frozenset(keys)), name="watch an open call")
        await asyncio.wait((asked, watched), return_when=asyncio.FIRST_COMPLETED)
        # An answer to a call that has ended is of no use; one that nobody waits for is called off.
        over = watched.done()
        (asked if over else watched).cancel()
    if not over:
        return None
    ended = watched.result()
    if isinstance(ended, MCPError):
        raise ended
    return ended


async def _ended(look: Callable[[], Awaitable[Forwarded]], keys: frozenset[str]) -> Forwarded | MCPError:
    """How it ended: errors as values, since a task group would wrap what is raised."""
    failures: list[MCPError] = []
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        try:
            forwarded = await look()
        except MCPError as exc:
            failures.append(exc)
            if len(failures) == FAILED_MAX or not _may_pass(exc):
                return failures[0]
        else:
            failures.clear()
            if not asks(forwarded.result) or not keys <= (forwarded.result.get("inputRequests") or {}).keys():
                return forwarded


def _may_pass(exc: MCPError) -> bool:
    """Whether the call may be open still, though nobody on the way could say so."""
    data = exc.error.data
    return isinstance(data, dict) and "outcome" in data and data.get("reason") != GIVEN_UP
