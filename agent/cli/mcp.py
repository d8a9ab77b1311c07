"""The command line's MCP: one request after the other to a node, by the blocking client; servers of before as nodes do.

Used by `agent.cli.tools` and `agent.cli.lists`. A node of today is asked without asyncio and aiohttp, whose imports
cost more than all the rest of a command. What talks is a coroutine either way: it never waits here, and does on the
client of nodes. The one rule: which era the other side speaks is asked first, by `server/discover`, before any call.
"""

import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from agent import __version__
from agent.cli.client import Node, exchange, refused, unreachable
from agent.cli.output import CliFailed, Exit
from agent.errors import FORBIDDEN, AuthRefused, CallFailed, DialRefused, LinkFailed, ProtocolBroken, RpcError
from agent.mcp_headers import encode_header_value
from agent.mcp_terms import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    LATEST_MODERN_VERSION,
    NAME_BEARING_METHODS,
    PROTOCOL_VERSION_META_KEY,
)

CONNECT_TIMEOUT_S: Final = 15.0
_DISCOVER: Final = "server/discover"
_CLIENT_NAME: Final = "mesh-agent"
_AUTH_STATUSES: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_NO_HEADERS: Final[Mapping[str, str]] = {}
Json: TypeAlias = dict[str, Any]
T = TypeVar("T")


class Talk(Protocol):
    """A server to ask."""

    async def request(
        self, method: str, params: Json, timeout_s: float, headers: Mapping[str, str] = _NO_HEADERS
    ) -> Json:
        """The result, with Python's numbers. Raises `RpcError`, `CliFailed`."""
        ...


Conversation: TypeAlias = Callable[[Talk], Coroutine[Any, Any, T]]


def talk_with(node: Node, talk: Conversation[T], *, connect_timeout_s: float = CONNECT_TIMEOUT_S) -> T:
    """Have `talk` ask the node. Raises `CliFailed`."""
    client = _BlockingClient(node, connect_timeout_s)
    try:
        return _at_once(talk(client)) if client.is_understood() else _over_client(node, talk, connect_timeout_s)
    except RpcError as exc:
        exit_code, error = (Exit.AUTH, "forbidden") if exc.code == FORBIDDEN else (Exit.TOOL, "")
        message = exc.message or "the node answered with an error that has no message"
        raise CliFailed(exit_code, message, error=error) from exc


def timed_out(method: str) -> CliFailed:
    """Make the failure of a request whose time is over."""
    return CliFailed(Exit.TOOL, f"Request {method!r} timed out", error="timed_out")


def _at_once(talking: Coroutine[Any, Any, T]) -> T:
    """The value of a coroutine that never waits."""
    try:
        talking.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    raise AssertionError("it waits")


class _BlockingClient:
    """Requests of 2026-07-28, each over a connection of its own, which closes where the caller stops waiting."""

    def __init__(self, node: Node, connect_timeout_s: float) -> None:
        self._node, self._connect_timeout_s = node, connect_timeout_s
        self._ids = 0

    def is_understood(self) -> bool:
        """Whether the other side speaks as nodes of today do. Raises `CliFailed`."""
        try:
            result = self._asked(_DISCOVER, {}, self._connect_timeout_s / 2, _NO_HEADERS)
        except (RpcError, TimeoutError):
            return False
        except CliFailed as exc:
            if exc.error != "not_mcp":
                raise
            return False
        supported = result.get("supportedVersions")
        return isinstance(supported, list) and LATEST_MODERN_VERSION in supported

    async def request(
        self, method: str, params: Json, timeout_s: float, headers: Mapping[str, str] = _NO_HEADERS
    ) -> Json:
        """As `Talk.request`."""
        try:
            return self._asked(method, params, timeout_s, headers)
        except TimeoutError as exc:
            raise timed_out(method) from exc

    def _asked(self, method: str, params: Json, timeout_s: float, headers: Mapping[str, str]) -> Json:
        self._ids += 1
        meta = {
            PROTOCOL_VERSION_META_KEY: LATEST_MODERN_VERSION,
            CLIENT_INFO_META_KEY: {"name": _CLIENT_NAME, "version": __version__},
            CLIENT_CAPABILITIES_META_KEY: {},
        }
        message = {"jsonrpc": "2.0", "id": self._ids, "method": method, "params": {**params, "_meta": meta}}
        sent = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": LATEST_MODERN_VERSION,
            "Mcp-Method": method,
            **headers,
        }
        if isinstance(name := params.get(NAME_BEARING_METHODS.get(method, "")), str):
            sent["Mcp-Name"] = encode_header_value(name)
        body = json.dumps(message).encode()
        status, raw, kind, _ = exchange(self._node, ("POST", "/mcp", body), sent, timeout_s=timeout_s)
        return _result(self._node, status, _answer(raw, kind, self._ids), method)


