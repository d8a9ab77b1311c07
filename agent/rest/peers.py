"""The REST API of peers: list, add, remove. Its fields are a public contract (README, "Override discovery").

Registered by the wiring on the aiohttp application. The one rule: an answer is given only after the override is on disk
(`agent.control.operator`), and a handler never touches a link.
"""

from typing import Final

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from agent import clock
from agent.client.dial_guard import check_url
from agent.control.operator import OverrideService
from agent.control.reconciler import Mesh
from agent.errors import DialRefused, OverrideRefused
from agent.model import HttpTarget, LinkView, Override, PeerScope
from agent.rest.envelope import read_json, success
from agent.rest.status import describe_peer
from agent.routing.names import is_valid_name

NAME_RULE: Final = (
    "must be 1 to 63 letters, digits, dots, dashes or underscores, start with a letter or digit, and have no __"
)


class PeerRequest(BaseModel):
    """The body of POST /api/v1/mcp/peers. A command for a stdio server has no place here, by design."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    peer_name: str = Field(min_length=1, max_length=63)
    peer_url: str = Field(min_length=1, max_length=2048)
    auth_token: SecretStr | None = Field(default=None, max_length=4096)
    scope: PeerScope = PeerScope.LOCAL

    @field_validator("peer_name")
    @classmethod
    def _name_is_legal(cls, name: str) -> str:
        if not is_valid_name(name):
            raise ValueError(NAME_RULE)
        return name

    @field_validator("auth_token")
    @classmethod
    def _token_is_sendable(cls, token: SecretStr | None) -> SecretStr | None:
        text = token.get_secret_value() if token is not None else None
        if text is not None and not (text.isascii() and text.isprintable() and " " not in text):
            raise ValueError("must be printable ASCII without spaces")
        return token if text else None


class PeersApi:
    """Handlers; `mesh` is read, `overrides` changes what operators added or removed."""

    def __init__(self, mesh: Mesh, overrides: OverrideService) -> None:
        self._mesh = mesh
        self._overrides = overrides

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""
        return [
            web.get("/api/v1/mcp/peers", self.list_peers),
            web.post("/api/v1/mcp/peers", self.add_peer),
            web.delete("/api/v1/mcp/peers/{peer_name}", self.remove_peer),
        ]

    async def list_peers(self, _request: web.Request) -> web.Response:
        """GET /api/v1/mcp/peers."""
        now_s = clock.now_s()
        peers = [describe_peer(view, now_s) for view in self._mesh.peer_views()]
        data = {"peers": peers, "suppressed": [s.name for s in self._overrides.suppressions]}
        return success(data, f"Found {len(peers)} peer node(s)")

    async def add_peer(self, request: web.Request) -> web.Response:
        """POST /api/v1/mcp/peers."""
        body = PeerRequest.model_validate(await read_json(request))
        try:
            url = check_url(body.peer_url)
        except DialRefused as exc:
            raise OverrideRefused(403, "address_refused", f"peer_url: {exc}") from exc
        except ValueError as exc:
            raise OverrideRefused(422, "invalid_field", f"peer_url: {exc}") from exc
        token = body.auth_token.get_secret_value() if body.auth_token else None
        override = Override(body.peer_name, HttpTarget(url, token=token), body.scope)
        created, view = await self._overrides.add(override)
        return _added(override, view, created=created)

    async def remove_peer(self, request: web.Request) -> web.Response:
        """DELETE /api/v1/mcp/peers/{peer_name}."""
        name = request.match_info["peer_name"]
        if not is_valid_name(name):
            raise OverrideRefused(422, "invalid_field", f"peer_name: {NAME_RULE}")
        await self._overrides.remove(name)
        data = {"success": True, "peer_name": name, "message": f"Peer node '{name}' removed successfully"}
        return success(data, f"Peer node '{name}' disconnected")


def _added(override: Override, view: LinkView | None, *, created: bool) -> web.Response:
    name, url = override.name, override.target.url
    data = {"success": True, "peer_name": name, "peer_url": url}
    if view is not None and view.connected:
        data |= {
            "function_count": view.function_count,
            "connected": True,
            "message": f"Peer node '{name}' added successfully",
        }
        return success(data, f"Peer node '{name}' connected", status=201 if created else 200)
    reason = view.last_error if view is not None and view.last_error else "no answer yet"
    next_attempt_s = None
    if view is not None and view.next_attempt_at_s is not None:
        next_attempt_s = round(max(0.0, view.next_attempt_at_s - clock.now_s()), 3)
    message = f"Peer node '{name}' saved, not connected: {reason}"
    data |= {"function_count": 0, "connected": False, "next_attempt_s": next_attempt_s, "message": message}
    return success(data, message, status=202)
