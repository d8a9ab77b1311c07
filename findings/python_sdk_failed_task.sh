#!/usr/bin/env bash
# Finding: the result of a failed task of the Python SDK 1 is an empty success, so the reason is lost to its reader.
#
# Project:    mcp 1.30.0 (PyPI), server.experimental.enable_tasks() and context.experimental.run_task(work)
# What:       a tool runs as a task (MCP 2025-11-25, tasks) whose work raises RuntimeError("disk full"); a client polls
#             it to its end and asks for the result.
# Expected:   tasks/result answers as the call itself would have: an error, or a result with isError, with the reason.
# Seen:       tasks/get says failed, "disk full". tasks/result succeeds, with nothing but _meta in it; read as the
#             result of a tool it is no valid one, and the client raises a ValidationError about a missing content.
# So what:    a reader that goes by tasks/result alone takes a failed task for one that ended well and said nothing.
# Way around: ask tasks/get as well, and let its status and statusMessage beat an empty result.
#
# Run by hand: it downloads public packages into a temporary folder. Exit status 0: as described above. 1: the
# behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv packages
packages/bin/python -m pip install --quiet --disable-pip-version-check mcp==1.30.0
cat > task.py <<'PY'
import anyio
import mcp.types as types
from mcp.client.session import ClientSession
from mcp.server.lowlevel import Server
from mcp.shared.memory import create_client_server_memory_streams

server = Server("disk")
server.experimental.enable_tasks()


async def save(_task):
    raise RuntimeError("disk full")


@server.call_tool()
async def call(name, arguments):
    return await server.request_context.experimental.run_task(save)


async def main():
    async with create_client_server_memory_streams() as (ours, theirs), anyio.create_task_group() as group:
        group.start_soon(server.run, *theirs, server.create_initialization_options())
        async with ClientSession(*ours) as session:
            await session.initialize()
            task = (await session.experimental.call_tool_as_task("save", {})).task
            async for state in session.experimental.poll_task(task.taskId):
                last = state
            print(f"tasks/get: {last.status}, {last.statusMessage}")
            result = await session.experimental.get_task_result(task.taskId, types.Result)
            print("tasks/result has:", *sorted(result.model_dump(by_alias=True, exclude_none=True)))
            try:
                await session.experimental.get_task_result(task.taskId, types.CallToolResult)
            except Exception as error:
                print("read as a tool's result:", type(error).__name__)
        group.cancel_scope.cancel()


anyio.run(main)
PY
seen=$(packages/bin/python -W ignore task.py 2>errors) || { cat errors; exit 1; }
echo "$seen"
[ "$seen" = "tasks/get: failed, disk full
tasks/result has: _meta
read as a tool's result: ValidationError" ] || { echo "The behaviour has changed."; exit 1; }
