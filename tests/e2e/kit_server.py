"""A real FastMCP server with whatever the example servers lack: `python -m tests.e2e.kit_server [PORT]`.

With a port it serves streamable HTTP in both eras, without one stdio. Over HTTP it writes the headers of every request
into the file that KIT_JOURNAL names, one JSON object a line. Run by the end-to-end tests behind nodes. The one rule:
nothing here waits for time; `hold` waits for a file that the test makes.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Annotated, Any

import orjson
import uvicorn
from fastmcp import Context, FastMCP
from fastmcp.exceptions import ToolError
from mcp_types import Completion, PromptReference
from pydantic import BaseModel, Field

POLL_EVERY_S = 0.02
TONES = ("formal", "friendly", "frosty")


class Sum(BaseModel):
    """A result with a shape."""

    total: int
    terms: list[int]


class Tree(BaseModel):
    """A shape that refers to itself, so that its schema has `$defs`."""

    label: Annotated[str, Field(description="Umlauts too: ä ö ü, 樹")]
    children: list["Tree"] = []


def make_kit() -> FastMCP:
    """Build the server."""
    kit: FastMCP = FastMCP("kit")
    _add_tools(kit)

    @kit.resource("kit://motd", mime_type="text/plain")
    def motd() -> str:
        return "be kind"

    @kit.resource("kit://item/{key}", mime_type="application/json")
    def item(key: str) -> dict[str, Any]:
        return {"key": key}

    @kit.prompt
    def greet(name: str, tone: str = "friendly") -> str:
        return f"Greet {name} in a {tone} way."

    @kit.completion
    async def complete(ref: Any, argument: Any, _context: Any) -> Completion:
        known = TONES if isinstance(ref, PromptReference) and argument.name == "tone" else ("key-1", "key-2")
        found = [word for word in known if word.startswith(argument.value)]
        return Completion(values=found, total=len(found), has_more=False)

    return kit


def _add_tools(kit: FastMCP) -> None:
    @kit.tool(annotations={"readOnlyHint": True, "idempotentHint": True})
    def add(terms: Annotated[list[int], Field(min_length=1)]) -> Sum:
        """Add numbers."""
        return Sum(total=sum(terms), terms=terms)

    @kit.tool
    def plant(tree: Tree) -> Tree:
        """Give a tree back."""
        return tree

    @kit.tool
    def fail(reason: str) -> str:
        """Refuse."""
        raise ToolError(reason)

    @kit.tool
    async def count(to: int, ctx: Context) -> str:
        """Report progress at each step."""
        for step in range(1, to + 1):
            await ctx.report_progress(step, to, f"step {step}")
        return "counted"

    @kit.tool
    async def hold(gate: str) -> str:
        """Say that the call has begun (`<gate>.begun`), and end when the file `<gate>` is there."""
        path = Path(gate)
        path.with_name(path.name + ".begun").touch()
        while not path.exists():  # noqa: ASYNC110, ASYNC240 - a file sets no event; the look is short
            await asyncio.sleep(POLL_EVERY_S)
        return "released"


class Journal:
    """An ASGI application that notes the headers of each request before it hands the request on."""

    def __init__(self, app: Callable[..., Awaitable[None]], path: Path) -> None:
        self._app = app
        self._path = path

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Serve one connection event."""
        if scope["type"] == "http":
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            with self._path.open("ab") as journal:
                journal.write(orjson.dumps(headers, option=orjson.OPT_APPEND_NEWLINE))
        await self._app(scope, receive, send)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        served = Journal(make_kit().http_app(), Path(os.environ.get("KIT_JOURNAL", os.devnull)))
        uvicorn.run(served, host="127.0.0.1", port=int(sys.argv[1]), log_level="error", ws="none")
    else:
        make_kit().run("stdio", show_banner=False)
