"""The one-machine catalog: the first process to get the port serves it, all others are its clients.

Opened by the wiring of `agent` when no Consul is configured and none answers. Speaks Consul's HTTP API, so that the
ordinary session works on top. Theory of operation:

    the port is free        -> listen on it (the kernel lets exactly one win) and serve an empty catalog
    another node holds it   -> have it prove that it is of this mesh (`discovery.embedded.proof`), and only then show it
                               a token; keep an idle connection to it; when that ends, the other node has gone: race
                               for the port

The one rule: loopback only. A server that ends is recovered from like a restarted Consul: the watch reads anew and
holds removals, each registrar notices that its registration is lost and makes it again.
"""

import asyncio
import errno
import logging
import random
import re
import socket
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import aiohttp
from aiohttp import web
from aiohttp.abc import AbstractResolver
from aiohttp.resolver import DefaultResolver

from discovery import clock
from discovery.consul.environment import ConsulSettings, is_loopback_host
from discovery.embedded.catalog import LocalCatalog, first_index_at
from discovery.embedded.definition import CheckSpec
from discovery.embedded.http import MARK, MARK_HEADER, CatalogServer
from discovery.embedded.proof import CHALLENGE_HEADER, PROOF_HEADER, challenge, new_number, proven_run, token
from discovery.embedded.strangers import Strangers, StrangersSite
from discovery.model import SettingsRefused

log = logging.getLogger(__name__)

JOIN_TIMEOUT_S = 3.0  # How long the holder of the port may take to show that it is an embedded catalog.
ANSWER_TIMEOUT_S = 1.0  # Of one request, which needs nothing but memory.
RACE_JITTER_S = 0.05  # Spreads the nodes that saw the server go; a try takes microseconds.
_BACKLOG = 1024
_READ_BYTES = 1024
_RETRY_S = 0.1
_FAILURE_PAUSE_S = 1.0
_PROVE_AGAIN_S = 5.0
_NOTHING_PROVEN = "the embedded catalog there has not answered yet"
_NOT_OF_THIS_MESH = (
    "the embedded catalog there does not prove that it is this mesh's, and is shown no token: it is another mesh's, or "
    "another program; give this mesh its own by another MESH_EMBEDDED_PORT, or that mesh's secret"
)
_PROOF_LINE = re.compile(rf"^{PROOF_HEADER}:[ \t]*([0-9a-f.]+)[ \t]*\r$".encode(), re.IGNORECASE | re.MULTILINE)
_SHUTDOWN_TIMEOUT_S = 0.05  # Waiting queries are cut; their clients treat that as a restart.


class _Holder(Enum):
    """The holder of the port, as far as it is known."""

    OURS = "ours"
    FOREIGN = "foreign"
    SILENT = "silent"


@dataclass(slots=True)
class _Role:
    """`run`: of the catalog that is ours or has proven itself, empty while there is none; `refusal`: why it has not.

    `said`: that is in the log since one has proven itself last.
    """

    serving: bool = False
    run: str = ""
    refusal: str = _NOTHING_PROVEN
    said: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def found(self, run: str, refusal: str = "") -> None:
        """What the holder of the port has proven; wakes what waits for it."""
        self.run, self.refusal = run, refusal
        if run:
            self.said = False
        self.changed.set()

    def lost(self) -> None:
        """The holder is gone."""
        self.run, self.refusal = "", _NOTHING_PROVEN
        self.changed.clear()

    async def why_not(self) -> str:
        """Why no request may be made of the holder; empty where it may."""
        if not self.run:
            with suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await self.changed.wait()
        return self.refusal


@dataclass(frozen=True)
class EmbeddedSettings(ConsulSettings):
    """Settings of the embedded catalog, for `open_session`, and whether this process serves it."""

    role: _Role = field(default_factory=_Role, repr=False, compare=False)

    @property
    def is_embedded(self) -> bool:
        """As `ConsulSettings.is_embedded`."""
        return True

    @property
    def serving(self) -> bool:
        """Whether this very process serves the catalog now."""
        return self.role.serving


@dataclass(frozen=True, slots=True)
class CatalogGuard:
    """What protects an embedded catalog from other programs of the machine.

    `keys`: of its mesh, the current one first; none: all may use it. `resolver`: makes the one for the HTTP checks that
    are registered. `refuses`: why the URL of such a check is not asked, empty where it is.
    """

    keys: Callable[[], Sequence[bytes]] = tuple
    resolver: Callable[[], AbstractResolver] = DefaultResolver
    refuses: Callable[[str], str] = lambda _: ""


OPEN_TO_ALL: Final = CatalogGuard()


