"""The REST API of peers: list, add, remove. Its fields are a public contract (README, "Override discovery").

Registered by the wiring on the aiohttp application. The one rule: an answer is given only after the override is on disk
(`agent.control.operator`), and a handler never touches a link.
"""

import logging
from typing import TYPE_CHECKING, Final

from aiohttp import web

from agent import clock
from agent.audit.trail import NO_AUDIT, NoAudit, Trail
from agent.authority.caller import caller
from agent.client.dial_guard import check_url
from agent.control.operator import OverrideService
from agent.control.reconciler import Mesh
from agent.errors import DialRefused, OverrideRefused
from agent.late import Late
from agent.model import HttpTarget, LinkView, Override
from agent.rest.envelope import read_json, success
from agent.rest.status import describe_peer
from agent.routing.names import is_valid_name

if TYPE_CHECKING:
    from agent.rest.peer_request import PeerRequest


log = logging.getLogger(__name__)

NAME_RULE: Final = (
    "must be 1 to 63 letters, digits, dots, dashes or underscores, start with a letter or digit, and have no __"
)


class PeersApi:
    """Handlers; `mesh` is read, `overrides` changes what operators added or removed."""

    def __init__(self, mesh: Mesh, overrides: OverrideService, audit: Trail | NoAudit = NO_AUDIT) -> None:
        self._mesh = mesh
        self._audit = audit
        self._overrides = overrides
        self._peer_request = Late(_peer_request)

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
        sent = await read_json(request)
        body = (await self._peer_request.get()).model_validate(sent)
        try:
            url = check_url(body.peer_url)
        except DialRefused as exc:
            await self._record("peer.add", outcome="address_refused", peer=body.peer_name)
            raise OverrideRefused(403, "address_refused", f"peer_url: {exc}") from exc
        except ValueError as exc:
            raise OverrideRefused(422, "invalid_field", f"peer_url: {exc}") from exc
        token = body.auth_token.get_secret_value() if body.auth_token else None
        override = Override(body.peer_name, HttpTarget(url, token=token), body.scope)
        order = {"peer": override.name, "url": url.partition("?")[0], "scope": override.scope.value}
        try:
            created, view = await self._overrides.add(override)
        except OverrideRefused as exc:
            await self._record("peer.add", outcome=exc.code, **order)
            raise
        await self._record("peer.add", outcome="added" if created else "changed", **order)
        return _added(override, view, created=created)

    async def remove_peer(self, request: web.Request) -> web.Response:
        """DELETE /api/v1/mcp/peers/{peer_name}."""
        name = request.match_info["peer_name"]
        if not is_valid_name(name):
            raise OverrideRefused(422, "invalid_field", f"peer_name: {NAME_RULE}")
        try:
            await self._overrides.remove(name)
        except OverrideRefused as exc:
            await self._record("peer.remove", outcome=exc.code, peer=name)
            raise
        await self._record("peer.remove", outcome="removed", peer=name)
        data = {"success": True, "peer_name": name, "message": f"Peer node '{name}' removed successfully"}
        return success(data, f"Peer node '{name}' disconnected")

    async def _record(self, act: str, *, outcome: str, **order: str) -> None:
        """On the disk and in the log, before the operator has the answer."""
        who = caller().grant.name
        await self._audit.act(act, who, outcome=outcome, **order)
        log.info("peer ordered", extra={"act": act, "outcome": outcome, "by": who, **order})


def _peer_request() -> "type[PeerRequest]":
    from agent.rest.peer_request import PeerRequest  # noqa: PLC0415 - imports pydantic

    return PeerRequest


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
