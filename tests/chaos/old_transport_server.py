"""A server of the old HTTP+SSE transport (2024-11-05), which is FastMCP's own: one stream is a session.

Run as a process of its own: `python -m tests.chaos.old_transport_server ADDRESS PORT`. The one rule: it has one tool.
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
    server.run("sse", host=sys.argv[1], port=int(sys.argv[2]), show_banner=False, log_level="error")
