"""The REST API of peers: list, add, remove. Its fields are a public contract (README, "Override discovery").

Registered by the wiring on the aiohttp application. The one rule: an answer is given only after the override is on disk
(`agent.control.operator`), and a handler never touches a link.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aiohttp import web

from agent import clock
from agent.audit.trail import NO_AUDIT, NoAudit, Trail
from agent.authority.caller import caller
from agent.client.dial_guard import check_url
from agent.control.candidates import FindingKind
from agent.control.operator import OverrideService, Removal
from agent.control.reconciler import Mesh
from agent.errors import DialRefused, OverrideRefused
from agent.late import Late
from agent.model import HttpTarget, Json, LinkView, Override
from agent.rest.descriptions import describe_peer
from agent.rest.envelope import read_json, success
from agent.routing.names import NAME_RULE, is_valid_name

if TYPE_CHECKING:
    from agent.rest.peer_request import PeerRequest


log = logging.getLogger(__name__)


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
        override = Override(body.peer_name, HttpTarget(url, token=token), body.scope, body.kind)
        order = {"peer": override.name, "url": url.partition("?")[0], "scope": override.scope.value}
        order |= {} if body.kind is None else {"kind": body.kind.value}
        try:
            created, view = await self._overrides.add(override)
        except OverrideRefused as exc:
            await self._record("peer.add", outcome=exc.code, **order)
            raise
        await self._record("peer.add", outcome="added" if created else "changed", **order)
        found = [one for one in self._mesh.selection.findings if one.name == override.name]
        wrong = next((one.detail for one in found if one.kind is FindingKind.OTHER_NODE), "")
        return _added(override, view, self._overrides.same_node_as(override.name), wrong, created=created)

    async def remove_peer(self, request: web.Request) -> web.Response:
        """DELETE /api/v1/mcp/peers/{peer_name}; with `?forget=1`, undo what operators ordered about it."""
        name = request.match_info["peer_name"]
        if not is_valid_name(name):
            raise OverrideRefused(422, "invalid_field", f"peer_name: {NAME_RULE}")
        forget = request.query.get("forget", "0")
        if forget not in ("0", "1"):
            raise OverrideRefused(422, "invalid_field", "forget: 1 undoes every order about the peer, 0 does not")
        act = "peer.reset" if forget == "1" else "peer.remove"
        try:
            removal = await (self._overrides.reset(name) if forget == "1" else self._overrides.remove(name))
        except OverrideRefused as exc:
            await self._record(act, outcome=exc.code, peer=name)
            raise
        await self._record(act, outcome="suppressed" if removal.suppressed else "removed", peer=name)
        done = "reset: what operators ordered about it is undone" if forget == "1" else "removed successfully"
        data = {"success": True, "peer_name": name, "message": f"Peer node '{name}' {done}"}
        data |= {"suppressed": list(removal.suppressed), "linked_as": removal.linked_as}
        if note := _note(name, removal, is_reset=forget == "1"):
            data["note"] = note
        return success(data, f"Peer node '{name}' {'reset' if forget == '1' else 'disconnected'}")

    async def _record(self, act: str, *, outcome: str, **order: str) -> None:
        """On the disk and in the log, before the operator has the answer."""
        who = caller().grant.name
        await self._audit.act(act, who, outcome=outcome, **order)
        log.info("peer ordered", extra={"act": act, "outcome": outcome, "by": who, **order})


def _note(name: str, removal: Removal, *, is_reset: bool) -> str:
    """What an operator should know beside the contract's words; empty where those say all."""
    if removal.suppressed:
        return f"Discovery may not bring it back, until it is added again or reset: mesh-agent peers reset {name}"
    if removal.linked_as is None:
        return ""
    note = f"Discovery knows the node, which stays linked as {removal.linked_as!r}"
    if removal.is_ordered:
        note = f"The node was added by another name, too, and stays linked as {removal.linked_as!r}"
    if removal.is_namesake:
        note = f"Discovery knows a node of this name, which is linked as {removal.linked_as!r} from now on"
    return note if is_reset else f"{note}; remove that too to keep it away"


def _peer_request() -> "type[PeerRequest]":
    from agent.rest.peer_request import PeerRequest  # noqa: PLC0415 - imports pydantic

    return PeerRequest


def _added(
    override: Override, view: LinkView | None, same_as: Sequence[str], wrong: str, *, created: bool
) -> web.Response:
    name, url = override.name, override.target.url
    data: Json = {"success": True, "peer_name": name, "peer_url": url}
    if same_as:
        data["same_node_as"] = list(same_as)
        data["note"] = f"It is the same node as {' and '.join(map(repr, same_as))}: one link answers to all these names"
    if wrong:
        data["note"] = wrong
    if view is not None and view.connected:
        data |= {
            "function_count": len(view.offer.tools),
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
