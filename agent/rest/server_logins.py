"""The REST API of logins at servers that want OAuth: begin one, finish it, forget it (`mesh-agent servers login`).

Registered by the wiring on the aiohttp application. An operator's browser goes to the server's issuer and comes back
with a URL, which the command line hands in here. The one rule: no answer has a token, and a login is answered only
after it is on disk and in the audit.
"""

import asyncio
import logging
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from agent.audit.trail import NO_AUDIT, NoAudit, Trail
from agent.authority.caller import caller
from agent.client.oauth.authorizer import Authorizer, Authorizers
from agent.config.endpoint import url_fault
from agent.config.values import is_loopback
from agent.control.reconciler import Mesh
from agent.errors import CallNotSent, LinkFailed, MeshError, OverrideRefused
from agent.model import LinkView
from agent.rest.envelope import read_json, success

log = logging.getLogger(__name__)

# What the answer to a login waits for the server's link; the command line waits for 15 s in all.
CONNECT_TIMEOUT_S: Final = 4.0
_PATH: Final = "/api/v1/mcp/servers/{name}/login"


class ServerLoginsApi:
    """Handlers."""

    def __init__(self, mesh: Mesh, authorizers: Authorizers, audit: Trail | NoAudit = NO_AUDIT) -> None:
        self._mesh, self._authorizers, self._audit = mesh, authorizers, audit

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""
        return [
            web.post(_PATH, self.begin),
            web.post(f"{_PATH}/finish", self.finish),
            web.delete(_PATH, self.forget),
        ]

    async def begin(self, request: web.Request) -> web.Response:
        """POST .../login with `redirect_uri`, on the operator's own machine: the URL to open."""
        name, authorizer = self._named(request)
        redirect_uri = await _text(request, "redirect_uri")
        parts = urlsplit("" if url_fault(redirect_uri) else redirect_uri)
        if parts.scheme != "http" or not is_loopback(parts.hostname or "") or parts.query or parts.fragment:
            text = "redirect_uri: must be one of the browser's machine, like http://127.0.0.1:8521/callback"
            raise OverrideRefused(422, "invalid_field", text)
        try:
            url, used = await authorizer.begin_login(redirect_uri)
        except (LinkFailed, CallNotSent) as exc:
            raise await self._refused(name, exc) from exc
        await self._record("server.login_begin", name, "begun")
        return success({"authorization_url": url, "redirect_uri": used}, "Open this URL in a browser")

    async def finish(self, request: web.Request) -> web.Response:
        """POST .../login/finish with `redirected_to`, the whole URL that the browser was led to."""
        name, authorizer = self._named(request)
        redirected_to = await _text(request, "redirected_to")
        try:
            await authorizer.finish_login(redirected_to)
        except ValueError as exc:
            raise OverrideRefused(409, "login_not_begun", f"redirected_to: {exc}") from exc
        except OSError as exc:
            raise OverrideRefused(500, "login_not_kept", f"the login is not on the disk: {exc.strerror}") from exc
        except (LinkFailed, CallNotSent, TimeoutError) as exc:
            raise await self._refused(name, exc) from exc
        await self._record("server.login", name, "logged_in")
        view = await self._connected(name)
        data = {"server": name, "connected": view is not None and view.connected}
        why = "" if data["connected"] or view is None else f"; it is not connected yet: {view.last_error or view.state}"
        return success(data, f"Logged in at {name}{why}")

    async def forget(self, request: web.Request) -> web.Response:
        """DELETE .../login: forget the tokens; the issuer is not told."""
        name, authorizer = self._named(request)
        try:
            known = await authorizer.forget_login()
        except OSError as exc:
            raise OverrideRefused(500, "login_not_kept", f"the login is still on the disk: {exc.strerror}") from exc
        await self._record("server.logout", name, "forgotten" if known else "unknown")
        if known:
            await self._connected(name)
        return success({"server": name, "known": known}, f"{'Forgot' if known else 'There was no'} login at {name}")

    def _named(self, request: web.Request) -> tuple[str, Authorizer]:
        """The server's name and who has its tokens. Raises `OverrideRefused`."""
        name = request.match_info["name"]
        spec = next((one for one in self._mesh.servers if name in (one.name, one.configured_name)), None)
        if spec is None:
            known = ", ".join(sorted(one.name for one in self._mesh.servers)) or "none"
            raise OverrideRefused(404, "server_not_found", f"There is no server of that name here. Known: {known}")
        authorizer = self._authorizers.of(spec)
        if authorizer is None or not authorizer.logs_in:
            why = "it is a command, or has a token or a secret of its own"
            raise OverrideRefused(409, "no_login", f"There is no login at {spec.name}: {why}")
        return spec.name, authorizer

    async def _connected(self, name: str) -> LinkView | None:
        """The link after another dial, as far as that comes soon."""
        with suppress(TimeoutError, MeshError):
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._mesh.reload(name, CONNECT_TIMEOUT_S)
        with suppress(MeshError):
            return self._mesh.view_of(name)
        return None

    async def _refused(self, name: str, exc: Exception) -> OverrideRefused:
        await self._record("server.login", name, "refused")
        return OverrideRefused(502, "login_refused", str(exc) or "the issuer does not answer in time")

    async def _record(self, act: str, name: str, outcome: str) -> None:
        who = caller().grant.name
        await self._audit.act(act, who, server=name, outcome=outcome)
        log.info("login at a server", extra={"act": act, "server": name, "outcome": outcome, "by": who})


async def _text(request: web.Request, field: str) -> str:
    body = await read_json(request)
    value = body.get(field) if isinstance(body, dict) else None
    if isinstance(value, str) and value:
        return value
    raise OverrideRefused(422, "invalid_field", f"{field}: a text is needed")
