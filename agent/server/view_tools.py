"""What a view says of itself, and its search tools: in place of the node's own tools, for `/mcp/v/NAME` and the like.

Made by `agent.server.views` for each endpoint. The one rule: of the node nothing is shown here but the search tools,
which find what the view shows; to its clients a view is a plain server.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from agent import __version__
from agent.late import Late
from agent.mcp_terms import LATEST_HANDSHAKE_VERSION, MODERN_PROTOCOL_VERSIONS, SERVER_INFO_META_KEY
from agent.model import TASKS_EXTENSION, Json, NodeIdentity, ViewSpec
from agent.server.introduction import Introduction
from agent.server.lists import Definitions
from agent.server.own_tools import CAPABILITIES, answered, search_definitions
from agent.server.search import ToolSearch

if TYPE_CHECKING:
    from agent.server.management import Management


class ViewTools:
    """`name`: of the view. `spec`: the view as of now. `search`: finds its tools."""

    def __init__(self, name: str, spec: Callable[[], ViewSpec], search: ToolSearch | None) -> None:
        self._name = name
        self._spec = spec
        self._search = search
        self._management = Late(self._build)

    def __repr__(self) -> str:
        return f"<ViewTools {self._name} {self._management!r}>"

    def definitions(self) -> Definitions:
        """Nothing is listed but what the view shows, and in search mode the search tools."""
        return Definitions(search_tools=[] if self._search is None else search_definitions())

    async def answer(self, method: str, params: Json, version: str) -> Json:
        """As `OwnTools.answer`, of the search tools."""
        return await answered(self._management, method, params, version, self._info())

    def discovery(
        self, _identity: NodeIdentity, servers: Introduction, *, draining: bool = False, has_tasks: bool = False
    ) -> Json:
        """The result of `server/discover`."""
        del draining  # Of nodes, which do not come here.
        return {
            "resultType": "complete",
            "supportedVersions": list(MODERN_PROTOCOL_VERSIONS),
            "capabilities": _capabilities(servers, has_tasks=has_tasks),
            **self._instructions(servers),
            "cacheScope": "private",
            "ttlMs": 0,
            "_meta": {SERVER_INFO_META_KEY: self._info()},
        }

    def initialize_result(self, _identity: NodeIdentity, servers: Introduction) -> Json:
        """The result of `initialize`; its `protocolVersion` is the one to offer, unless another was agreed."""
        return {
            "protocolVersion": LATEST_HANDSHAKE_VERSION,
            "capabilities": _capabilities(servers, has_tasks=False),
            "serverInfo": self._info(),
            **self._instructions(servers),
        }

    def _info(self) -> Json:
        title = self._spec().title
        return {"name": self._name, "version": __version__, **({"title": title} if title else {})}

    def _instructions(self, servers: Introduction) -> Json:
        parts = [part for part in (self._spec().description, servers.instructions) if part]
        return {"instructions": "\n\n".join(parts)} if parts else {}

    def _build(self) -> "Management":
        from agent.server.management import Management  # noqa: PLC0415 - imports FastMCP

        return Management(self._name, None, self._search)


def _capabilities(servers: Introduction, *, has_tasks: bool) -> Json:
    extensions = {**servers.extensions, **({TASKS_EXTENSION: {}} if has_tasks else {})}
    return {**CAPABILITIES, "extensions": extensions} if extensions else CAPABILITIES
