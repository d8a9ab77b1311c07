"""The envelope and the routing headers of a stateless request (MCP 2026-07-28), checked. PURE.

Called by `agent.server.validation` for each request. `tests/unit/server/test_inbound.py` holds the verdicts against
the SDK's, which stand behind an import of a second. The one rule: the first demand that is not met makes the error, in
this order: envelope, headers, version; a client that disagrees with itself learns that before anything else.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from agent.errors import MCPError
from agent.mcp_headers import decode_header_value
from agent.mcp_terms import (
    CLIENT_CAPABILITIES_META_KEY,
    MODERN_PROTOCOL_VERSIONS,
    NAME_BEARING_METHODS,
    PROTOCOL_VERSION_META_KEY,
)
from agent.model import Json
from agent.rpc_codes import HEADER_MISMATCH, INVALID_PARAMS, UNSUPPORTED_PROTOCOL_VERSION

VERSION_HEADER: Final = "mcp-protocol-version"
_METHOD_HEADER: Final = "mcp-method"
_NAME_HEADER: Final = "mcp-name"
_ENCODED_START: Final = "=?"
_ROUTING_HEADERS: Final = frozenset({VERSION_HEADER, _METHOD_HEADER, _NAME_HEADER})
_REQUIRED_KEYS: Final = (PROTOCOL_VERSION_META_KEY, CLIENT_CAPABILITIES_META_KEY)
_REQUIRED_KEYS_SET: Final = frozenset(_REQUIRED_KEYS)


def repeated_header(headers: Iterable[tuple[str, str]]) -> str | None:
    """The routing header that is there more than once: readers of the first and of the last one would disagree."""
    seen: set[str] = set()
    for name, _ in headers:
        key = name.lower()
        if key in _ROUTING_HEADERS and key in seen:
            return key
        seen.add(key)
    return None


def unsupported_version(version: str) -> MCPError | None:
    """The error for a version that is not served."""
    if version in MODERN_PROTOCOL_VERSIONS:
        return None
    data = {"supported": list(MODERN_PROTOCOL_VERSIONS), "requested": version}
    return MCPError(code=UNSUPPORTED_PROTOCOL_VERSION, message="Unsupported protocol version", data=data)


def envelope_error(message: Json, headers: Mapping[str, str]) -> MCPError | None:
    """What is wrong with the envelope of a request, or with the headers that repeat it; by names in lower case."""
    params = message.get("params")
    meta = params.get("_meta") if isinstance(params, dict) else None
    if params is None or not isinstance(meta, dict):
        keys = " and ".join(map(repr, _REQUIRED_KEYS))
        return _invalid(f"params._meta must be an object carrying the required {keys} envelope keys")
    if not meta.keys() >= _REQUIRED_KEYS_SET:
        missing = [key for key in _REQUIRED_KEYS if key not in meta]
        return _invalid(f"params._meta is missing the required envelope key(s): {', '.join(missing)}")
    version, method = meta[PROTOCOL_VERSION_META_KEY], message["method"]
    if VERSION_HEADER not in headers or headers[VERSION_HEADER] != version:
        return _mismatch(f"{VERSION_HEADER} header does not match the request envelope's protocol version")
    if headers.get(_METHOD_HEADER) != method:
        return _mismatch(f"{_METHOD_HEADER} header does not match the request body's method")
    if (member := NAME_BEARING_METHODS.get(method)) is not None:
        name: Any = params.get(member)
        shown = headers.get(_NAME_HEADER)
        is_plain = shown is not None and not shown.startswith(_ENCODED_START)
        if name is not None and (shown if is_plain else decode_header_value(shown)) != name:
            return _mismatch(f"{_NAME_HEADER} header does not match the request body's {member!r} parameter")
    return None if version in MODERN_PROTOCOL_VERSIONS else unsupported_version(version)


def _invalid(text: str) -> MCPError:
    return MCPError(code=INVALID_PARAMS, message=text)


def _mismatch(text: str) -> MCPError:
    return MCPError(code=HEADER_MISMATCH, message=text)
