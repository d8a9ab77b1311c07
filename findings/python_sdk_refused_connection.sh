#!/usr/bin/env bash
# Finding: one refused connection is no error of a call to the Python SDK 2's client: it ends the client for good.
#
# Project:    mcp 2.3.0 and fastmcp 4.2.3, whose client is built on it (PyPI)
# What:       a client calls a tool of a server that keeps no sessions, again while the server's process is down, and
#             again once it is back. A restart between two calls is no trouble: the next call is answered.
# Expected:   the second call raises an error that can be caught, the third is answered.
# Seen:       mcp.Client cancels the body of its own `async with`: the call raises CancelledError, which `except
#             Exception` does not catch, and an ExceptionGroup with httpx2's ConnectError leaves the block. FastMCP's
#             client does raise an error, but never answers again: each later call fails though the server is up, and at
#             its end the block raises the ConnectError of back then. A new client is answered at once.
# So what:    an agent that calls once in the seconds of a server's restart has lost it until it is restarted itself.
# Way around: keep such a client in a task of its own, and make a new one after any error that is no answer. A gateway
#             that stays while servers restart spares its callers this.
#
# Run by hand: it downloads public packages into a temporary folder; one or two minutes. Exit status 0: as described
# above. 1: the behaviour has changed. 2: it could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv packages
packages/bin/python -m pip install --quiet --disable-pip-version-check fastmcp==4.2.3 mcp==2.3.0 \
	|| { echo "could not be tried: no registry gave the packages"; exit 2; }
cat > serve.py <<'PY'
import sys

from mcp.server.mcpserver import MCPServer

server = MCPServer("restarted")


@server.tool()
def one() -> str:
    return "1"


server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]), stateless_http=True)
PY
cat > client.py <<'PY'
import asyncio
import socket
import subprocess
import sys
import time

import fastmcp
import mcp


class Server:
    def __init__(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.process = None

    def start(self):
        command = [sys.executable, "serve.py", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                return socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.1)
        raise TimeoutError("the server did not start")

    def stop(self):
        self.process.kill()
        self.process.wait()


def first(error):
    return first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


async def call(when, client):
    try:
        async with asyncio.timeout(20):
            result = await client.call_tool("one")
            print(f"  {when}: answered {result.content[0].text}")
    except Exception:
        print(f"  {when}: an error that can be caught")
    except asyncio.CancelledError:
        print(f"  {when}: cancelled")
        raise


async def trial(name, make):
    print(name)
    server = Server()
    server.start()
    try:
        async with make(f"http://127.0.0.1:{server.port}/mcp") as client:
            await call("up", client)
            server.stop()
            server.start()
            await call("after a restart", client)
            server.stop()
            await call("down", client)
            server.start()
            await call("up again", client)
            await call("still up", client)
    except Exception as error:
        print(f"  end of the block: {first(error)}")
        if server.process.poll() is not None:
            server.start()
        async with make(f"http://127.0.0.1:{server.port}/mcp") as client:
            await call("a new client", client)
    finally:
        server.stop()


asyncio.run(trial("mcp.Client", mcp.Client))
asyncio.run(trial("fastmcp.Client", fastmcp.Client))
PY
seen=$(packages/bin/python -W ignore client.py 2>errors) || { cat errors; exit 1; }
echo "$seen"
[ "$seen" = "mcp.Client
  up: answered 1
  after a restart: answered 1
  down: cancelled
  end of the block: All connection attempts failed
  a new client: answered 1
fastmcp.Client
  up: answered 1
  after a restart: answered 1
  down: an error that can be caught
  up again: an error that can be caught
  still up: an error that can be caught
  end of the block: All connection attempts failed
  a new client: answered 1" ] || { echo "The behaviour has changed."; exit 1; }
