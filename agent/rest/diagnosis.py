"""The REST API for finding out what is wrong: how long a way takes, the log as it is written, what the process does.

Registered by the wiring; used by `mesh-agent ping`, `logs` and `debug`. The one rule: what is shown of the log was
masked before it was kept; a slow reader loses lines and gets their count, and never holds the node up.
"""

import asyncio
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

import orjson
from aiohttp import web

from agent import __version__
from agent.authority.caller import caller
from agent.control.ping import ping
from agent.control.reconciler import Mesh
from agent.log_ring import LEVELS, LogRing
from agent.model import Json
from agent.rest.envelope import RequestRefused, success
from agent.server.write_deadline import WRITE_TIMEOUT_S, drop_client

log = logging.getLogger(__name__)

PING_PATH: Final = "/api/v1/mcp/ping"
LOGS_PATH: Final = "/api/v1/mcp/logs"
DEBUG_PATH: Final = "/api/v1/mcp/debug"
HEARTBEAT_S: Final = 15.0
TASKS_MAX: Final = 500
_FRAMES_MAX: Final = 6


class DiagnosisApi:
    """Handlers. `ring`: the newest lines of the log; `settings`: masked rows."""

    def __init__(self, mesh: Mesh, ring: LogRing, settings: Callable[[], list[tuple[str, Any, str]]]) -> None:
        self._mesh, self._ring, self._settings = mesh, ring, settings

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""
        return [
            web.get(PING_PATH, self.ping),
            web.get(LOGS_PATH, self.logs, allow_head=False),
            web.get(DEBUG_PATH, self.debug),
        ]

    async def ping(self, request: web.Request) -> web.Response:
        """GET /api/v1/mcp/ping?name=NAME."""
        if not (name := request.query.get("name", "")):
            raise RequestRefused(422, "invalid_field", "name: of a peer, server or tool")
        told = await ping(self._mesh, name)
        answered = sum(way["ms"] is not None for way in told["ways"])
        return success(told, f"{answered} of {len(told['ways'])} answered")

    async def logs(self, request: web.Request) -> web.StreamResponse:
        """GET /api/v1/mcp/logs: server-sent events, each a line as one JSON object.

        `level`: the least severe; `follow`: 1 for the lines that come.
        """
        level = request.query.get("level", "debug")
        if level not in LEVELS:
            raise RequestRefused(422, "invalid_field", f"level: {', '.join(LEVELS)}")
        reader = self._ring.read(level, caller().grant.binding)
        if reader is None:
            raise RequestRefused(503, "too_many_watchers", "All streams of the log are in use")
        log.info("log read over REST", extra={"by": caller().grant.name, "wanted": level})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        try:
            async with asyncio.timeout(None) as deadline:
                await response.prepare(request)
                await _written(deadline, response, b"".join(map(_event, reader.take())))
                while request.query.get("follow") == "1" and not reader.ended:
                    has_lines = await reader.wait(HEARTBEAT_S)
                    part = b"".join(map(_event, reader.take())) if has_lines else b":\n\n"
                    await _written(deadline, response, part)
        except TimeoutError:
            drop_client(request)
        finally:
            reader.leave()
        return response

    async def debug(self, _request: web.Request) -> web.Response:
        """GET /api/v1/mcp/debug: what the process does, for a report; no value of a variable is in it."""
        log.info("process described over REST", extra={"by": caller().grant.name})
        settings = [{"name": name, "value": value, "origin": origin} for name, value, origin in self._settings()]
        return success({**_process(), "settings": settings}, "What this process does now")


def _event(line: Json) -> bytes:
    return b"data: " + orjson.dumps(line) + b"\n\n"


async def _written(deadline: asyncio.Timeout, response: web.StreamResponse, part: bytes) -> None:
    deadline.reschedule(asyncio.get_running_loop().time() + WRITE_TIMEOUT_S)
    if part:
        await response.write(part)
    deadline.reschedule(None)


def _process() -> dict[str, Any]:
    tasks = sorted(asyncio.all_tasks(), key=lambda task: task.get_name())
    return {
        "version": __version__,
        "python": sys.version.split()[0],
        "platform": sys.platform,
        "threads": [{"name": one.name, "daemon": one.daemon} for one in threading.enumerate()],
        "task_count": len(tasks),
        "tasks": [_task(task) for task in tasks[:TASKS_MAX]],
    }


def _task(task: asyncio.Task[Any]) -> Json:
    """Its name, and where it waits."""
    frames = task.get_stack(limit=_FRAMES_MAX)
    places = [
        f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno} {frame.f_code.co_name}" for frame in frames
    ]
    return {"name": task.get_name(), "at": places}
