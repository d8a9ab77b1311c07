"""The only user of python-consul2: our own transport under its API, and its errors turned into ours.

Opened by `discovery.consul.session`; used by the watch and by the registration. One pooled aiohttp session serves every
call; the library's own asyncio client opens a session per call and knows neither TLS files nor time-outs. The one rule:
every failure of Consul or of the network leaves here as a `discovery.model` exception, never as a vendor's.

Long because every call that we make is here.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import orjson
from consul.base import (
    CB,
    ACLDisabled,
    ACLPermissionDenied,
    ClientError,
    Consul,
    ConsulException,
    HTTPClient,
    NotFound,
    Response,
)

from discovery import clock
from discovery.consul.blocking_query import request_timeout_s, waited_s
from discovery.consul.environment import ConsulSettings, TokenSource
from discovery.consul.patience import Patience, kind_of
from discovery.consul.rows import split_rows
from discovery.consul.tls_files import TlsSource
from discovery.model import (
    EMBEDDED_REFUSES,
    AccessRefused,
    AgentSlow,
    AgentUnreachable,
    CatalogUnavailable,
    RegistrationLost,
)

CONNECT_TIMEOUT_S = 3.0
BEAT_TIMEOUT_S = 60.0  # Others go on beside it; one that is given up sooner may be lost with an agent that is slow.
BODY_BYTES_MAX = 32 * 1024 * 1024  # 1,000 instances take under 2 MiB; anything near this is no catalog of ours.
_READ_BYTES = 256 * 1024
_ERROR_CHARS_MAX = 200
_WORD_CHARS_MAX = 32
# An agent closes further connections of one address at once (1.8), or answers 429 to them (later).
_LIMIT_HINT = "; Consul's limit of connections for each address is limits.http_max_conns_per_client, 200 by default"
_LOST_HINT = (
    "; of 1.21 also an agent that has lost its data_dir, and so its node ID, hangs up on what the catalog still has"
    " under its name: take its Consul node out by /v1/catalog/deregister"
)
_LIMIT_ENDS_S = 1.0  # At once; a wait that lasted longer was ended by something else.
_BROKEN_HINT = "; did the agent end, or does a proxy before it cut off waits (MESH_CONSUL_WAIT_S)?"
_UNKNOWN = "ACL not found"  # Consul's own words of a token, all versions.
# A gateway's time-out; Consul's own failures are 500 and 503.
_CUT_HINT = "; a proxy before Consul cuts off waits: set MESH_CONSUL_WAIT_S to less than its time-out"
_SERF_ALIVE, _SERF_GOING = 1, (2, 3)  # Leaving, left; 4 is failed (Serf, MemberStatus).

T = TypeVar("T")
_Callback = Callable[[Response], T]
_Params = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a health query: Consul's index, and the rows unchanged, each a JSON text.

    `filtered`: Consul left rows out that our ACL token may not see (said by 1.11 and later, without an index only).
    `backend`: what answered, `streaming` or `blocking-query`; empty where Consul does not say (before 1.10).
    """

    index: int
    rows: Sequence[bytes]
    filtered: bool = False
    backend: str = ""


