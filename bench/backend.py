"""The server behind what is measured (`bench.bare_server`), called by wrk with nothing between.

The one rule: a run in which it does less than the goal has compared the machine, and not what stood before it.
"""

from typing import Final
from urllib.parse import urlsplit

from bench import wrk
from bench.figures import Figure
from bench.raw_client import ENVELOPE, VERSION

CALLERS: Final = 32
GOAL: Final = 25_000
HEADERS: Final = {"MCP-Protocol-Version": VERSION, "Mcp-Method": "tools/call", "Mcp-Name": "echo"}


async def alone(url: str) -> Figure:
    """Calls a second of the server at that URL, before anything else calls it."""
    parts = urlsplit(url)
    run = await wrk.run(f"{parts.scheme}://{parts.netloc}", wrk.script("echo", HEADERS, ENVELOPE), CALLERS)
    return Figure(f"the server alone: calls/s at {CALLERS} callers", run.rate, "/s", GOAL, more_is_better=True)
