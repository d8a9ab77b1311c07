"""`mesh-agent peers …` and `servers ls`: the REST API for operators, in words.

Called by `agent.cli`. The one rule: a token for a peer is read from a file or from stdin, never from the command line,
which every user of the machine can see.
"""

import asyncio
from argparse import Namespace
from typing import Any
from urllib.parse import quote

from agent.cli_client import ask, node_of, token_from
from agent.cli_output import Exit, print_json, print_table
from agent.text import one_line

PEERS_PATH = "/api/v1/mcp/peers"
NAMES_CHARS_MAX = 1000
SERVERS_PATH = "/api/v1/mcp/servers"


def list_peers(args: Namespace) -> int:
    """Print the peers."""
    data, _ = asyncio.run(ask(node_of(args), "GET", PEERS_PATH))
    peers, suppressed = _rows(data, "peers"), suppressed_names(data)
    if args.json:
        print_json(peers=peers, suppressed=suppressed)
        return Exit.OK
    if not peers:
        print("no peers")
    else:
        heads = ["NAME", "CONNECTED", "STATE", "SOURCE", "TOOLS", "URL", "LAST ERROR"]
        fields = ["name", "connected", "state", "source", "function_count", "url", "last_error"]
        print_table(heads, [[peer.get(field) for field in fields] for peer in peers])
    print_suppressed(suppressed)
    return Exit.OK


def suppressed_names(data: Any) -> list[str]:
    """Read the names of removed peers that discovery may not bring back, each once, from the answer about peers."""
    names = data.get("suppressed") if isinstance(data, dict) else None
    return list(dict.fromkeys(str(name) for name in names)) if isinstance(names, list) else []


def print_suppressed(names: list[str]) -> None:
    """Say which peers are kept away by an operator's order, and how that ends; nothing when there are none."""
    if names:
        print(
            f"\nRemoved, and kept away although discovery may find them: {one_line(', '.join(names), NAMES_CHARS_MAX)}"
        )
        print("Add one again to lift that: mesh-agent peers add NAME URL")


def add_peer(args: Namespace) -> int:
    """Add a peer, and say whether it could be reached."""
    body = {"peer_name": args.name, "peer_url": args.peer_url}
    if args.auth_token_file:
        body["auth_token"] = token_from(args.auth_token_file)
    elif args.auth_token:
        body["auth_token"] = token_from("-")
    if args.scope:
        body["scope"] = args.scope
    data, message = asyncio.run(ask(node_of(args), "POST", PEERS_PATH, body))
    _say(args, data, message)
    return Exit.OK


def remove_peer(args: Namespace) -> int:
    """Remove a peer."""
    data, message = asyncio.run(ask(node_of(args), "DELETE", f"{PEERS_PATH}/{quote(args.name, safe='')}"))
    _say(args, data, message)
    return Exit.OK


def list_servers(args: Namespace) -> int:
    """Print the servers of the node, its peers among them."""
    data, _ = asyncio.run(ask(node_of(args), "GET", SERVERS_PATH))
    servers = _rows(data, "servers")
    if args.json:
        print_json(servers=servers)
    elif not servers:
        print("no servers")
    else:
        heads = ["NAME", "STATUS", "FUNCTIONS", "LAST ERROR"]
        print_table(heads, [(row.get("name"), _state(row), _count(row), row.get("last_error")) for row in servers])
    return Exit.OK


def _say(args: Namespace, data: Any, message: str) -> None:
    if args.json:
        print_json(data=data, message=message)
    else:
        inner = data.get("message") if isinstance(data, dict) else None
        print(one_line(str(inner or message or "done")))


def _rows(data: Any, key: str) -> list[dict[str, Any]]:
    rows = data.get(key) if isinstance(data, dict) else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _state(server: dict[str, Any]) -> Any:
    return server.get("status") or server.get("state") or server.get("connected")


def _count(server: dict[str, Any]) -> Any:
    functions = server.get("functions")
    return len(functions) if isinstance(functions, list) else server.get("function_count")