class ConsulClient:
    """The calls that we make. Each may raise `CatalogUnavailable`, `AgentUnreachable` or `AccessRefused`."""

    def __init__(self, settings: ConsulSettings, session: aiohttp.ClientSession, tls: TlsSource | None = None) -> None:
        self._token = TokenSource(settings)
        self.is_embedded = settings.is_embedded
        self._transport = _Transport(settings, session, tls or TlsSource(settings))
        self._consul = _Library(self._transport)

    async def health(
        self, service_name: str, *, index: int = 0, wait_s: float = 0.0, consistent: bool = False, dc: str = ""
    ) -> Answer:
        """Read all instances of a service; with an index, wait up to `wait_s` for something newer.

        `dc`: another datacentre, which the agent asks through its servers.
        """
        params = _waiting(index, wait_s)
        if consistent:
            params.append(("consistent", ""))
        if dc:
            params.append(("dc", dc))
        # The library's health.service() has no consistency modes, so its transport is used with a callback of ours.
        return await self._call(
            lambda token: self._transport.get(
                _answer,
                f"/v1/health/service/{service_name}",
                params=params,
                headers=_headers(token),
                timeout_s=request_timeout_s(wait_s if index else 0.0),
            ),
            right=f'service_prefix "{service_name}" {{ policy = "read" }}',
        )

    async def holders(self, service_name: str, service_id: str) -> tuple[str, ...]:
        """The names of the Consul nodes under which the catalog lists the instance; read at its leader."""
        answer = await self._call(
            lambda token: self._transport.get(
                _answer,
                f"/v1/health/service/{service_name}",
                # The embedded catalog knows no filter, so the rows are looked through all the same.
                params=[("consistent", ""), ("filter", f"Service.ID == {orjson.dumps(service_id).decode()}")],
                headers=_headers(token),
            ),
            right=f'service_prefix "{service_name}" {{ policy = "read" }}',
        )
        return tuple(
            str(node)
            for row in map(orjson.loads, answer.rows)
            if isinstance(row, dict)
            for node, service in [((row.get("Node") or {}).get("Node"), row.get("Service") or {})]
            if service.get("ID") == service_id
        )

    async def leaf(self, service_name: str, *, index: int = 0, wait_s: float = 0.0) -> tuple[int, dict[str, Any]]:
        """The certificate of Consul's own CA for a service; with an index, wait up to `wait_s` for another one."""
        params = _waiting(index, wait_s)
        return await self._call(
            lambda token: self._transport.get(
                _document,
                f"/v1/agent/connect/ca/leaf/{service_name}",
                params=params,
                headers=_headers(token),
                timeout_s=request_timeout_s(wait_s if index else 0.0),
            ),
            right=f'service "{service_name}" {{ policy = "write" }}',
        )

    async def roots(self) -> dict[str, Any]:
        """The root certificates of Consul's own CA, those that were replaced among them as long as they count."""
        _, found = await self._call(
            lambda token: self._transport.get(_document, "/v1/agent/connect/ca/roots", headers=_headers(token)),
            right="none is needed",
        )
        return found

    async def register(self, payload: Mapping[str, Any]) -> None:
        """PUT one service definition with its check. `payload` is Consul's own JSON shape."""
        accepted = await self._call(
            lambda token: self._transport.put(
                CB.bool(),
                "/v1/agent/service/register",
                # No replace-existing-checks: it deletes the operator's maintenance and checks. Ours goes by its ID.
                headers=_headers(token),
                data=orjson.dumps(payload),
            ),
            right=f'service "{payload["Name"]}" {{ policy = "write" }}',
        )
        if not accepted:
            raise CatalogUnavailable("registering was answered by something that is no Consul agent")

    async def deregister(self, service_id: str) -> None:
        """Remove a registration; one that is already gone is no error."""
        try:
            call = self._consul.agent.service.deregister
            await self._call(lambda token: call(service_id, token=token), right=f'"write" on {service_id}')
        except RegistrationLost:
            return

    async def pass_check(self, check_id: str) -> None:
        """Send one heartbeat.

        Raises:
            RegistrationLost: the agent does not know the check.
        """
        known = await self._call(
            lambda token: self._transport.put(
                CB.bool(),
                f"/v1/agent/check/pass/{check_id}",
                headers=_headers(token),
                timeout_s=BEAT_TIMEOUT_S,
            ),
            right=f'"write" on {check_id}',
        )
        if not known:  # Newer versions answer 404, which the library's callback turns into False.
            raise RegistrationLost(f"unknown check {check_id}")

    async def agent_services(self) -> Mapping[str, Any]:
        """All services that the agent itself holds and that we may read, by ID."""
        services = await self._call(lambda token: self._consul.agent.services(token=token), right='service "read"')
        if not isinstance(services, dict):
            raise CatalogUnavailable("the agent's list of services is not an object")
        return services

    async def held_check(self, check_id: str) -> Mapping[str, Any] | None:
        """A check as the agent holds it, empty where it holds none; None where no checks are shown (embedded)."""
        checks = await self.held_checks()
        return None if checks is None else dict(checks.get(check_id) or {})

    async def held_checks(self) -> Mapping[str, Any] | None:
        """All checks that the agent holds and that we may read, by ID; None where no checks are shown (embedded)."""
        try:
            # The library's own call takes a 404 for an answer.
            checks = await self._call(
                lambda token: self._transport.get(
                    CB.json(allow_404=False), "/v1/agent/checks", headers=_headers(token)
                ),
                right='service "read"',
            )
        except RegistrationLost:
            return None  # 404.
        if not isinstance(checks, dict):
            raise CatalogUnavailable("the agent's list of checks is not an object")
        return checks

    async def is_member(self, check_id: str) -> bool:
        """Whether the agent that holds the check is a living member of its cluster, as itself and our token say."""
        node = (await self.held_check(check_id) or {}).get("Node")
        return bool(node) and await self._member_status(str(node)) == _SERF_ALIVE

    async def is_leaving(self, node: str) -> bool:
        """Whether the agent, a Consul node of that name, is leaving its cluster, as far as our token may see."""
        return await self._member_status(node) in _SERF_GOING

    async def _member_status(self, node: str) -> int | None:
        members = await self._call(
            lambda token: self._transport.get(CB.json(), "/v1/agent/members", headers=_headers(token)),
            right='node_prefix "" { policy = "read" }',
        )
        ours = [one.get("Status") for one in members or () if isinstance(one, dict) and one.get("Name") == node]
        return max(ours, key=lambda status: status == _SERF_ALIVE, default=None)

    async def leader(self, timeout_s: float) -> str:
        """The address of the cluster's leader; empty when there is none."""
        leader = await self._call(  # Needs no token.
            lambda token: self._transport.get(
                CB.json(), "/v1/status/leader", headers=_headers(token), timeout_s=timeout_s
            ),
            right="status",
            awaits_token=False,
        )
        return leader if isinstance(leader, str) else ""

    @property
    def token_rotates(self) -> bool:
        """Whether the token comes from a file."""
        return self._token.rotates

    @property
    def token(self) -> str | None:
        """The token that the next request will carry."""
        return self._token.current()

    async def _call(self, request: Callable[[str | None], Awaitable[T]], *, right: str, awaits_token: bool = True) -> T:
        """Make one request with the present token; translate every failure."""
        if refusal := await self._token.refusal(awaits_file=awaits_token):
            raise AccessRefused(refusal)
        token = self._token.current()
        try:
            return await request(token)
        except (ACLPermissionDenied, ACLDisabled) as exc:
            if self._token.current() != token:  # Rotated while we waited: try the new token.
                why = "the embedded catalog has started anew" if self.is_embedded else "the ACL token was replaced"
                raise CatalogUnavailable(why) from exc
            raise AccessRefused(_refusal(_text(exc), right)) from exc
        except NotFound as exc:
            raise RegistrationLost(_text(exc)) from exc
        except (ClientError, ConsulException) as exc:
            raise _translated(exc) from exc
        except ValueError as exc:  # Not JSON: an HTML page of some proxy, or a cut body.
            raise CatalogUnavailable(f"the answer is not Consul's JSON: {_text(exc)}") from exc


