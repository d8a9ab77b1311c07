"""A stdio server whose tool asks its user: `python -m tests.browser.question_server`. Run behind the node of a page."""

from fastmcp import Context, FastMCP
from pydantic import BaseModel

server: FastMCP = FastMCP("questions")


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


if __name__ == "__main__":
    server.run("stdio", show_banner=False)
