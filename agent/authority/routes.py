"""PURE: which scopes a route wants, by method and path.

Asked by `agent.rest.security` before any route is reached. The one rule: a route that is not named here is an
operator's: reading wants `read`, everything else `admin`.
"""

from typing import Final

from agent.authority.grant import Scope
from agent.model import HANDSHAKE_PATH, PEER_PATH

METRICS_PATH: Final = "/metrics"
# Who did what is for operators: a token that reads the mesh does not read what others do with it.
AUDIT_PATH: Final = "/api/v1/mcp/audit"
_MCP_PATH: Final = "/mcp"
# They show what every client does, so they are an operator's although they only read.
_OPERATORS_OWN: Final = frozenset({AUDIT_PATH, "/api/v1/mcp/logs", "/api/v1/mcp/debug"})
# The page's login: what the token opens is judged at each request that the page makes.
_LOGIN_PATHS: Final = frozenset({"/ui/login", "/ui/logout"})
_READING: Final = frozenset({"GET", "HEAD"})

_CLIENTS: Final = frozenset({Scope.MCP})
_NODES: Final = frozenset({Scope.PEER})
# Another mesh's node with a client's token proves its key before it uses either endpoint.
_ANY: Final = frozenset(Scope)
_EITHER: Final = _CLIENTS | _NODES
_READERS: Final = frozenset({Scope.READ, Scope.ADMIN})
_WRITERS: Final = frozenset({Scope.ADMIN})
_SCRAPERS: Final = frozenset({Scope.METRICS, Scope.READ, Scope.ADMIN})


def wanted_scopes(method: str, raw_path: str) -> frozenset[Scope]:
    """Any of these is enough for a request with this method and undecoded path."""
    if raw_path == HANDSHAKE_PATH:
        return _EITHER
    if raw_path == PEER_PATH or raw_path.startswith(f"{PEER_PATH}/"):
        return _NODES
    if raw_path == _MCP_PATH or raw_path.startswith(f"{_MCP_PATH}/"):
        return _CLIENTS
    if raw_path in _LOGIN_PATHS:
        return _ANY
    if method not in _READING or raw_path in _OPERATORS_OWN:
        return _WRITERS
    return _SCRAPERS if raw_path == METRICS_PATH else _READERS