def _answer(raw: bytes, kind: str, request_id: int) -> Json | None:
    """The answer to a request, in a body of JSON or a stream of events; None where there is none."""
    texts = [raw] if kind != "text/event-stream" else _events(raw)
    for text in texts:
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            continue
        # An error may come without an ID, where the request could not be read.
        if isinstance(message, dict) and "method" not in message and message.get("id") in (request_id, None):
            return message
    return None


def _events(raw: bytes) -> list[bytes]:
    """What the events of a stream carry (WHATWG HTML, server-sent events)."""
    events, lines = [], list[bytes]()
    for line in [*raw.splitlines(), b""]:
        if line.startswith(b"data:"):
            lines.append(line[len(b"data:") :].removeprefix(b" "))
        elif not line and lines:
            events.append(b"\n".join(lines))
            lines = []
    return events


def _result(node: Node, status: int, answer: Json | None, method: str) -> Json:
    """Raises `RpcError`, `CliFailed`."""
    error = None if answer is None else answer.get("error")
    if status in _AUTH_STATUSES:
        raise refused(node, status, _refusal(error))
    if isinstance(error, dict):
        code = error.get("code")
        raise RpcError(code if isinstance(code, int) else 0, str(error.get("message") or ""), error.get("data"))
    result = None if answer is None else answer.get("result")
    if status != HTTPStatus.OK:
        failure = unreachable(node, f"it answered HTTP {status}")
        raise CliFailed(failure.code, str(failure), error="not_mcp") if method == _DISCOVER else failure
    if not isinstance(result, dict):
        raise CliFailed(
            Exit.UNREACHABLE, f"{node.url}/mcp gave an answer that is not MCP; check the URL", error="not_mcp"
        )
    return result


def _refusal(error: Any) -> str:
    """What a node that refuses a token says of it, where that is more than that it does."""
    data = error.get("data") if isinstance(error, dict) else None
    is_scope = isinstance(data, dict) and data.get("code") == "insufficient_scope"
    return str(error.get("message")) if is_scope else ""


def _over_client(node: Node, talk: Conversation[T], connect_timeout_s: float) -> T:
    """By the client that nodes use, for servers of before. Raises `CliFailed`, `RpcError`."""
    import asyncio  # noqa: PLC0415 - see the module

    return asyncio.run(_talked(node, talk, connect_timeout_s))


async def _talked(node: Node, talk: Callable[[Talk], Awaitable[T]], connect_timeout_s: float) -> T:
    from agent.client.connect import open_client  # noqa: PLC0415 - see the module
    from agent.model import HttpTarget, TlsFiles  # noqa: PLC0415 - see the module

    target = HttpTarget(f"{node.url}/mcp", token=node.token, tls=node.tls or TlsFiles())
    try:
        # Half of the time for a node that never answers `server/discover`, as some gateways do not.
        async with open_client(
            target,
            connect_timeout_s=connect_timeout_s / 2,
            start_timeout_s=connect_timeout_s,
            client_name=_CLIENT_NAME,
        ) as client:
            return await talk(_NodesClient(client))
    except AuthRefused as exc:
        raise refused(node, exc.status) from exc
    except (ProtocolBroken, DialRefused) as exc:
        raise CliFailed(Exit.UNREACHABLE, f"{exc}; check the URL", error="not_mcp") from exc
    except (LinkFailed, CallFailed) as exc:
        told, named = str(exc), f"{target.url} "
        raise unreachable(node, f"it {told.removeprefix(named)}" if told.startswith(named) else told) from exc


class _NodesClient:
    """A server of before. `client`: an `agent.client.protocol.McpClient`, whose module is imported late."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def request(
        self, method: str, params: Json, timeout_s: float, headers: Mapping[str, str] = _NO_HEADERS
    ) -> Json:
        """As `Talk.request`."""
        from agent.client.protocol import Request  # noqa: PLC0415 - see the module
        from agent.errors import CallNotSent, CallTimedOut  # noqa: PLC0415 - see the module
        from agent.lossless_json.exact import with_own_numbers  # noqa: PLC0415 - see the module

        request = Request.within(method, params, timeout_s=timeout_s, headers=headers or None)
        try:
            result = await self._client.request(request)
        except (CallNotSent, CallTimedOut) as exc:
            if request.left_s() > 0:
                raise
            raise timed_out(method) from exc
        try:
            own: Json = with_own_numbers(result)
        except (TypeError, ValueError) as exc:
            raise CliFailed(Exit.TOOL, f"the answer to {method!r} cannot be shown: {exc}") from exc
        return own
