"""Which era the other side speaks: what we send, how each answer is judged, what every later request carries. PURE.

Called by both clients while they open, and by the modern ones for every request. Follows the reference client's policy:
only a usable `server/discover` result makes a server modern, every refusal leads to the `initialize` handshake, and
only a server that names nothing but versions unknown to us is refused. The one rule: an outage is no answer about the
era; clients never bring one here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from agent import __version__
from agent.client.capabilities import with_client_tasks
from agent.client.server_info import ServerInfo, mesh_entry
from agent.errors import ProtocolBroken, RpcError
from agent.lossless_json.exact import as_text
from agent.mcp_headers import encode_header_value
from agent.mcp_terms import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    HANDSHAKE_PROTOCOL_VERSIONS,
    LATEST_HANDSHAKE_VERSION,
    LATEST_MODERN_VERSION,
    LOG_LEVEL_META_KEY,
    MODERN_PROTOCOL_VERSIONS,
    NAME_BEARING_METHODS,
    PROTOCOL_VERSION_META_KEY,
    SERVER_INFO_META_KEY,
)
from agent.model import Era, Json
from agent.routing.once import once
from agent.rpc_codes import UNSUPPORTED_PROTOCOL_VERSION
from agent.tasks.ids import TASK_METHODS

DISCOVER: Final = "server/discover"
INITIALIZE: Final = "initialize"
INITIALIZED: Final = "notifications/initialized"
PING: Final = "ping"
FIRST_VERSION: Final = LATEST_MODERN_VERSION

# The parameter that `Mcp-Name` repeats; for tasks as their extension has it, not the SDK.
_NAME_KEYS: Final = {**NAME_BEARING_METHODS, **dict.fromkeys(TASK_METHODS, "taskId")}

# Most calls are of a few tools; a name has 4,096 characters at most.
_NAMES_REMEMBERED_MAX: Final = 256

# What marks a request as modern. A legacy session refuses requests that carry it (dual-era servers check).
_ENVELOPE_KEYS: Final = frozenset(
    {PROTOCOL_VERSION_META_KEY, CLIENT_INFO_META_KEY, CLIENT_CAPABILITIES_META_KEY, LOG_LEVEL_META_KEY}
)


@dataclass(frozen=True, slots=True)
class ProbeAgain:
    """Send `server/discover` once more, at a version that the server named."""

    version: str


@dataclass(frozen=True, slots=True)
class Handshake:
    """Open a legacy session with `initialize`. `unanswered`: there was no answer in time, so nothing is known yet."""

    reason: str
    unanswered: bool = False


def client_info(client_name: str) -> Json:
    """Our `clientInfo`."""
    return {"name": client_name, "version": __version__}


def initialize_params(client_name: str, features: Json, version: str = LATEST_HANDSHAKE_VERSION) -> Json:
    """The handshake's params, with the client features (`agent.client.capabilities`) that the session shall have."""
    return {
        "protocolVersion": version,
        "capabilities": with_client_tasks(features) if version == LATEST_HANDSHAKE_VERSION else features,
        "clientInfo": client_info(client_name),
    }


def judge_discovery(result: Json, version: str) -> ServerInfo | Handshake:
    """What a result of `server/discover` asked at `version` means."""
    supported = result.get("supportedVersions")
    if not isinstance(supported, list) or version not in supported:
        return Handshake("its server/discover names no modern version")
    meta = result.get("_meta")
    info = meta.get(SERVER_INFO_META_KEY) if isinstance(meta, dict) else None
    return _server_info(Era.MODERN, version, result, info)


def judge_refusal(error: RpcError, *, probed_again: bool) -> ProbeAgain | Handshake:
    """What an error to `server/discover` means. Raises `ProtocolBroken` when no version is shared."""
    if error.code == UNSUPPORTED_PROTOCOL_VERSION:
        supported = named_versions(error)
        mutual = [version for version in MODERN_PROTOCOL_VERSIONS if version in supported]
        if mutual and not probed_again:
            return ProbeAgain(mutual[-1])
        if supported and not any(version in HANDSHAKE_PROTOCOL_VERSIONS for version in supported):
            raise ProtocolBroken(f"no protocol version in common: it offers {', '.join(supported)[:200]}")
    return Handshake(f"it answered server/discover with error {error.code}")


def modern_version_named(error: RpcError) -> str | None:
    """The version to probe again with after `initialize` was refused by a server that turned out to be modern."""
    if error.code != UNSUPPORTED_PROTOCOL_VERSION:
        return None
    supported = named_versions(error)
    return next((version for version in reversed(MODERN_PROTOCOL_VERSIONS) if version in supported), None)


