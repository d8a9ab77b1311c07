"""The meshes of the end-to-end tests: which catalog a test's nodes use, and the small mesh that most tests share.

Made by fixtures in conftest.py. The one rule: two meshes never meet, because each has a catalog port or a service name
of its own.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

from tests.consul_process import RunningConsul
from tests.e2e.running import RunningNode
from tests.ports import free_port

_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class CatalogKind:
    """Which catalog the nodes of a test use; each call of `fresh` is a mesh of its own."""

    name: str
    consul: RunningConsul | None = None

    def fresh(self) -> dict[str, str]:
        """Environment variables of one more mesh that no other node is in."""
        if self.consul is None:
            return {"MESH_DISCOVERY": "embedded", "MESH_EMBEDDED_PORT": str(free_port())}
        return {"CONSUL_HTTP_ADDR": self.consul.url, "MESH_SERVICE_NAME": f"mcp-node-{next(_NUMBERS)}"}

    def bare(self) -> dict[str, str]:
        """Nothing but where the catalog is; for one mesh of the whole run."""
        if self.consul is None:
            return {"MESH_DISCOVERY": "embedded", "MESH_EMBEDDED_PORT": str(free_port())}
        return {"CONSUL_HTTP_ADDR": self.consul.url}


@dataclass(frozen=True)
class RunningKit:
    """`tests.e2e.kit_server` over HTTP, and the file with the headers of every request that it got."""

    url: str
    journal: Path


@dataclass(frozen=True)
class SharedMesh:
    """Three nodes: `plain` has no servers, `desk` has notes, dice and the kit by URL, `hall` has the clock and dice."""

    plain: RunningNode
    node_status: RunningNode
    hall: RunningNode
    kit_url: str

    @property
    def nodes(self) -> tuple[RunningNode, RunningNode, RunningNode]:
        """All three."""
        return self.plain, self.node_status, self.hall


SHARED_TOOLS = {
    *(f"desk__notes__{tool}" for tool in ("add", "list", "read")),
    *(f"hall__clock__{tool}" for tool in ("now", "convert")),
    *(f"kit__{tool}" for tool in ("add", "plant", "fail", "count", "hold")),
    "dice__roll",
}
SHARED_PROMPTS = {"kit__greet", "desk__notes__summarise"}
SHARED_RESOURCES = {"config://app", "health://system", "kit://kit/motd", "notes://desk__notes/all"}
SHARED_TEMPLATES = {"kit://kit/item/{key}", "notes://desk__notes/note/{title}"}
# How many functions each node of the shared mesh has, its five management tools included.
SHARED_COUNTS = {"plain": 5, "desk": 14, "hall": 8}
