"""What the management tools use of the node.

Implemented by `agent.rest.status`, used by `agent.server.management`. The one rule: nothing here touches a link.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from agent.errors import MeshError
from agent.model import Json, ServerScope


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


class WithoutPrivate:
    """The same for `/mcp/local`: other nodes hear nothing of servers that are for this one's clients alone."""

    def __init__(self, whole: NodeOperations) -> None:
        self._whole = whole
        self.ask, self.config, self.health = whole.ask, whole.config, whole.health
        self.overview_page = whole.overview_page

    def __repr__(self) -> str:
        return f"<WithoutPrivate {self._whole!r}>"

    def servers(self, *, for_clients: bool = False) -> list[Json]:
        """See `NodeOperations`."""
        return [entry for entry in self._whole.servers(for_clients=for_clients) if not _is_private(entry)]

    def functions(self, server_name: str) -> Json:
        """See `NodeOperations`."""
        with self._in_words_for_others(server_name):
            return self._whole.functions(server_name)

    async def reload(self, server_name: str) -> Json:
        """See `NodeOperations`."""
        with self._in_words_for_others(server_name):
            return await self._whole.reload(server_name)

    async def reload_all(self) -> list[Json]:
        """See `NodeOperations`."""
        private = self._names(private=True)
        return [one for one in await self._whole.reload_all() if one["server_name"] not in private]

    @contextmanager
    def _in_words_for_others(self, server_name: str) -> Iterator[None]:
        """Refuse a private name as one that is not known; nor does a failure say which private ones there are."""
        known = self._names(private=False)
        said = f"There is no MCP server or peer named {server_name!r}. Known: {', '.join(sorted(known)) or 'none'}."
        if server_name not in known and server_name in self._names(private=True):
            raise MeshError(said)
        try:
            yield
        except MeshError as exc:
            raise exc if server_name in known else MeshError(said) from exc

    def _names(self, *, private: bool) -> set[str]:
        entries = [entry for entry in self._whole.servers() if _is_private(entry) is private]
        return {str(entry[key]) for entry in entries for key in ("name", "configured_name") if entry.get(key)}


def _is_private(entry: Json) -> bool:
    return entry.get("scope") == ServerScope.PRIVATE
