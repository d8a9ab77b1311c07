"""The name of a node that was given none: the host's, or with the port behind it when that is taken here.

Called by the wiring at start. The one rule: a name once claimed on this machine stays with its node, whatever the
order in which nodes start again, because public names of tools depend on it.
"""

import os
import socket
from pathlib import Path

from agent.core.naming import valid_name
from agent.errors import ConfigRefused

CLAIMS = "names"


def default_node_name(state_dir: Path, port: int, node_id: str, hostname: str | None = None) -> str:
    """Claim and return the node's name; `state_dir` is shared by the nodes of one user on this machine.

    Raises `ConfigRefused` when the folder of claims cannot be used.
    """
    host = valid_name((hostname or socket.gethostname()).split(".")[0])
    claims = state_dir / CLAIMS
    try:
        claims.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in (host, valid_name(f"{host}-{port}")):
            if _claim(claims / name, node_id):
                return name
    except OSError as exc:
        raise ConfigRefused(
            f"{claims}: a name for this node cannot be kept: {exc.strerror}; set MESH_NODE_NAME or MESH_STATE_DIR"
        ) from exc
    # Both belong to other nodes that once ran here; the node's own ID tells it apart from every one of them.
    return valid_name(f"{host}-{node_id[:8]}")


def _claim(path: Path, node_id: str) -> bool:
    """Whether the name is ours, now or already. A claim appears whole: a crash never leaves one without its owner."""
    draft = path.with_name(f".{node_id}.tmp")
    draft.write_text(node_id, encoding="utf-8")
    try:
        os.link(draft, path)
    except FileExistsError:
        return path.read_text(encoding="utf-8").strip() == node_id
    finally:
        draft.unlink()
    return True
