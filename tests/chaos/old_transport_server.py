"""A server of the old HTTP+SSE transport (2024-11-05), which is FastMCP's own: one stream is a session.

Run as a process of its own: `python -m tests.chaos.old_transport_server ADDRESS PORT sse`, or with `http` in its place
one of streamable HTTP, to compare. The one rule: it has one tool.
"""

import os
import sys

from fastmcp import FastMCP

server: FastMCP = FastMCP("old")


@server.tool
def pid() -> int:
    """Which process this is."""
    return os.getpid()


if __name__ == "__main__":
    address, port, transport = sys.argv[1:]
    assert transport in ("sse", "http")
    server.run(transport, host=address, port=int(port), show_banner=False, log_level="error")
