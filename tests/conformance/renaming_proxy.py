"""An HTTP proxy that lets the conformance suite use the fixture's own names where a node serves public ones.

Started by `runs.py`, one for each server that is tested through public names. What needs no renaming passes byte for
byte: status, headers, events, and the moment at which either side hangs up. The one rule: it knows nothing of what
is right, so that the suite judges the node and never the proxy (a run without a node proves that).
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from tests.conformance.names import PublicNames
from tests.conformance.renaming import renamed_answer, renamed_header, renamed_request

HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "te", "trailer", "upgrade"})
BODY_BYTES_MAX = 4 * 1024 * 1024


@asynccontextmanager
async def renaming_proxy(upstream: str, names: PublicNames, port: int) -> AsyncGenerator[str, None]:
    """Serve in front of `upstream` (a URL of an MCP endpoint) while the block runs; yields the URL to ask."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False
    ) as session:
        application = web.Application(client_max_size=BODY_BYTES_MAX)
        application.router.add_route("*", "/mcp", _Passage(session, upstream, names).pass_on)
        # A suite that hangs up must be felt upstream: closing a stream is how 2026-07-28 cancels.
        runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.5)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            await runner.cleanup()


class _Passage:
    """One way through the proxy."""

    def __init__(self, session: aiohttp.ClientSession, upstream: str, names: PublicNames) -> None:
        self._session = session
        self._upstream = upstream
        self._names = names

    async def pass_on(self, request: web.Request) -> web.StreamResponse:
        """Pass one request on, and its answer back."""
        body = await request.read()
        message = _json(body)
        asked = message.get("method") if isinstance(message, dict) else None
        if message is not None:
            body = orjson.dumps(renamed_request(self._names, message))
        headers = [
            # The header's own method counts: the suite sends pairs that contradict the body.
            (name, renamed_header(self._names, asked, value) if name.lower() == "mcp-name" else value)
            for name, value in _headers(request.raw_headers)
        ]
        async with self._session.request(
            request.method,
            self._upstream,
            data=body or None,
            headers=headers,
            allow_redirects=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        ) as answer:
            passed = [(name, value) for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP]
            if answer.content_type == "text/event-stream":
                return await self._stream(request, answer, passed, asked)
            raw = await answer.read()
            found = _json(raw)
            if found is not None:
                raw = orjson.dumps(renamed_answer(self._names, asked, found))
            response = web.Response(status=answer.status, reason=answer.reason, body=raw)
            response.headers.clear()
            response.headers.extend(passed)
            return response

    async def _stream(
        self, request: web.Request, answer: aiohttp.ClientResponse, headers: list[tuple[str, str]], asked: str | None
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, reason=answer.reason)
        response.headers.extend(headers)
        await response.prepare(request)
        rest = b""
        try:
            async for chunk in answer.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                await response.write(b"".join(self._line(line, asked) + b"\n" for line in lines))
            await response.write(rest)
        except ConnectionError:  # The suite has read enough; leaving the answer's block hangs up upstream.
            return response
        return response

    def _line(self, line: bytes, asked: str | None) -> bytes:
        """One line of an event stream; servers put a whole message into one data line."""
        message = _json(line[5:].strip()) if line.startswith(b"data:") else None
        if message is None:
            return line
        end = b"\r" if line.endswith(b"\r") else b""
        return b"data: " + orjson.dumps(renamed_answer(self._names, asked, message)) + end


def _headers(raw: Any) -> list[tuple[str, str]]:
    pairs = ((name.decode("latin-1"), value.decode("utf-8", "surrogateescape")) for name, value in raw)
    return [(name, value) for name, value in pairs if name.lower() not in HOP_BY_HOP]


def _json(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
