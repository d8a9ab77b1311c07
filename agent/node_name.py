"""The name of a node that was given none: the host's, or with the port behind it when that is taken here.

Called by the wiring at start. The one rule: a name once claimed on this machine stays with its node, whatever the
order in which nodes start again, because public names of tools depend on it.
"""

import os
import socket
from pathlib import Path

from agent.core.naming import valid_name

CLAIMS = "names"


def default_node_name(state_dir: Path, port: int, node_id: str, hostname: str | None = None) -> str:
    """Claim and return the node's name; `state_dir` is shared by the nodes of one user on this machine."""
    host = valid_name((hostname or socket.gethostname()).split(".")[0])
    claims = state_dir / CLAIMS
    claims.mkdir(mode=0o700, parents=True, exist_ok=True)
    candidates = (host, valid_name(f"{host}-{port}"))
    for name in candidates:
        if _claim(claims / name, node_id):
            return name
    # Both belong to other nodes that once ran here; the node's own ID tells it apart from every one of them.
    return valid_name(f"{host}-{node_id[:8]}")


def _claim(path: Path, node_id: str) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text(encoding="utf-8").strip() == node_id
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(node_id)
    return True
