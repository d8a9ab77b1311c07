"""Every route of a running node, with every scope, in both eras: what opens, and what does not.

The routes are those of the node's own application, so that one without a row here fails.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from aiohttp import web

from agent.app import node as wiring
from agent.app.start import run_node
from agent.authority.grant import Scope
from agent.client.dial_guard import limit_dials
from agent.config.load import load_settings
from agent.rest.failure_brake import FailureBrake
from tests.attacks.clients import BOTH, ERAS, entry, stateless, token_of, write_tokens
from tests.ports import free_port

ANYBODY: Final = frozenset({*Scope, "no token"})
ANY_TOKEN: Final = frozenset(Scope)
CLIENTS: Final = frozenset({"mcp"})
NODES: Final = frozenset({"peer"})
READERS: Final = frozenset({"read", "admin"})
OPERATORS: Final = frozenset({"admin"})
# By method and path, as the application has it, the scopes that open it; `*` stands for all methods.
MATRIX: Final[dict[tuple[str, str], frozenset[str]]] = {
    ("GET", "/healthz"): ANYBODY,
    ("GET", "/readyz"): ANYBODY,
    ("GET", "/metrics"): READERS | {"metrics"},
    ("GET", "/.well-known/oauth-protected-resource"): ANYBODY,
    ("GET", "/.well-known/oauth-protected-resource/{path}"): ANYBODY,
    ("GET", "/api/openapi.json"): READERS,
    ("GET", "/v0.1/servers"): READERS,
    ("GET", "/v0.1/servers/{name}/versions"): READERS,
    ("GET", "/v0.1/servers/{name}/versions/{version}"): READERS,
    ("GET", "/.well-known/mcp/server-card.json"): READERS,
    ("GET", "/.well-known/ai-catalog.json"): READERS,
    ("GET", "/mcp/server-card"): CLIENTS,
    ("GET", "/llms.txt"): READERS,
    **{("GET", path): ANYBODY for path in ("/", "/ui", "/ui/", "/ui/{name}")},
    ("POST", "/ui/login"): ANY_TOKEN,
    ("POST", "/ui/logout"): ANY_TOKEN,
    ("GET", "/api/v1/mcp/events"): READERS,
    ("GET", "/api/v1/mcp/ping"): READERS,
    ("GET", "/api/v1/mcp/logs"): OPERATORS,
    ("GET", "/api/v1/mcp/debug"): OPERATORS,
    ("GET", "/api/v1/mcp/peers"): READERS,
    ("POST", "/api/v1/mcp/peers"): OPERATORS,
    ("DELETE", "/api/v1/mcp/peers/{peer_name}"): OPERATORS,
    ("GET", "/api/v1/mcp/servers"): READERS,
    ("POST", "/api/v1/mcp/servers/{name}/login"): OPERATORS,
    ("POST", "/api/v1/mcp/servers/{name}/login/finish"): OPERATORS,
    ("DELETE", "/api/v1/mcp/servers/{name}/login"): OPERATORS,
    ("GET", "/api/v1/mcp/status"): READERS,
    ("GET", "/api/v1/mcp/audit"): OPERATORS,
    ("GET", "/api/v1/mcp/pins"): READERS,
    ("POST", "/api/v1/mcp/pins/approve"): OPERATORS,
    ("POST", "/mcp/local/handshake"): ANYBODY,  # It proves what it needs itself, or is refused there.
    **{
        ("*", path + end): scopes
        for path, scopes in (
            ("/mcp", CLIENTS),
            ("/mcp/local", NODES),
            ("/mcp/s/{name}", CLIENTS),
            ("/mcp/v/{name}", CLIENTS),
        )
        for end in ("", "/")
    },
}
NO_TOKEN: Final = "no token"
EXPIRED: Final = "expired"
METHODS: Final = ("GET", "HEAD", "POST", "DELETE")


def routes_of(app: web.Application) -> set[tuple[str, str]]:
    found = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource is not None}
    return {(method, path) for method, path in found if method != "HEAD"}


def requests_of(method: str, path: str) -> Iterator[tuple[str, str]]:
    """The requests that reach a route."""
    for known, value in (("{name}", "notes"), ("{peer_name}", "none"), ("{path}", "mcp"), ("{version}", "latest")):
        path = path.replace(known, value)
    for one in METHODS if method == "*" else ("GET", "HEAD") if method == "GET" else (method,):
        yield one, path


def is_beyond_scope(answer: aiohttp.ClientResponse) -> bool:
    """Whether it is the token that is refused, and not what was sent with it."""
    return answer.status == 403 and "insufficient_scope" in answer.headers.get("WWW-Authenticate", "")


def in_era(era: str, method: str) -> dict[str, Any]:
    """Headers and body of a request in this era."""
    headers, message = stateless("tools/list", {}) if era == "modern" else ({"Mcp-Session-Id": "none"}, {})
    body = {"json": message} if method == "POST" else {}
    return {"headers": {"Accept": BOTH, **headers}, **body}


@asynccontextmanager
async def running(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[web.Application, str]]:
    """A node in this process: its application and its address."""
    apps: list[web.Application] = []
    ready, make = asyncio.Event(), wiring.runner_of

    def noted(app: web.Application, **more: Any) -> web.AppRunner:
        apps.append(app)
        app.on_startup.append(started)
        return make(app, **more)

    async def started(_app: web.Application) -> None:
        ready.set()

    monkeypatch.setattr(wiring, "runner_of", noted)
    tokens = {scope.value: entry(scope.value, scope.value) for scope in Scope}
    tokens[EXPIRED] = entry(EXPIRED, *(scope.value for scope in Scope), expires="2020-01-01T00:00:00Z")
    port = free_port()
    settings = load_settings(
        {
            "port": str(port),
            "node_name": "node",
            "state_dir": str(folder / "state"),
            "discovery": "off",
            "tokens_file": str(write_tokens(folder / "tokens.json", tokens)),
        },
        {"HOME": str(folder)},
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(run_node(settings), name="node")
        await ready.wait()
        try:
            yield apps[0], f"http://127.0.0.1:{port}"
        finally:
            signal.raise_signal(signal.SIGTERM)
    limit_dials(None, ())


def _without_delay(make: type[FailureBrake], _delay_s: float) -> FailureBrake:
    return make(0.0)


async def test_every_route_opens_to_its_scopes_in_both_eras_and_every_route_has_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.rest.security.FailureBrake", partial(_without_delay, FailureBrake))
    wrong, cells = [], 0
    async with running(tmp_path, monkeypatch) as (app, base), aiohttp.ClientSession() as session:
        assert routes_of(app) == set(MATRIX)
        for (route_method, route_path), scopes in MATRIX.items():
            for method, path in requests_of(route_method, route_path):
                for holder in (*(scope.value for scope in Scope), NO_TOKEN, EXPIRED):
                    for era in ERAS:
                        cells += 1
                        request = in_era(era, method)
                        if holder != NO_TOKEN:
                            request["headers"]["Authorization"] = f"Bearer {token_of(holder)}"
                        async with session.request(method, base + path, **request) as answer:
                            is_refused = answer.status == 401 or is_beyond_scope(answer)
                            refused = answer.status if is_refused else None
                        expected = None if holder in scopes or scopes is ANYBODY else 403
                        if scopes is not ANYBODY and holder in (NO_TOKEN, EXPIRED):
                            expected = 401
                        if refused != expected:
                            wrong.append((method, path, holder, era, answer.status))
    assert wrong == []
    assert cells > 500
