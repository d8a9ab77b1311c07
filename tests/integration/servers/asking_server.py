"""A real FastMCP server of 2026-07-28 that asks its client back: with and without a state, once, twice, without end.

Several of one kind differ by `place`; FastMCP seals a state with a key of its own, so that only the one that
asked can read it. The one rule: what a call saw (who the client said it was, what it answered) is in its result.
"""

from typing import Any

import mcp_types as types
from fastmcp import Context, FastMCP

WORD: dict[str, Any] = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}


def asking_server(place: str) -> FastMCP:
    """A server whose tools and prompt ask before they answer."""
    server: FastMCP = FastMCP("kit")
    _add_tools_with_a_state(server, place)
    _add_tools_without_a_state(server)

    @server.prompt
    async def introduce(ctx: Context) -> Any:
        return asking({"who": form("Who?")}, "p") if ctx.request_state is None else f"I am {word(ctx, 'who')}"

    return server


def _add_tools_with_a_state(server: FastMCP, place: str) -> None:
    @server.tool(output_schema=None)
    async def book(ctx: Context) -> Any:
        """Asks twice; what the first answer was is only in the state."""
        match ctx.request_state:
            case None:
                return asking({"first": form("From where?")}, "started")
            case "started":
                return asking({"second": form("To where?")}, f"from {word(ctx, 'first')}")
            case state:
                return f"{place}: {state} to {word(ctx, 'second')}"

    @server.tool(output_schema=None)
    async def patient(ctx: Context) -> Any:
        """Asks nothing and wants to be called again, twice."""
        count = int(ctx.request_state or "0")
        return f"{place} after {count}" if count == 2 else types.InputRequiredResult(request_state=str(count + 1))

    @server.tool(output_schema=None)
    async def insatiable() -> Any:
        return asking({"more": form("More?")}, "again")


def _add_tools_without_a_state(server: FastMCP) -> None:
    @server.tool(output_schema=None)
    async def greet(ctx: Context) -> Any:
        """Asks for a form, the model and roots at once, without a state."""
        answers = ctx.input_responses
        if answers is None:
            return asking({"who": form("Who?"), "how": SAMPLE, "where": types.ListRootsRequest()})
        return f"{answers['how'].content.text} {word(ctx, 'who')} at {answers['where'].roots[0].uri}"

    @server.tool(output_schema=None)
    async def sign(ctx: Context) -> Any:
        """Asks for something at a URL."""
        if ctx.input_responses is None:
            url = types.ElicitRequestURLParams(message="Sign", url="https://example.org/sign")
            return asking({"signed": types.ElicitRequest(params=url)})
        return f"signed: {ctx.input_responses['signed'].action}"

    @server.tool(output_schema=None)
    async def declared(ctx: Context) -> str:
        known = ctx.session.client_capabilities
        return ",".join(sorted(known.model_dump(exclude_none=True))) if known is not None else "(nothing)"


SAMPLE = types.CreateMessageRequest(
    params=types.CreateMessageRequestParams(
        messages=[types.SamplingMessage(role="user", content=types.TextContent(text="A greeting?"))], max_tokens=10
    )
)


def form(message: str) -> types.ElicitRequest:
    """A question for one word."""
    return types.ElicitRequest(params=types.ElicitRequestFormParams(message=message, requested_schema=WORD))


def asking(questions: dict[str, Any], state: str | None = None) -> types.InputRequiredResult:
    """A result that is questions."""
    return types.InputRequiredResult(input_requests=questions, request_state=state)


def word(ctx: Context, key: str) -> str:
    """What the client answered."""
    answer = (ctx.input_responses or {})[key]
    assert isinstance(answer, types.ElicitResult)
    return str((answer.content or {}).get("word", answer.action))
