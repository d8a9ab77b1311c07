"""Nodes that listen on an address that a test gives them, on this machine or on another one (tests.chaos.namespace).

The one rule: what starts one ends it, with `stop_node`; it is in `LIVING` meanwhile, so a failure shows its log.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.processes import environment_of, spawn_copy
from tests.e2e.running import LIVING, ONE_MESH, RunningNode

# What listens beyond loopback has one.
TOKEN = "a-token-for-everything-0123456789abcdef"


@dataclass
class Placed(RunningNode):
    """A node that listens on an address of its own."""

    address: str = ""

    @property
    def base(self) -> str:
        return f"http://{self.address}:{self.port}"


def placed(name: str, folder: Path, place: tuple[str, int], settings: Mapping[str, str], network: str = "") -> Placed:
    """Start a node at an address and port, in a network of its own where one is named; it is not ready yet."""
    address, port = place
    settings = {
        "MESH_NODE_NAME": name,
        "MESH_STATE_DIR": str(folder / name / "state"),
        "MESH_TOKEN": TOKEN,
        "MESH_PEER_TOKEN": ONE_MESH,
        "HOST": address,
        "PORT": str(port),
        **settings,
    }
    log_path, environment = folder / f"{name}.log", environment_of(settings)
    process = spawn_copy(("agent", "run"), log_path, environment, network=network)
    node = Placed(name, port, process, log_path, TOKEN, environment, address)
    LIVING.append(node)
    return node