@asynccontextmanager
async def open_client(settings: ConsulSettings) -> AsyncGenerator[ConsulClient, None]:
    """Open the connection pool for one Consul agent and close it at the end.

    Raises:
        SettingsRefused: a TLS file cannot be used.
    """
    tls = TlsSource(settings)
    async with open_pool(settings) as session:
        yield ConsulClient(settings, session, tls)


def open_pool(settings: ConsulSettings) -> aiohttp.ClientSession:
    """Make the session that all calls share; the caller enters and leaves it. Needs a running loop."""
    # limit=0: a waiting query holds its connection, and a heartbeat must never queue behind one.
    connector: aiohttp.BaseConnector
    if settings.socket_path:
        connector = aiohttp.UnixConnector(settings.socket_path, limit=0)
    else:
        connector = aiohttp.TCPConnector(limit=0)
    return aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), middlewares=(no_silent_repeat,)
    )


async def no_silent_repeat(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Let a broken waiting query fail instead of being repeated.

    aiohttp quietly sends a GET again when a pooled connection breaks. A waiting query would then carry its old index to
    a restarted agent, whose lower index hides every change for the whole wait; the watch has to know.
    """
    began_s = clock.now_s()
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as exc:
        if "index" not in request.url.query:
            raise
        if isinstance(exc, aiohttp.ClientConnectorError):  # There was none: no limit ends what was not made.
            raise AgentUnreachable(_text(exc)) from exc
        waited = clock.now_s() - began_s
        hint = _LIMIT_HINT if waited < _LIMIT_ENDS_S else _BROKEN_HINT
        raise AgentUnreachable(f"the wait broke off after {waited:.1f} s ({type(exc).__name__}{hint})") from exc


def _writer(method: str) -> Callable[..., Awaitable[Any]]:
    """Build one of the library's three writing methods; they differ in the verb alone."""

    async def write(  # noqa: PLR0917 - the library's own order of parameters
        self: "_Transport",
        callback: _Callback[T],
        path: str,
        params: _Params | None = None,
        data: str | bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = request_timeout_s(0.0),
    ) -> T:
        return await self._request(
            method, callback, path, params or (), headers=headers, data=data, timeout_s=timeout_s
        )

    return write


class _Transport(HTTPClient):  # type: ignore[misc] # the library is untyped
    """The library's HTTP interface over our session. Every method returns a coroutine that ends in the callback."""

    put = _writer("PUT")
    post = _writer("POST")
    delete = _writer("DELETE")

    def __init__(self, settings: ConsulSettings, session: aiohttp.ClientSession, tls: TlsSource) -> None:
        super().__init__()
        self._tls = tls
        self.base_uri = "http://localhost" if settings.socket_path else settings.url
        self._session = session
        self._server_name = settings.tls_server_name
        self._patience = Patience()
        scope = (("ns", settings.namespace), ("partition", settings.partition))
        self._scope = tuple((name, value) for name, value in scope if value)

    async def get(
        self,
        callback: _Callback[T],
        path: str,
        params: _Params = (),
        headers: Mapping[str, str] | None = None,
        timeout_s: float = request_timeout_s(0.0),
    ) -> T:
        return await self._request("GET", callback, path, params, headers=headers, timeout_s=timeout_s)

    async def _request(
        self,
        method: str,
        callback: _Callback[T],
        path: str,
        params: _Params,
        *,
        headers: Mapping[str, str] | None,
        data: str | bytes = b"",
        timeout_s: float = request_timeout_s(0.0),
    ) -> T:
        kind = kind_of(method, path, waits=any(name == "index" for name, _ in params))
        usual_s, began_s = timeout_s, clock.now_s()
        if usual_s >= request_timeout_s(0.0):  # A shorter one is its caller's own limit.
            timeout_s += self._patience.more_s(kind)
        try:
            async with self._session.request(
                method,
                self.uri(path, [*params, *self._scope]),
                data=data or None,
                headers=headers,
                allow_redirects=False,  # A redirect would carry the token to another host.
                timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(timeout_s, CONNECT_TIMEOUT_S)),
                server_hostname=self._server_name,
                ssl=self._tls.current(),
            ) as answer:
                content = await _bounded_body(answer)
                # A catalog is read from its bytes alone, which may be megabytes.
                is_catalog = callback is _answer and answer.status == 200  # noqa: PLR2004 - as below
                text = "" if is_catalog else content.decode("utf-8", "replace")
                response = Response(answer.status, answer.headers, text, content)
        except TimeoutError as exc:
            self._patience.note_late(kind)
            raise AgentSlow(f"no answer within {timeout_s:.1f} s") from exc
        except (aiohttp.ClientSSLError, aiohttp.ClientPayloadError, aiohttp.InvalidURL) as exc:
            raise CatalogUnavailable(_text(exc)) from exc
        except (aiohttp.ClientConnectionError, OSError) as exc:
            broken = not isinstance(exc, aiohttp.ClientConnectorError)  # It had been made, whatever ended it.
            hint = _LIMIT_HINT + _LOST_HINT * path.endswith("/service/register")
            raise AgentUnreachable(_text(exc) + hint * broken) from exc
        except aiohttp.ClientError as exc:
            raise CatalogUnavailable(_text(exc)) from exc
        took_s = clock.now_s() - began_s
        if took_s >= waited_s(usual_s):  # One that news have ended says nothing of how slow the agent is.
            self._patience.note_answer(kind, in_usual_time=took_s < usual_s)
        return callback(response)


