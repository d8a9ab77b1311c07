"""The loop of every Python client script: one JSON command a line on stdin, one JSON answer a line on stdout.

Runs in the client's own environment, so it needs nothing but the standard library. A script passes `drive` a client:
`connect(url, token)`, `tools() -> names`, `call(name, arguments) -> (how, text)`, `close()`, each of them plain or
async; `how` is "returned", or "error" for a result that is marked as one. The one rule: all of a client's steps run in
one task, because most of them hold cancel scopes.
"""

import asyncio
import inspect
import json
import os
import sys
from typing import Any


def drive(client: Any) -> None:
    """Serve commands until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What a library prints must not get among the answers.
    asyncio.run(_serve(client, answers))


async def _serve(client: Any, answers: Any) -> None:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        try:
            value = getattr(client, command["step"])(*command["with"])
            if inspect.isawaitable(value):
                value = await asyncio.wait_for(value, command["within_s"])
            answer = {"ok": True, "value": value}
        except BaseException as exc:
            if isinstance(exc, KeyboardInterrupt):
                raise
            answer = {"ok": False, "error": told(exc)}
        answer["number"] = command["number"]
        print(json.dumps(answer), file=answers, flush=True)
    answers.close()
    os._exit(0)  # Some libraries wait for ever for a thread of theirs.


def told(exc: BaseException) -> str:
    """The failure as a person would look for it: every text in its chain and group, the innermost too."""
    found: list[str] = []
    seen: set[int] = set()  # A failure that is raised again out of its own group is its own context.
    waiting: list[BaseException | None] = [exc]
    while waiting and len(found) < 8:
        one = waiting.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        text = f"{type(one).__name__}: {one}"
        if text not in found:
            found.append(text)
        waiting += [*getattr(one, "exceptions", ()), one.__cause__ or one.__context__]
    return " | ".join(found)[:1500]


def headers(token: str) -> dict[str, str]:
    """The headers that carry a token; none without one."""
    return {"Authorization": f"Bearer {token}"} if token else {}


def text_of(content: Any) -> str:
    """The texts of MCP content blocks, of whatever kind of object."""
    texts = [one.get("text") if isinstance(one, dict) else getattr(one, "text", None) for one in content]
    return "\n".join(text for text in texts if text)
