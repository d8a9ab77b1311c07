"""What the management tools use of the node.

Implemented by `agent.rest.status`, used by `agent.server.management`. The one rule: nothing here touches a link.
"""

from typing import Protocol

from agent.model import Json


class NodeOperations(Protocol):
    """The node's state to read, and what may be asked of it."""

    def servers(self, *, for_clients: bool = False) -> list[Json]:
        """Every configured server and every peer as `data.servers` shows them; or failures in words for clients."""
        ...

    def functions(self, server_name: str) -> Json:
        """One of them with its functions. Raises `MeshError` when there is none of that name."""
        ...

    async def reload(self, server_name: str) -> Json:
        """Close and open its link anew. Raises `MeshError` when there is none of that name."""
        ...

    async def reload_all(self) -> list[Json]:
        """Read the servers file again and open every enabled server's link anew."""
        ...

    async def ask(self, node: str, tool: str, arguments: Json) -> Json:
        """Call a management tool of another node. Raises `MeshError` when it does not answer."""
        ...

    def config(self) -> Json:
        """The node's settings, secrets masked."""
        ...

    def health(self) -> Json:
        """The content of `health://system`."""
        ...

    def overview_page(self) -> str:
        """The document of the MCP App that shows the mesh."""
        ...
