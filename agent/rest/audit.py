"""The REST API of the audit: its newest records, for operators.

Registered by the wiring on the aiohttp application. The one rule: it reads what was written and never writes; whether
the chain is whole, `mesh-agent audit verify` says.
"""

from typing import Final

from aiohttp import web

from agent.audit.trail import Trail
from agent.authority.routes import AUDIT_PATH
from agent.errors import OverrideRefused
from agent.rest.envelope import success

COUNT: Final = 100
COUNT_MAX: Final = 500
_CHAIN: Final = frozenset({"prev", "hash"})


class AuditApi:
    """Handlers."""

    def __init__(self, trail: Trail) -> None:
        self._trail = trail

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""
        return [web.get(AUDIT_PATH, self.show)]

    async def show(self, request: web.Request) -> web.Response:
        """GET /api/v1/mcp/audit; `count` of the newest records, oldest first."""
        try:
            count = int(request.query.get("count", COUNT))
        except ValueError:
            count = 0
        if not 1 <= count <= COUNT_MAX:
            raise OverrideRefused(422, "invalid_field", f"count: a whole number from 1 to {COUNT_MAX} is needed")
        records = await self._trail.newest(count)
        shown = [{name: value for name, value in record.items() if name not in _CHAIN} for record in records]
        return success({"records": shown}, f"The {len(shown)} newest record(s) of the audit")
