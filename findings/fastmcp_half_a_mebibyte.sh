#!/usr/bin/env bash
# Finding: FastMCP's client cannot read a text of 600 KiB from a FastMCP server in a session, and without one it can.
#
# Project:    fastmcp 4.2.3, server and client, with mcp 2.3.0 below both (PyPI)
# What:       a tool that returns a text, called over HTTP: 400, 600 and 1,200 KiB, without a session (2026-07-28) and in
#             one (initialize, mode="legacy"). The tool counts its calls.
# Expected:   the text each time, or the same refusal in both.
# Seen:       without a session all come. In a session 600 KiB are "Server-sent event exceeded the 1048576 byte limit":
#             FastMCP's server sends a text twice (content and structuredContent) and answers a session by an event
#             stream, and the SDK's client takes 1 MiB for one event; an answer as JSON has no such limit. The call was
#             executed, and the session goes on.
# So what:    a tool fails by the size of its result, from half a MiB on and only for clients of the older kind, and a
#             client that calls again because of the error does the work twice. No setting of the client's raises it.
# Way around: a server with json_response=True, or output_schema=None for tools with large texts, which doubles the room.
#
# Run by hand, with python3-venv (Python 3.11 or later): it downloads public packages into a temporary folder; a minute.
# Exit status 0: as described above. 1: the behaviour has changed. 2: it could not be tried.
set -euo pipefail
folder=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || { kill "$pid"; wait "$pid" || true; } 2>/dev/null; rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check fastmcp==4.2.3 mcp==2.3.0 \
	|| { echo "could not be tried: no registry gave the packages"; exit 2; }
cat >serve.py <<'PY'
import sys

from fastmcp import FastMCP

server, calls = FastMCP("s"), []


@server.tool
def text(kib: int) -> str:
    """A text of so many KiB."""
    calls.append(kib)
    return "x" * (kib * 1024)


@server.tool
def counted() -> int:
    """How often a text was asked for."""
    return len(calls)


server.run(
    transport="http", host="127.0.0.1", port=int(sys.argv[1]), json_response=sys.argv[2:] == ["json"],
    show_banner=False, log_level="error",
)
PY
cat >ask.py <<'PY'
import asyncio
import sys

from fastmcp import Client


async def main():
    for mode in sys.argv[2:]:
        async with Client(f"http://127.0.0.1:{sys.argv[1]}/mcp", mode=mode) as client:
            before = (await client.call_tool("counted")).data
            for kib in (400, 600, 1_200):
                try:
                    result = await client.call_tool("text", {"kib": kib})
                    print(f"{mode}, {kib} KiB:", len(result.content[0].text) // 1024)
                except Exception as exc:
                    print(f"{mode}, {kib} KiB:", exc)
            print(f"{mode}, executed:", (await client.call_tool("counted")).data - before)


asyncio.run(main())
PY
serve() { # what it is to answer sessions by
	[ -z "$pid" ] || { kill "$pid"; wait "$pid" || true; } 2>/dev/null
	port=$(python3 -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])')
	venv/bin/python serve.py "$port" "$@" 2>serve.log &
	pid=$!
	for _ in $(seq 300); do
		python3 -c "import socket; socket.create_connection((\"127.0.0.1\", $port))" 2>/dev/null && return
		sleep 0.2
	done
	echo "could not be tried: the server did not start"
	exit 2
}
serve
venv/bin/python ask.py "$port" auto legacy >seen
serve json
echo "with json_response:" >>seen
venv/bin/python ask.py "$port" legacy >>seen
cat seen
[ "$(cat seen)" = "auto, 400 KiB: 400
auto, 600 KiB: 600
auto, 1200 KiB: 1200
auto, executed: 3
legacy, 400 KiB: 400
legacy, 600 KiB: SSE stream failed: Server-sent event exceeded the 1048576 byte limit.
legacy, 1200 KiB: SSE stream failed: Server-sent event exceeded the 1048576 byte limit.
legacy, executed: 3
with json_response:
legacy, 400 KiB: 400
legacy, 600 KiB: 600
legacy, 1200 KiB: 1200
legacy, executed: 3" ] || { echo "The behaviour has changed."; exit 1; }
