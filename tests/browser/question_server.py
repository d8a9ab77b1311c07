"""A stdio server whose tool asks its user: `python -m tests.browser.question_server`. Run behind the node of a page."""

import asyncio
import base64

from fastmcp import Context, FastMCP
from fastmcp.utilities.types import Image
from pydantic import BaseModel

server: FastMCP = FastMCP("questions")
_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="


class Answer(BaseModel):
    """What the user is asked for."""

    colour: str
    count: int


@server.tool
async def favourite(ctx: Context) -> str:
    """Ask for a colour and a number."""
    answer = await ctx.elicit("Which colour, and how many?", response_type=Answer)
    return f"{answer.data.count} x {answer.data.colour}" if answer.action == "accept" else f"the user: {answer.action}"


@server.tool(output_schema=None)
async def picture() -> list[dict[str, str]]:
    """Answer with text that looks like markup."""
    return [{"text": "<img src=x onerror=document.title='taken'>"}]


@server.tool
async def forever(ctx: Context) -> str:
    """Get half way, and no further."""
    await ctx.report_progress(1, 2, "half of it")
    await asyncio.Event().wait()
    return "never"


@server.tool
def dot() -> Image:
    """Answer with a picture of one pixel."""
    return Image(data=base64.b64decode(_PIXEL), format="png")


if __name__ == "__main__":
    server.run("stdio", show_banner=False)
