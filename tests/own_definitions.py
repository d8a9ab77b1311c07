"""Writes agent/server/own_definitions.json: the node's own tools and resources, as FastMCP describes them.

Called by `make definitions`, and by tests/unit/server/test_own_tools.py, which compares. The one rule: the file has
what `agent.server.management` gives, so that a node can list them without FastMCP.
"""

import asyncio

import orjson

from agent.routing.table import RouteTable
from agent.server.management import Management
from agent.server.node_operations import NodeOperations
from agent.server.own_tools import DEFINITIONS
from agent.server.search import ToolSearch


async def described() -> bytes:
    """What the file has to have; nothing is asked of the node for it."""
    management = Management("node", NodeOperations, ToolSearch(RouteTable))
    return orjson.dumps(await management.definitions(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


if __name__ == "__main__":
    DEFINITIONS.write_bytes(asyncio.run(described()))