@asynccontextmanager
async def embedded_catalog(
    port: int, *, host: str = "127.0.0.1", join_timeout_s: float = JOIN_TIMEOUT_S, guard: CatalogGuard = OPEN_TO_ALL
) -> AsyncGenerator[EmbeddedSettings, None]:
    """Serve or join the embedded catalog on a loopback port for as long as the context is open.

    Raises:
        SettingsRefused: the address is not loopback, or the port is held by another program.
    """
    if not is_loopback_host(host):
        raise SettingsRefused(f"the embedded catalog is for one machine only and refuses {host}: use 127.0.0.1")
    netloc = f"[{host}]" if ":" in host else host
    role, authority = _Role(), f"{netloc}:{port}"

    def token_now() -> str | None:
        keys = guard.keys()
        return token(keys[0], authority, role.run) if keys and role.run else None

    settings = EmbeddedSettings(
        url=f"http://{authority}",
        token_now=token_now,
        admission=role.why_not if guard.keys() else None,
        role=role,
    )
    listener = await _listen_or_join(host, port, settings.url, join_timeout_s)
    failure: Exception | None = None
    async with asyncio.TaskGroup() as group:
        ready = asyncio.Event()
        keeper = group.create_task(
            _keep_place(host, port, listener, _Serving(role, ready, guard, authority)), name=f"embedded catalog {port}"
        )
        try:
            await ready.wait()
            yield settings
        except Exception as exc:  # noqa: BLE001 - raised again below, outside of the group, which would wrap it
            failure = exc
        finally:
            keeper.cancel()
    if failure is not None:
        raise failure


async def _listen_or_join(host: str, port: int, url: str, timeout_s: float) -> socket.socket | None:
    """Become the server (a listening socket) or join the holder of the port (None).

    A silent holder need not be another program: a catalog that was stopped (SIGSTOP) goes on later, or ends.
    """
    deadline_s = clock.now_s() + timeout_s
    while True:
        listener = try_listen(host, port)
        if listener is not None:
            return listener
        holder = await _who_answers(url, min(timeout_s, ANSWER_TIMEOUT_S))
        if holder is _Holder.OURS:
            return None
        if clock.now_s() > deadline_s:
            break
        await asyncio.sleep(_RETRY_S)
    if holder is _Holder.SILENT:
        log.warning(
            "embedded catalog: the process that serves it does not answer, waiting for it", extra={"port": port}
        )
        return None
    raise SettingsRefused(
        f"port {port} of {host} is held by a program that is no embedded catalog: "
        "set MESH_EMBEDDED_PORT to a free port, the same one on every node of this machine"
    )


@dataclass(frozen=True, slots=True)
class _Serving:
    role: _Role
    ready: asyncio.Event
    guard: CatalogGuard
    authority: str


async def _keep_place(host: str, port: int, listener: socket.socket | None, serving: _Serving) -> None:
    """Serve while we hold the port, wait for it while another node does; until cancelled."""
    while True:
        try:
            if listener is None:
                listener = await _until_ours(host, port, serving)
            await _serve(listener, serving)
        except Exception:
            log.exception("the embedded catalog failed and is tried anew")
            serving.ready.set()
            await asyncio.sleep(_FAILURE_PAUSE_S)
        listener = None


async def _serve(listener: socket.socket, serving: _Serving) -> None:
    """Serve a new, empty catalog on the socket; until cancelled."""
    catalog = LocalCatalog(socket.gethostname(), first_index=first_index_at(time.time()))
    server = CatalogServer(catalog, serving.guard.keys, serving.authority)
    runner = web.AppRunner(
        server.application(),
        access_log=None,
        handler_cancellation=True,  # The query of a client that has gone ends.
        shutdown_timeout=_SHUTDOWN_TIMEOUT_S,
        auto_decompress=False,  # Nothing of ours is compressed, and a stranger's small body may unpack to a large one.
    )
    try:
        await runner.setup()
        strangers = Strangers(runner)
        server.on_admitted = strangers.admitted
        await StrangersSite(runner, listener, strangers).start()
        serving.role.serving = True
        serving.role.found(server.run)
        log.info("embedded catalog: serving, for one machine only", extra={"port": listener.getsockname()[1]})
        serving.ready.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(server.expire_forever(), name="embedded expiry")
            group.create_task(probe_forever(catalog, server, serving.guard), name="embedded checks")
    finally:
        serving.role.serving = False
        serving.role.lost()
        await runner.cleanup()
        listener.close()


