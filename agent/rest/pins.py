"""The REST API of pinned definitions: what is pinned, what has changed, and an operator's approval.

Registered by the wiring on the aiohttp application. The one rule: an approval is answered only after it is on disk and
in the audit.
"""

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from agent.audit.trail import NO_AUDIT, NoAudit, Trail
from agent.authority.caller import caller
from agent.control.pinning import Pinning
from agent.errors import OverrideRefused
from agent.model import Json
from agent.rest.envelope import read_json, success

log = logging.getLogger(__name__)


class PinsApi:
    """Handlers. `settled` returns when the route tables show what was approved."""

    def __init__(
        self, pinning: Pinning, settled: Callable[[], Awaitable[None]], audit: Trail | NoAudit = NO_AUDIT
    ) -> None:
        self._pinning, self._settled, self._audit = pinning, settled, audit

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""
        return [web.get("/api/v1/mcp/pins", self.show), web.post("/api/v1/mcp/pins/approve", self.approve)]

    async def show(self, request: web.Request) -> web.Response:
        """GET /api/v1/mcp/pins; `server` and `name` choose among the changes."""
        query = request.query
        changes = await self._pinning.changes(query.get("server"), query.get("name"))
        data = {
            "mode": self._pinning.mode.value,
            "pins": await self._pinning.pins(),
            "changed": changes,
            "suspected": self._pinning.suspected(),
        }
        return success(data, f"{len(changes)} pinned definition(s) changed")

    async def approve(self, request: web.Request) -> web.Response:
        """POST /api/v1/mcp/pins/approve with `server`, and `name` for one definition there."""
        body = await read_json(request)
        server, name = _text(body, "server"), _text(body, "name", needed=False)
        assert server is not None
        by = caller().grant.name
        approved = await self._pinning.approve(server, name, by, self._record)
        await self._settled()
        return success({"approved": approved}, f"{len(approved)} definition(s) of {server!r} approved")

    async def _record(self, approved: Json) -> None:
        who = caller().grant.name
        known = {"server": approved["server"], "kind": approved["kind"], "entry": approved["name"]}
        await self._audit.act("definition.approve", who, outcome="approved", digest=approved["digest"], **known)
        log.info("definition approved", extra={**known, "by": who})


def _text(body: object, field: str, *, needed: bool = True) -> str | None:
    value = body.get(field) if isinstance(body, dict) else None
    if isinstance(value, str) and value:
        return value
    if value is None and isinstance(body, dict) and not needed:
        return None
    raise OverrideRefused(422, "invalid_field", f"{field}: a text is needed")