class _Library(Consul):  # type: ignore[misc] # the library is untyped
    """The library's API objects that we use, over our transport."""

    def __init__(self, transport: _Transport) -> None:
        # The inherited constructor is not called: it reads CONSUL_HTTP_ADDR itself, lets it beat its arguments, and
        # raises on addresses that we understand.
        self.http = transport
        self.token = None
        self.dc = None
        self.consistency = "default"
        self.agent = Consul.Agent(self)


def _answer(response: Response) -> Answer:
    """Check and unpack a health answer; a missing index or a body that is no list is no answer at all."""
    CB._status(response)  # noqa: SLF001 - the library's own status check, there is no public name for it
    if response.code != 200:  # noqa: PLR2004 - the one good status
        raise CatalogUnavailable(f"Consul answered {response.code}")
    rows = split_rows(response.content)
    text = response.headers.get("X-Consul-Index", "")
    if not (text.isascii() and text.isdigit()):
        raise CatalogUnavailable(f"the answer has no usable X-Consul-Index ({text[:20]!r})")
    return Answer(
        int(text),
        rows,
        filtered=response.headers.get("X-Consul-Results-Filtered-By-Acls") == "true",
        backend=response.headers.get("X-Consul-Query-Backend", "")[:_WORD_CHARS_MAX],
    )