def handshake_version_named(error: RpcError) -> str | None:
    """The version to initialize with once more after the latest one was refused, if the error names another.

    Any code will do: the specification's own example (MCP 2025-11-25, lifecycle) is -32602, SDKs say others.
    """
    supported = named_versions(error)
    return next(
        (
            version
            for version in reversed(HANDSHAKE_PROTOCOL_VERSIONS)
            if version in supported and version != LATEST_HANDSHAKE_VERSION
        ),
        None,
    )


def named_versions(error: RpcError) -> tuple[str, ...]:
    """The versions that an unsupported-version error says the server supports."""
    supported = error.data.get("supported") if isinstance(error.data, dict) else None
    return tuple(v for v in supported if isinstance(v, str)) if isinstance(supported, list) else ()


def refuses_initialize(error: RpcError) -> str:
    """What a server did that answered `initialize` with an error, after its name; its own text is for operators."""
    return f"refuses initialize with error {error.code}"


def judge_initialize(result: Json) -> ServerInfo:
    """What an `initialize` result says. Raises `ProtocolBroken` for a version that we cannot speak."""
    version = result.get("protocolVersion")
    if version not in HANDSHAKE_PROTOCOL_VERSIONS:
        raise ProtocolBroken(f"initialize was answered with protocol version {str(version)[:40]!r}, unknown to us")
    return _server_info(Era.LEGACY, version, result, None)


def forced_in_vain(where: str, protocol: str, reason: str) -> ProtocolBroken:
    """The failure of a server that does not speak the one version that its entry allows (`mesh.protocol`)."""
    return ProtocolBroken(f"no MCP {protocol} at {where}: {reason}; mesh.protocol allows nothing else, leave it out")


def without_envelope(params: Json | None) -> Json | None:
    """`params` as a legacy server may see them: without a modern caller's per-request envelope."""
    meta = params.get("_meta") if params is not None else None
    if params is None or not isinstance(meta, dict) or _ENVELOPE_KEYS.isdisjoint(meta):
        return params
    kept = {key: value for key, value in meta.items() if key not in _ENVELOPE_KEYS}
    return {**params, "_meta": kept} if kept else {key: value for key, value in params.items() if key != "_meta"}


class ModernStamp:
    """What every modern request carries. A caller's own `_meta` wins, except for the version, which is the link's."""

    __slots__ = ("_meta", "version")

    def __init__(self, version: str, client_name: str) -> None:
        """All clients of a node have the same one: see `stamp_of`."""
        self.version = version
        self._meta: Json = {CLIENT_INFO_META_KEY: client_info(client_name), CLIENT_CAPABILITIES_META_KEY: {}}

    def params(self, params: Json | None) -> Json:
        """A copy of `params` with the envelope in `_meta`."""
        given = params.get("_meta") if params is not None else None
        meta: Json = {**self._meta, **given} if isinstance(given, dict) else dict(self._meta)
        meta[PROTOCOL_VERSION_META_KEY] = self.version
        return {**params, "_meta": meta} if params is not None else {"_meta": meta}

    def headers(self, method: str, params: Json) -> Mapping[str, str]:
        """The routing headers, which servers check against the body."""
        name_key = _NAME_KEYS.get(method)
        name = None if name_key is None else params.get(name_key)
        return _routing_headers(self.version, method, name if isinstance(name, str) else None)


@lru_cache(maxsize=len(MODERN_PROTOCOL_VERSIONS))
def stamp_of(version: str, client_name: str) -> ModernStamp:
    """One for all clients: it does not change, and is half a kilobyte of an idle link otherwise."""
    return ModernStamp(version, client_name)


class RoutingHeaders(dict[str, str]):
    """Those of one method and name: one object for all their requests, by which to find what was made of them."""

    __slots__ = ()
    __hash__ = object.__hash__  # type: ignore[assignment]  # that of a dict is None


@lru_cache(maxsize=_NAMES_REMEMBERED_MAX)
def _routing_headers(version: str, method: str, name: str | None) -> RoutingHeaders:
    headers = RoutingHeaders({"MCP-Protocol-Version": version, "Mcp-Method": encode_header_value(method)})
    if name is not None:
        headers["Mcp-Name"] = encode_header_value(name)
    return headers


def _server_info(era: Era, version: str, result: Json, server_info: Any) -> ServerInfo:
    capabilities, instructions = result.get("capabilities"), result.get("instructions")
    if not isinstance(server_info, dict):
        server_info = result.get("serverInfo")
    known: Json = capabilities if isinstance(capabilities, dict) else {}
    said: Json = server_info if isinstance(server_info, dict) else {}
    mesh = mesh_entry(era, known)
    if mesh is None:  # Servers of one kind say the same, and a node's word is its own.
        known, said = once(known), once(said)
    return ServerInfo(
        era=era,
        protocol_version=version,
        capabilities=known,
        server_info=said,
        instructions=as_text(instructions),
        mesh=mesh,
    )
