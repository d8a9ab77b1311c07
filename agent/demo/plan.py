"""PURE: what the demonstration starts, when it is complete, and what it prints then.

Called by `agent.demo.run`, which starts the processes and polls them. The one rule: nothing here opens a socket, reads
a clock or touches a file.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What each node runs. `dice` is a service: two nodes run it, and its name does not say where. `notes` belongs to its
# node, so the node's name is part of its tools' names.
_SERVERS = {
    "node-a": (("clock", "service"),),
    "node-b": (("dice", "service"),),
    "node-c": (("dice", "service"), ("notes", "node")),
}
CALLED_TOOL = "dice__roll"
CALLED_ARGUMENTS = {"sides": 20, "count": 3}
EXPECTED_TOOLS = frozenset({"clock__now", "clock__convert", CALLED_TOOL, "node-c__notes__add", "node-c__notes__read"})
_FOREIGN = ("MESH_", "CONSUL_")  # The user's own settings mean the user's own node.


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One node to start."""

    name: str
    port: int
    folder: Path
    servers: tuple[tuple[str, str], ...]  # name and scope

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def servers_path(self) -> Path:
        """Where its servers file goes."""
        return self.folder / "servers.json"

    @property
    def log_path(self) -> Path:
        """Where its log goes."""
        return self.folder / "log.txt"


@dataclass(frozen=True, slots=True)
class Seen:
    """What one node answered last; `state` is None before its first answer."""

    state: str | None = None
    connected: int = 0
    tools: frozenset[str] = frozenset()


def plan_nodes(ports: Sequence[int], folder: Path) -> tuple[NodePlan, ...]:
    """Give each node a port and a folder of its own."""
    return tuple(
        NodePlan(name, port, folder / name, servers)
        for (name, servers), port in zip(_SERVERS.items(), ports, strict=True)
    )


def servers_json(plan: NodePlan, python: str, cwd: str) -> str:
    """Write the servers file of one node."""
    servers = {
        name: {"command": python, "args": ["-m", f"agent.examples.{name}"], "cwd": cwd, "mesh": {"scope": scope}}
        for name, scope in plan.servers
    }
    return json.dumps({"mcpServers": servers}, indent=2)


def node_environment(plan: NodePlan, environ: Mapping[str, str], embedded_port: int) -> dict[str, str]:
    """Build the environment of one node: the user's, without settings that are meant for another node."""
    kept = {name: text for name, text in environ.items() if not name.startswith(_FOREIGN)}
    return kept | {
        "HOST": "127.0.0.1",
        "PORT": str(plan.port),
        "MESH_NODE_NAME": plan.name,
        # One for all: they know each other by the secret that the first of them makes there.
        "XDG_STATE_HOME": str(plan.folder.parent / "state"),
        "MESH_SERVERS_FILE": str(plan.servers_path),
        "MESH_DISCOVERY": "embedded",
        "MESH_EMBEDDED_PORT": str(embedded_port),
        "MESH_LOG_FORMAT": "text",
    }


def read_status(data: Any, tools: Any) -> Seen:
    """Take what matters from a node's status and from its tools/list result."""
    status = data if isinstance(data, dict) else {}
    peers = [peer for peer in status.get("peers") or () if isinstance(peer, dict) and peer.get("connected")]
    listed = tools.get("tools") if isinstance(tools, dict) else None
    names = frozenset(str(tool.get("name")) for tool in listed or () if isinstance(tool, dict))
    return Seen(str((status.get("self") or {}).get("state")), len(peers), names)


def missing(seen: Mapping[str, Seen]) -> list[str]:
    """Say what each node still waits for; empty when the mesh is complete."""
    wanted = len(seen) - 1
    lines = []
    for name, node in seen.items():
        if node.state is None:
            lines.append(f"{name} starts")
        elif node.connected < wanted:
            lines.append(f"{name} sees {node.connected} of {wanted} peers")
        elif absent := sorted(EXPECTED_TOOLS - node.tools):
            lines.append(f"{name} has no {absent[0]} yet")
    return lines


def instructions(plans: Sequence[NodePlan], command: str, python: str) -> str:
    """Say which nodes run and how to use them; `command` and `python`: this program and its Python in a shell."""
    first = plans[0]
    width = max(len(plan.url) for plan in plans) + len("/mcp")
    rows = [
        f"  {plan.name}  {plan.url + '/mcp':<{width}}  runs {', '.join(name for name, _ in plan.servers)}"
        for plan in plans
    ]
    return "\n".join(
        [
            "In the mesh, and each answers for all:",
            *rows,
            "",
            "Look:    " + f"{first.url}/ in a browser, or {command} status --url {first.url}",
            "Call:    " + f"{command} tools call {CALLED_TOOL} sides=20 count=3 --url {first.url}",
            "REST:    " + f"curl {first.url}/api/v1/mcp/peers",
            "Claude:  " + f"claude mcp add --transport http mesh {first.url}/mcp",
            "Python:  " + f"{python}, with these lines:",
            "",
            _python_lines(f"{first.url}/mcp"),
        ]
    )


def what_to_try(first: NodePlan, second: NodePlan, pid: int, command: str) -> str:
    """Say what shows that the mesh goes on when a node dies; `pid`: of the second node, `command`: this program."""
    return "\n".join(
        [
            f"Try:     kill -9 {pid}     # ends {second.name}, which runs dice",
            f"         then call {CALLED_TOOL} again: node-c rolls them, and the page shows {second.name} go",
            f"         {command} logs --url {first.url}: each call has a line, and its backend= says who answered",
            "         Enter, here: starts a node that has ended again, and it is back in the mesh",
        ]
    )


def _python_lines(url: str) -> str:
    """Write a whole program, not indented, that can be pasted into a file or a prompt as it stands."""
    call = f'client.call_tool("{CALLED_TOOL}", {json.dumps(CALLED_ARGUMENTS)})'
    return "\n".join(
        [
            "import asyncio",
            "from fastmcp import Client",
            "",
            "async def main():",
            f'    async with Client("{url}") as client:',
            f"        print((await {call}).data)",
            "",
            "asyncio.run(main())",
        ]
    )
