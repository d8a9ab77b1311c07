"""A real FastMCP 4 server, which speaks 2026-07-28 and opens sessions too; run as a file it speaks stdio.

Its tools ask their client while a call is open, which only a session lets them, and in rounds, which only 2026-07-28
lets them. The one rule: what a tool was answered, and in which version it was called, is in its result.
"""

import os
from typing import Any

import mcp_types as types
from fastmcp import Context, FastMCP

from tests.integration.servers.asking_server import asking, form, word

URL = "https://example.org/sign"


def both_eras_server(runs: list[str] | None = None) -> FastMCP:
    """The server; `runs` takes the name of each asking tool that begins."""
    server: FastMCP = FastMCP("kit")
    began = [] if runs is None else runs
    _add_asking_tools(server, began)

    @server.tool(output_schema=None)
    async def version(ctx: Context) -> str:
        """The version of the call and what its client declared."""
        request = ctx.request_context
        assert request is not None
        known = ctx.session.client_capabilities
        declared = sorted(known.model_dump(exclude_none=True)) if known is not None else []
        return f"{request.protocol_version} {','.join(declared)}".strip()

    @server.tool(output_schema=None)
    async def rounds(ctx: Context) -> Any:
        """Asks as only 2026-07-28 can."""
        began.append("rounds")
        return asking({"who": form("Who?")}, "asked") if ctx.request_state is None else f"rounds: {word(ctx, 'who')}"

    @server.tool(output_schema=None)
    def process() -> str:
        return str(os.getpid())

    @server.tool(output_schema=None)
    def large(size: int) -> str:
        return "x" * size

    @server.prompt
    async def introduce(ctx: Context) -> str:
        return f"I am {await _word(ctx, 'Who?')}"

    @server.resource("kit://secret")
    async def secret(ctx: Context) -> str:
        return f"told {await _word(ctx, 'Who reads?')}"

    return server


def _add_asking_tools(server: FastMCP, began: list[str]) -> None:
    @server.tool(output_schema=None)
    async def fill(ctx: Context) -> str:
        """A form, by FastMCP's own way to ask; then another one."""
        began.append("fill")
        return f"{await _word(ctx, 'From where?')} to {await _word(ctx, 'To where?')}"

    @server.tool(output_schema=None)
    async def sign(ctx: Context) -> str:
        began.append("sign")
        signed = await ctx.session.elicit_url(
            message="Sign", url=URL, elicitation_id="paper-1", related_request_id=ctx.request_id
        )
        return f"signed: {signed.action}"

    @server.tool(output_schema=None)
    async def compose(ctx: Context) -> str:
        began.append("compose")
        line = types.SamplingMessage(role="user", content=types.TextContent(text="A greeting?"))
        said = await ctx.session.create_message(messages=[line], max_tokens=10, related_request_id=ctx.request_id)
        assert isinstance(said.content, types.TextContent)
        return f"{said.model}: {said.content.text}"

    @server.tool(output_schema=None)
    async def where(ctx: Context) -> str:
        began.append("where")
        return ",".join(str(root.uri) for root in (await ctx.session.list_roots()).roots)


async def _word(ctx: Context, message: str) -> str:
    answer = await ctx.elicit(message, response_type=str)
    return str(answer.data) if answer.action == "accept" else answer.action


if __name__ == "__main__":
    both_eras_server().run("stdio", show_banner=False)