def _waiting(index: int, wait_s: float) -> list[tuple[str, str]]:
    """The parameters of a query that waits for something newer than the index; none without one."""
    return [("index", str(index)), ("wait", f"{round(wait_s * 1000)}ms")] if index else []


def _document(response: Response) -> tuple[int, dict[str, Any]]:
    """An object and its index."""
    CB._status(response)  # noqa: SLF001 - as above
    found = orjson.loads(response.content)
    if response.code != 200 or not isinstance(found, dict):  # noqa: PLR2004 - the one good status
        raise CatalogUnavailable(f"Consul answered {response.code}, and no object")
    text = response.headers.get("X-Consul-Index", "")
    return int(text) if text.isascii() and text.isdigit() else 0, found


async def _bounded_body(answer: aiohttp.ClientResponse) -> bytes:
    chunks = []
    size = 0
    async for chunk in answer.content.iter_chunked(_READ_BYTES):
        size += len(chunk)
        if size > BODY_BYTES_MAX:
            raise CatalogUnavailable(f"the answer is longer than {BODY_BYTES_MAX} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _refusal(text: str, right: str) -> str:
    _, is_embedded, why = text.partition(EMBEDDED_REFUSES)
    if is_embedded:
        return f"the embedded catalog there refuses us: {why}"
    cause = "it knows no such token, was it deleted?" if _UNKNOWN in text else f"the right that is missing: {right}"
    return f"Consul refused our ACL token; {cause} ({text})"


def _translated(exc: Exception) -> CatalogUnavailable | RegistrationLost:
    text = _text(exc)
    # 1.8 says 'CheckID "x" does not have associated TTL'; with ACLs, and in newer versions, 'Unknown check'.
    if "does not have associated TTL" in text or "Unknown check" in text or "Unknown service" in text:
        return RegistrationLost(text)
    return CatalogUnavailable(text + _LIMIT_HINT * text.startswith("429") + _CUT_HINT * text.startswith("504"))


def _headers(token: str | None) -> dict[str, str]:
    return {"X-Consul-Token": token} if token else {}


def _text(exc: BaseException) -> str:
    """The error's text on one line and of bounded length."""
    return " ".join((str(exc) or type(exc).__name__).split())[:_ERROR_CHARS_MAX]