def try_listen(host: str, port: int) -> socket.socket | None:
    """Listen on the address; None when another socket does.

    SO_REUSEADDR lets us take over from a dead process at once; of several listeners the kernel still allows only one.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as exc:
        listener.close()
        if exc.errno == errno.EADDRINUSE:
            return None
        raise SettingsRefused(f"the embedded catalog cannot listen on {host}:{port}: {exc.strerror}") from exc
    except OverflowError as exc:
        listener.close()
        raise SettingsRefused(f"{port} is no port: set MESH_EMBEDDED_PORT to a number from 1 to 65535") from exc
    return listener


async def _until_ours(host: str, port: int, serving: _Serving) -> socket.socket:
    """Wait until the serving process is gone and we have won the race for its place."""
    while True:
        try:
            await _until_gone(host, port, serving)
        finally:
            serving.role.lost()
        await asyncio.sleep(RACE_JITTER_S * random.random())  # noqa: S311 - jitter
        listener = try_listen(host, port)
        if listener is not None:
            return listener
        await asyncio.sleep(_RETRY_S)


async def _until_gone(host: str, port: int, serving: _Serving) -> None:
    """Return when the port has no server, at once when that is so already.

    Or after a while, when its server has not proven that it is of this mesh: that may change with a secret.
    """
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return
    # A server that says nothing may have been stopped (SIGSTOP), and is waited for without holding up the start.
    unheard = asyncio.get_running_loop().call_later(ANSWER_TIMEOUT_S, serving.ready.set)
    try:
        keys = serving.guard.keys()
        if keys and not await _proves_itself(reader, writer, keys, serving):
            serving.ready.set()
            async with asyncio.timeout(_PROVE_AGAIN_S):
                await _until_end(reader)
            return
        # The token is shown here, too, because connections of strangers give way.
        writer.write(_ask(f"X-Consul-Token: {token(keys[0], serving.authority, serving.role.run)}" if keys else ""))
        log.info("embedded catalog: joined, for one machine only", extra={"port": port})
        serving.ready.set()
        await _until_end(reader)
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return
    finally:
        unheard.cancel()
        writer.close()


async def _proves_itself(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, keys: Sequence[bytes], serving: _Serving
) -> bool:
    """Whether what holds the port shows that it knows the mesh's key; it learns nothing but that we do."""
    number = new_number()
    writer.write(_ask(f"{CHALLENGE_HEADER}: {challenge(keys, number, serving.authority)}"))
    shown = _PROOF_LINE.search(await reader.readuntil(b"\r\n\r\n"))
    run = proven_run(keys, shown[1].decode() if shown else "", number, serving.authority)
    serving.role.found(run, "" if run else _NOT_OF_THIS_MESH)
    if not run:
        # A program that closes each connection at once is asked ten times a second, and must not fill the log.
        level, serving.role.said = logging.DEBUG if serving.role.said else logging.WARNING, True
        log.log(level, "embedded catalog: not used", extra={"reason": _NOT_OF_THIS_MESH, "at": serving.authority})
    return bool(run)


def _ask(line: str) -> bytes:
    """A request that costs the catalog nothing, with one more line of its head."""
    lines = ["GET /v1/status/leader HTTP/1.1", "Host: localhost", *([line] if line else [])]
    return "".join(f"{one}\r\n" for one in (*lines, "")).encode()


async def _until_end(reader: asyncio.StreamReader) -> None:
    """After its answers a catalog sends nothing: this ends when it does."""
    while await reader.read(_READ_BYTES):
        pass


async def _who_answers(url: str, timeout_s: float) -> _Holder:
    """Whether the program that listens there is an embedded catalog."""
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{url}/v1/status/leader") as answer:
            return _Holder.OURS if answer.headers.get(MARK_HEADER) == MARK else _Holder.FOREIGN
    except TimeoutError:  # Ahead of the others: aiohttp's own time-outs are errors of its client too.
        return _Holder.SILENT
    except (aiohttp.ClientError, OSError):
        return _Holder.FOREIGN


async def probe_forever(catalog: LocalCatalog, server: CatalogServer, guard: CatalogGuard = OPEN_TO_ALL) -> None:
    """Keep one probe running for every HTTP check that is registered; until cancelled."""
    connector = aiohttp.TCPConnector(resolver=guard.resolver())
    session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
    async with session, asyncio.TaskGroup() as group:
        running: dict[CheckSpec, asyncio.Task[None]] = {}
        while True:
            server.checks_changed.clear()
            wanted = frozenset(catalog.http_checks().values())
            for check in running.keys() - wanted:
                running.pop(check).cancel()
            for check in wanted - running.keys():
                running[check] = group.create_task(
                    _probe(session, check, server, guard), name=f"embedded check {check.check_id}"
                )
            await server.checks_changed.wait()


async def _probe(session: aiohttp.ClientSession, check: CheckSpec, server: CatalogServer, guard: CatalogGuard) -> None:
    assert check.http_url is not None
    refusal = guard.refuses(check.http_url)
    while True:
        status, output = ("critical", refusal) if refusal else await _run_check(session, check)
        server.probed(check.check_id, status, output)
        await asyncio.sleep(check.interval_s)


async def _run_check(session: aiohttp.ClientSession, check: CheckSpec) -> tuple[str, str]:
    assert check.http_url is not None
    timeout = aiohttp.ClientTimeout(total=check.timeout_s)
    try:
        checked = not check.any_certificate
        async with session.get(check.http_url, allow_redirects=False, timeout=timeout, ssl=checked) as answer:
            code = answer.status
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as exc:
        return "critical", type(exc).__name__
    if 200 <= code < 300:  # noqa: PLR2004 - the 2xx range
        return "passing", f"HTTP GET: {code}"
    return ("warning" if code == 429 else "critical"), f"HTTP GET: {code}"  # noqa: PLR2004 - too many requests
