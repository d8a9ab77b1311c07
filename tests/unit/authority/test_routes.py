"""Which scopes a route wants: the table, and that nothing outside it is open to clients."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.authority.grant import Scope
from agent.authority.routes import wanted_scopes

M, R, A, X, P = Scope.MCP, Scope.READ, Scope.ADMIN, Scope.METRICS, Scope.PEER


@pytest.mark.parametrize(
    ("method", "path", "scopes"),
    [
        ("POST", "/mcp", {M}),
        ("GET", "/mcp/", {M}),
        ("DELETE", "/mcp/v/team", {M}),
        ("POST", "/mcp/s/github/", {M}),
        ("POST", "/mcp/local", {P}),
        ("POST", "/mcp/local/", {P}),
        ("POST", "/mcp/local/handshake", {M, P}),
        ("GET", "/mcp/local/x", {P}),
        ("POST", "/mcp/localx", {M}),
        ("GET", "/metrics", {X, R, A}),
        ("HEAD", "/metrics", {X, R, A}),
        ("POST", "/metrics", {A}),
        ("GET", "/metrics/", {R, A}),
        ("GET", "/api/v1/mcp/peers", {R, A}),
        ("POST", "/api/v1/mcp/peers", {A}),
        ("DELETE", "/api/v1/mcp/peers/x", {A}),
        ("OPTIONS", "/api/v1/mcp/peers", {A}),
        ("GET", "/", {R, A}),
        ("GET", "/mcpx", {R, A}),
        ("BREW", "/api", {A}),
    ],
)
def test_a_route_wants_any_of_these_scopes(method: str, path: str, scopes: set[Scope]) -> None:
    assert wanted_scopes(method, path) == scopes


@given(st.text(min_size=1, max_size=8), st.text(max_size=30))
def test_no_path_but_those_of_mcp_opens_to_clients_or_nodes(method: str, path: str) -> None:
    wanted = wanted_scopes(method, f"/{path}")
    assert wanted
    if not f"/{path}".startswith("/mcp"):
        assert not wanted & {M, P}
