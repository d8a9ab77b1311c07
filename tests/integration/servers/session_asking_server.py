"""A real FastMCP server of 2025-11-25 that asks its client while a call runs; as a file it speaks stdio.

Forms and models are asked for on the stream of the call, roots on the session's own, as the SDK does. The one rule:
what a call saw (what it was answered, or the error) is in its result, and what else happened is in the `Diary`.
"""

import asyncio
import os
from dataclasses import dataclass, field
from typing import Any

import mcp_types as types
from fastmcp import Context, FastMCP
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import server as lowlevel_server
from mcp.server.runner import serve_loop
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata

WORD: dict[str, Any] = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}


@dataclass
class Diary:
    """What happened inside the server; `roots`: what it was answered when it heard that they had changed."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    runs: list[str] = field(default_factory=list)
    roots: asyncio.Queue[str] = field(default_factory=asyncio.Queue)


def session_asking_server(diary: Diary) -> FastMCP:
    """A server whose tools and prompt ask before they answer."""
    server: FastMCP = FastMCP("kit")
    _add_tools(server, diary)
    _add_tools_about_sessions(server)
    _add_tools_with_tasks(server)

    async def hear_of_roots(ctx: ServerRequestContext[Any, Any], _: types.NotificationParams) -> None:
        known = await ctx.session.send_request(types.ListRootsRequest(), types.ListRootsResult)
        diary.roots.put_nowait(str(known.roots[0].uri))

    low = server._mcp_server
    low.add_notification_handler("notifications/roots/list_changed", types.NotificationParams, hear_of_roots)

    @server.prompt
    async def introduce(ctx: Context) -> str:
        return f"I am {await form(ctx, 'Who?')}"

    return server


def _add_tools(server: FastMCP, diary: Diary) -> None:
    @server.tool(output_schema=None)
    async def order(what: str, ctx: Context) -> str:
        """Asks twice, one after the other; its progress goes on in between."""
        diary.runs.append(what)
        await ctx.report_progress(1, 3)
        who = await form(ctx, f"Who gets {what}?")
        await ctx.report_progress(2, 3)
        where = await form(ctx, f"Where is {who}?")
        await ctx.report_progress(3, 3)
        return f"{what} for {who} at {where}"

    @server.tool(output_schema=None)
    async def compose(about: str, ctx: Context) -> str:
        return await sample(ctx, about)

    @server.tool(output_schema=None)
    async def where(ctx: Context) -> str:
        known = await ctx.session.send_request(types.ListRootsRequest(), types.ListRootsResult)
        return str(known.roots[0].uri)

    @server.tool(output_schema=None)
    async def at_once(ctx: Context) -> str:
        """Asks three things in parallel."""
        async with asyncio.TaskGroup() as group:
            words = [group.create_task(form(ctx, f"Word {n}?"), name=f"ask {n}") for n in range(3)]
        return " ".join(word.result() for word in words)

    @server.tool(output_schema=None)
    async def careful(ctx: Context) -> str:
        """Tells the error that it got instead of an answer."""
        try:
            return await form(ctx, "May I?")
        except MCPError as exc:
            return f"{exc.error.code} {exc.error.message} {exc.error.data or ''}".rstrip()

    @server.tool(output_schema=None)
    async def insatiable(times: int, ctx: Context) -> str:
        """Asks one thing after the other."""
        return [await form(ctx, f"Word {n}?") for n in range(times)][-1]

    @server.tool(output_schema=None)
    async def patient(ctx: Context) -> str:
        """Says when it has asked and waits for ever after the answer."""
        diary.asked.set()
        try:
            await form(ctx, "Ready?")
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            diary.cancelled.set()
            raise
        return "never"


def _add_tools_with_tasks(server: FastMCP) -> None:
    @server.tool(output_schema=None)
    async def later(ctx: Context) -> str:
        """Asks as a task of its client's, looks how it stands until it is over, and takes the result."""
        params = {"message": "When?", "requestedSchema": WORD, "task": {"ttl": 60_000}}
        asked = await raw(ctx, "elicitation/create", params)
        task = asked["task"]
        while task["status"] == "working":
            task = await raw(ctx, "tasks/get", {"taskId": task["taskId"]})
            await asyncio.sleep(0.02)
        listed = await raw(ctx, "tasks/list", {})
        result = await raw(ctx, "tasks/result", {"taskId": task["taskId"]})
        related = result["_meta"]["io.modelcontextprotocol/related-task"]["taskId"] == task["taskId"]
        return f"{task['status']} {result['content']['word']} {len(listed['tasks'])} {related}"


def _add_tools_about_sessions(server: FastMCP) -> None:
    notes: dict[str, list[str]] = {}

    @server.tool(output_schema=None)
    async def note(word: str, ctx: Context) -> str:
        """Keeps words for each session."""
        notes.setdefault(ctx.session_id, []).append(word)
        return " ".join(notes[ctx.session_id])

    @server.tool(output_schema=None)
    async def alive(ctx: Context) -> str:
        await ctx.session.send_request(types.PingRequest(), types.EmptyResult)
        return "alive"

    @server.tool(output_schema=None)
    async def pid() -> str:
        return str(os.getpid())

    @server.tool(output_schema=None)
    async def remembered(ctx: Context) -> str:
        """Asks for roots once in a session."""
        if ctx.session_id not in notes:
            known = await ctx.session.send_request(types.ListRootsRequest(), types.ListRootsResult)
            notes[ctx.session_id] = [str(known.roots[0].uri)]
        return notes[ctx.session_id][0]

    @server.tool(output_schema=None)
    async def declared(ctx: Context) -> str:
        known = ctx.session.client_capabilities
        return ",".join(sorted(known.model_dump(exclude_none=True))) if known is not None else ""

    @server.tool(output_schema=None)
    async def bold(ctx: Context) -> str:
        """Asks for what a client may not have declared."""
        try:
            return await sample(ctx, "?")
        except MCPError as exc:
            return f"{exc.error.code} {exc.error.message}"


async def raw(ctx: Context, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Send a request on the stream of the call, past the SDK's models, and give its result."""
    return dict(await ctx.session._request_outbound.send_raw_request(method, params, {}))


async def form(ctx: Context, message: str) -> str:
    """What the user wrote into a form with one field."""
    answer = await ctx.session.elicit_form(message, WORD, related_request_id=ctx.request_id)
    return str((answer.content or {}).get("word", answer.action))


async def sample(ctx: Context, about: str) -> str:
    """What the client's model says. Not by `create_message`, which warns that it is of the past."""
    message = types.SamplingMessage(role="user", content=types.TextContent(text=about))
    request = types.CreateMessageRequest(params=types.CreateMessageRequestParams(messages=[message], max_tokens=9))
    metadata = ServerMessageMetadata(related_request_id=ctx.request_id)
    result = await ctx.session.send_request(request, types.CreateMessageResult, metadata=metadata)
    return f"{result.model}: {getattr(result.content, 'text', '')}"


if __name__ == "__main__":
    # The SDK's loop of both eras is exchanged for the one that serves sessions alone.
    lowlevel_server.serve_dual_era_loop = serve_loop
    session_asking_server(Diary()).run("stdio", show_banner=False)
