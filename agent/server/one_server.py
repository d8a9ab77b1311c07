"""The introduction of one server alone, as it introduced itself to the node: for clients of `/mcp/s/NAME`.

In place of the node's own tools (`agent.server.own_tools`), which such an endpoint does not have. The one rule: what
the server did not say is not said here, but for what the mesh adds to every server: notices of changed lists.
"""

from collections.abc import Callable
from typing import Final

from agent.errors import MCPError
from agent.mcp_terms import LATEST_HANDSHAKE_VERSION, MODERN_PROTOCOL_VERSIONS, SERVER_INFO_META_KEY
from agent.model import TASKS_EXTENSION, Json, NodeIdentity
from agent.routing.about import SUBSCRIBE
from agent.rpc_codes import METHOD_NOT_FOUND
from agent.server.introduction import Introduction
from agent.server.lists import Definitions

_INFO: Final = ("name", "title", "version", "description", "websiteUrl", "icons")
_FEATURES: Final[Json] = {
    "tools": {"listChanged": True},
    "prompts": {"listChanged": True},
    "resources": {"listChanged": True},
    "completions": {},
    "logging": {},
}
# What MCP demands of every server, where one gave none.
_NO_VERSION: Final = "0"


class OneServer:
    """`about`: the server's word of itself as of now (`agent.routing.about`). `name`: what the mesh calls it."""

    def __init__(self, name: str, about: Callable[[], Json]) -> None:
        self._name = name
        self._about = about

    def __repr__(self) -> str:
        return f"<OneServer {self._name}>"

    def definitions(self) -> Definitions:
        """Nothing is listed here but what the server lists."""
        return Definitions()

    async def answer(self, method: str, _params: Json, _version: str) -> Json:
        """Raises `MCPError`: there is nothing of the node's own."""
        raise MCPError(code=METHOD_NOT_FOUND, message="Method not found", data=method)

    def discovery(
        self, _identity: NodeIdentity, _servers: Introduction, *, draining: bool = False, has_tasks: bool = False
    ) -> Json:
        """The result of `server/discover`."""
        del draining  # Of nodes, which do not come here.
        return {
            "resultType": "complete",
            "supportedVersions": list(MODERN_PROTOCOL_VERSIONS),
            "capabilities": self._capabilities(has_tasks=has_tasks),
            **self._instructions(),
            "cacheScope": "private",
            "ttlMs": 0,
            "_meta": {SERVER_INFO_META_KEY: self._info()},
        }

    def initialize_result(self, _identity: NodeIdentity, _servers: Introduction) -> Json:
        """The result of `initialize`; its `protocolVersion` is the one to offer, unless another was agreed."""
        return {
            "protocolVersion": LATEST_HANDSHAKE_VERSION,
            "capabilities": self._capabilities(has_tasks=False),
            "serverInfo": self._info(),
            **self._instructions(),
        }

    def _info(self) -> Json:
        about = self._about()
        said: Json = {member: about[member] for member in _INFO if member in about}
        return {"name": self._name, "version": _NO_VERSION, **said}

    def _instructions(self) -> Json:
        about = self._about()
        return {"instructions": about["instructions"]} if "instructions" in about else {}

    def _capabilities(self, *, has_tasks: bool) -> Json:
        about = self._about()
        features = about.get("features", ())
        capabilities = {name: value for name, value in _FEATURES.items() if name in features}
        if SUBSCRIBE in features:
            capabilities["resources"] = {"subscribe": True, **capabilities.get("resources", {})}
        extensions = {**about.get("extensions", {}), **({TASKS_EXTENSION: {}} if has_tasks else {})}
        return {**capabilities, "extensions": extensions} if extensions else capabilities
