"""What only the embedded catalog has to do: be one machine's own, and outlive the process that serves it."""

import asyncio
import gzip
import json
import logging
import sys
import time
from collections.abc import AsyncGenerator, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from discovery.consul.client import open_client
from discovery.consul.environment import ConsulSettings
from discovery.consul.session import open_session
from discovery.embedded.proof import new_number, token
from discovery.embedded.server import OPEN_TO_ALL, CatalogGuard, embedded_catalog, try_listen
from discovery.embedded.strangers import STRANGERS_MAX
from discovery.model import AccessRefused, Registration, SettingsRefused
from tests.contract.embedded_node import SERVICE_NAME
from tests.contract.following import MACHINE_S, Follower, ids, running, until, until_catalog_holds
from tests.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "::", "example.org"])
async def test_any_address_but_loopback_is_refused(host: str) -> None:
    with pytest.raises(SettingsRefused, match="one machine only"):
        async with embedded_catalog(free_ports(1)[0], host=host):
            pass


async def test_a_port_held_by_another_program_is_refused_with_the_fix() -> None:
    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    port = free_ports(1)[0]
    async with await asyncio.start_server(hang_up, "127.0.0.1", port):
        with pytest.raises(SettingsRefused, match="MESH_EMBEDDED_PORT"):
            async with embedded_catalog(port, join_timeout_s=0.2):
                pass


async def test_a_holder_that_does_not_answer_is_a_catalog_that_is_away_and_is_followed_when_it_ends() -> None:
    port = free_ports(1)[0]
    async with AsyncExitStack() as stack:
        silent = try_listen("127.0.0.1", port)  # Accepts, as the kernel does for a stopped process, and says nothing.
        assert silent is not None
        with silent:
            joined = await stack.enter_async_context(embedded_catalog(port, join_timeout_s=0.2))
            assert not joined.serving
        await until(lambda: joined.serving, within_s=5, what="taking over")


async def test_a_port_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsRefused, match="70000"):
        async with embedded_catalog(70_000):
            pass


async def test_the_port_is_held_exclusively() -> None:
    port = free_ports(1)[0]
    async with embedded_catalog(port):
        assert try_listen("127.0.0.1", port) is None


async def test_an_exception_of_the_body_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with embedded_catalog(free_ports(1)[0]):
            raise KeyError("mine")


@pytest.mark.parametrize("host", ["evil.example:8520", "10.0.0.1", ""])
async def test_a_page_that_rebinds_its_name_to_loopback_is_refused(host: str) -> None:
    async with embedded_catalog(free_ports(1)[0]) as settings, aiohttp.ClientSession() as http:
        register = http.put(f"{settings.url}/v1/agent/service/register", data=b'{"Name": "x"}', headers={"Host": host})
        async with register as answer:
            assert answer.status == 403


async def test_a_program_without_the_token_of_the_mesh_reads_and_writes_nothing() -> None:
    keys = [b"new", b"old"]
    guard = CatalogGuard(keys=lambda: keys)
    async with embedded_catalog(free_ports(1)[0], guard=guard) as settings, aiohttp.ClientSession() as http:
        authority, run = settings.url.removeprefix("http://"), settings.role.run
        new, old = (token(key, authority, run) for key in keys)
        assert settings.token_now is not None
        assert settings.token_now() == new
        elsewhere, earlier = token(b"new", "127.0.0.1:1", run), token(b"new", authority, new_number())
        refused = [(shown, 403) for shown in (None, "", "other", "new", elsewhere, earlier)]
        for shown, status in (*refused, (new, 200), (old, 200)):
            headers = {} if shown is None else {"X-Consul-Token": shown}
            url = f"{settings.url}/v1/agent/service/register"
            async with http.put(url, data=b'{"Name": "x"}', headers=headers) as answer:
                assert answer.status == status, shown
            async with http.get(f"{settings.url}/v1/agent/services", headers=headers) as answer:
                assert answer.status == status, shown
                assert status == 200 or "MESH_EMBEDDED_PORT" in await answer.text()
        async with open_client(replace(settings, token_now=lambda: "of-another-mesh")) as client:
            with pytest.raises(
                AccessRefused, match="embedded catalog there refuses us: it is another mesh's"
            ) as refused:
                await client.agent_services()
            assert "ACL" not in str(refused.value)
        async with http.get(f"{settings.url}/v1/agent/services", headers={"Host": "["}) as answer:
            assert answer.status == 403
        async with open_client(settings) as client:
            for current in (b"newer", b"newest"):
                keys[:] = [current]
                assert set(await client.agent_services()) == {"x"}


async def test_silent_connections_give_way_to_each_other_and_never_those_that_have_shown_the_token() -> None:
    guard = CatalogGuard(keys=lambda: [b"ours"])
    async with embedded_catalog(free_ports(1)[0], guard=guard) as settings, asyncio.timeout(10):
        assert settings.token_now is not None
        shown = settings.token_now()
        ask = f"GET /v1/agent/services HTTP/1.1\r\nHost: localhost\r\nX-Consul-Token: {shown}\r\n\r\n".encode()
        port = int(settings.url.rpartition(":")[2])
        mine, asks = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            asks.write(ask)
            assert b" 200 " in await mine.readline()
            await mine.readuntil(b"{}")
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(STRANGERS_MAX * 2)]
            assert [await reader.read() for reader, _ in silent[:STRANGERS_MAX]] == [b""] * STRANGERS_MAX
            assert not silent[-1][0].at_eof()
            for _, writer in silent:
                writer.close()
        asks.close()


SECRET = b"the key of this mesh, which is never sent"
OURS = CatalogGuard(keys=lambda: [SECRET])


class Posing:
    """A program that has taken the catalog's port, says that it is one, and keeps what it is sent.

    `relayed_to`: the port of a genuine catalog, which it asks what it is asked.
    """

    def __init__(self, relayed_to: int | None = None) -> None:
        self.heard = bytearray()
        self._relayed_to = relayed_to

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """As `asyncio.start_server` wants."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.heard += head
                said = b"X-Mesh-Catalog-Proof: " + b"0" * 32 + b"." + b"0" * 64 + b"\r\n"
                if self._relayed_to is not None:
                    there, asks = await asyncio.open_connection("127.0.0.1", self._relayed_to)
                    asks.write(head)
                    said = (await there.readuntil(b"\r\n\r\n")).partition(b"\r\n")[2][:-2]
                    asks.close()
                else:
                    said += b"X-Mesh-Catalog: embedded\r\nContent-Length: 2\r\n"
                writer.write(b"HTTP/1.1 200 OK\r\n" + said + b"\r\n" + b"[]")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.mark.parametrize("relays", [False, True])
async def test_a_program_that_takes_the_port_first_sees_neither_token_nor_secret_nor_registration(
    relays: bool,
) -> None:
    async with AsyncExitStack() as stack:
        genuine = await stack.enter_async_context(embedded_catalog(free_ports(1)[0], guard=OURS)) if relays else None
        posing = Posing(int(genuine.url.rpartition(":")[2]) if genuine is not None else None)
        listening = await asyncio.start_server(posing.answer, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        async with listening:
            joined = await stack.enter_async_context(embedded_catalog(port, guard=OURS))
            session = await stack.enter_async_context(open_session(joined))
            registrar = session.registrar(Registration("mine", SERVICE_NAME, port=8000))
            keeping = await stack.enter_async_context(asyncio.TaskGroup())
            kept = keeping.create_task(registrar.keep())
            await until(lambda: "does not prove" in registrar.status.last_error, within_s=5, what="the refusal")
            assert (joined.serving, joined.token_now and joined.token_now()) == (False, None)
            heard = bytes(posing.heard)
        for never in (b"X-Consul-Token", b"PUT ", b"mine", SECRET, SECRET.hex().encode()):
            assert never not in heard
        assert b"X-Mesh-Challenge: " in heard
        await until(lambda: joined.serving, within_s=8, what="taking over")
        kept.cancel()


async def test_a_program_that_proves_nothing_again_and_again_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    asked = 0

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\nX-Mesh-Catalog: embedded\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    port = free_ports(1)[0]
    guard = CatalogGuard(keys=lambda: (b"of this mesh",))
    async with await asyncio.start_server(refuse, "127.0.0.1", port), embedded_catalog(port, guard=guard):
        await until(lambda: asked > 4, within_s=5, what="asking it again")
    assert [record.levelname for record in caplog.records if "not used" in record.message] == ["WARNING"]


async def test_what_takes_the_port_of_a_catalog_that_has_ended_gets_a_token_that_opens_nothing() -> None:
    port = free_ports(1)[0]
    async with AsyncExitStack() as stack:
        async with embedded_catalog(port, guard=OURS) as first:
            second = await stack.enter_async_context(embedded_catalog(port, guard=OURS))
            assert (first.token_now and first.token_now()) == (second.token_now and second.token_now()) != None  # noqa: E711 - of three values
            spent = first.token_now and first.token_now()
        await until(lambda: second.serving, within_s=2, what="taking over")
        assert (second.token_now and second.token_now()) not in (None, spent)
        async with open_client(replace(second, token_now=lambda: spent)) as client:
            with pytest.raises(AccessRefused):
                await client.agent_services()
        async with open_client(second) as client:
            assert await client.agent_services() == {}


async def test_a_node_of_another_mesh_is_refused_by_a_catalog_and_told_how_to_mend_it() -> None:
    port = free_ports(1)[0]
    async with (
        embedded_catalog(port, guard=OURS),
        embedded_catalog(port, guard=CatalogGuard(keys=lambda: [b"another"])) as theirs,
        open_client(theirs) as client,
    ):
        with pytest.raises(AccessRefused, match="MESH_EMBEDDED_PORT"):
            await client.agent_services()


async def test_a_catalog_names_no_versions_whatever_it_is_asked() -> None:
    asked = [
        b"GET /v1/status/leader HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /v1/nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /v1/status/leader HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nbroken-header-7f\r\n\r\n",
        b"\x16\x03\x01 nothing at all\r\n\r\n",
    ]
    async with embedded_catalog(free_ports(1)[0]) as settings, asyncio.timeout(10):
        port = int(settings.url.rpartition(":")[2])
        for request in asked:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(request)
                answer = await reader.read()
            finally:
                writer.close()
            assert answer.startswith(b"HTTP/1."), request
            assert b"\r\nServer: mcp-mesh-agent\r\n" in answer, request
            for word in (b"aiohttp", b"Python", b"broken-header-7f"):
                assert word not in answer, request


async def test_a_compressed_body_of_a_stranger_is_not_unpacked() -> None:
    body = gzip.compress(b'{"Name": "x"}')
    async with embedded_catalog(free_ports(1)[0]) as settings, aiohttp.ClientSession() as http:
        url, headers = f"{settings.url}/v1/agent/service/register", {"Content-Encoding": "gzip"}
        async with http.put(url, data=body, headers=headers) as answer:
            assert answer.status == 400


async def test_a_check_is_not_asked_at_an_address_that_is_never_dialled() -> None:
    asked: list[str] = []

    def refuses(url: str) -> str:
        asked.append(url)
        return "is never dialled"

    guard = CatalogGuard(refuses=refuses)
    async with embedded_catalog(free_ports(1)[0], guard=guard) as settings, aiohttp.ClientSession() as http:
        check = b'{"Name": "x", "Check": {"HTTP": "http://127.0.0.1:9/healthz", "Interval": "1s"}}'
        async with http.put(f"{settings.url}/v1/agent/service/register", data=check) as answer:
            assert answer.status == 200
        index = "1"
        async with asyncio.timeout(5 + MACHINE_S):
            said = b""
            while b"is never dialled" not in said:
                async with http.get(f"{settings.url}/v1/health/service/x?wait=2s&index={index}") as answer:
                    index, said = answer.headers["X-Consul-Index"], await answer.read()
        assert asked == ["http://127.0.0.1:9/healthz"]


async def test_unknown_fields_parameters_and_huge_bodies_are_refused() -> None:
    async with embedded_catalog(free_ports(1)[0]) as settings, aiohttp.ClientSession() as http:
        url = f"{settings.url}/v1/agent/service/register"
        for body, status in [
            (b'{"Name": "x", "Proxy": {}}', 400),
            (b'{"Name": "x", "Check": {"Args": ["sh"], "Interval": "1s"}}', 400),
            (b'{"Name": "x", "Check": {"TTL": "1s", "TCP": "h:1"}}', 400),
            (b'{"Name": "' + b"x" * 100_000 + b'"}', 413),
            (b"[" * 50_000, 400),
        ]:
            async with http.put(url, data=body) as answer:
                assert answer.status == status
        async with http.get(f"{settings.url}/v1/health/service/x?filter=true") as answer:
            assert answer.status == 400


async def test_the_first_serves_the_second_joins_and_takes_over_when_the_first_leaves() -> None:
    port = free_ports(1)[0]
    async with AsyncExitStack() as outer:
        async with embedded_catalog(port) as first:
            second = await outer.enter_async_context(embedded_catalog(port))
            assert (first.serving, second.serving) == (True, False)
        await until(lambda: second.serving, within_s=2, what="taking over")
        assert not first.serving


async def test_members_of_one_process_heal_after_the_server_closes_and_none_is_dropped() -> None:
    port = free_ports(1)[0]
    async with AsyncExitStack() as stack:
        served = embedded_catalog(port)
        await served.__aenter__()
        try:
            members = [await _member(stack, port, f"node-{number}") for number in range(3)]
            everybody = {"node-0", "node-1", "node-2"}
            followers = [follower for follower, _ in members]
            await stack.enter_async_context(running(*(part for _, parts in members for part in parts)))
            for follower in followers:
                await follower.until_ids(*everybody)
            shown = [len(follower.catalogs) for follower in followers]
        finally:
            await served.__aexit__(None, None, None)
        lost_at_s = time.monotonic()
        async with open_client(ConsulSettings(url=f"http://127.0.0.1:{port}")) as client:
            await until_catalog_holds(client, SERVICE_NAME, everybody)
        assert time.monotonic() - lost_at_s < 2.0 + MACHINE_S
        late = await _member(stack, port, "late")
        await stack.enter_async_context(running(*late[1]))
        for follower, before in zip(followers, shown, strict=True):
            await follower.until_ids(*everybody, "late", within_s=3)
            assert all(ids(catalog) >= everybody for catalog in follower.catalogs[before:])


async def test_survivors_of_a_killed_server_have_each_other_again_within_two_seconds() -> None:
    port = free_ports(1)[0]
    names = [f"node-{number}" for number in range(4)]
    async with AsyncExitStack() as stack:
        children = [await stack.enter_async_context(_child(port, name)) for name in names]
        for child in children:
            await until(partial(child.shows, names), what=f"{child.service_id} sees all")
        (server,) = [child for child in children if child.reports[0]["serving"]]
        survivors = [child for child in children if child is not server]
        shown = [len(child.reports) for child in survivors]
        server.process.kill()
        killed_at_s = time.monotonic()
        wanted = {child.service_id for child in survivors}
        async with open_client(ConsulSettings(url=f"http://127.0.0.1:{port}")) as client:
            await until_catalog_holds(client, SERVICE_NAME, wanted)
        assert time.monotonic() - killed_at_s < 2.0 + MACHINE_S
        # When the catalog has settled the dead one is critical, for links that answer alone; no other node ever went.
        for child, before in zip(survivors, shown, strict=True):
            await until(partial(child.links, wanted), what=f"{child.service_id} drops the dead one")
            assert all(wanted <= set(report["ids"]) for report in child.reports[before:])


@dataclass
class Child:
    """One node in a process of its own, and what it has shown."""

    service_id: str
    process: asyncio.subprocess.Process
    reports: list[dict[str, Any]] = field(default_factory=list)

    async def read(self) -> None:
        """Take in its reports until it ends."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.reports.append(json.loads(line))

    def shows(self, wanted: Iterable[str]) -> bool:
        """Whether its latest catalog holds exactly these."""
        return bool(self.reports) and self.reports[-1]["ids"] == sorted(wanted)

    def links(self, wanted: Iterable[str]) -> bool:
        """Whether a new link would be made to exactly these."""
        last = self.reports[-1] if self.reports else {"ids": [], "critical": []}
        return set(last["ids"]) - set(last["critical"]) == set(wanted)


@asynccontextmanager
async def _child(port: int, service_id: str) -> AsyncGenerator[Child, None]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.contract.embedded_node",
        str(port),
        service_id,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    child = Child(service_id, process)
    try:
        async with running(child.read()):
            yield child
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _member(
    stack: AsyncExitStack, port: int, service_id: str, guard: CatalogGuard = OPEN_TO_ALL
) -> tuple[Follower, tuple[Coroutine[Any, Any, None], ...]]:
    settings = await stack.enter_async_context(embedded_catalog(port, guard=guard))
    session = await stack.enter_async_context(open_session(settings))
    registrar = session.registrar(Registration(service_id, SERVICE_NAME, port=8000))
    follower = Follower(session.source(SERVICE_NAME, registrar))
    return follower, (registrar.keep(), follower.run())


async def test_a_catalog_that_starts_anew_is_said_in_words_of_its_own_and_none_of_a_consul(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "discovery")
    port = free_ports(1)[0]
    async with AsyncExitStack() as stack:
        served = embedded_catalog(port, guard=OURS)
        await served.__aenter__()
        try:
            members = [await _member(stack, port, f"node-{number}", OURS) for number in range(2)]
            for _, coroutines in members:
                await stack.enter_async_context(running(*coroutines))
            for follower, _ in members:
                await follower.until_ids("node-0", "node-1")
        finally:
            await served.__aexit__(None, None, None)
        again = "the embedded catalog has started anew, registering again"
        await until(lambda: caplog.messages.count(again) >= 2, within_s=5 + MACHINE_S, what="both registering again")
        settings = await stack.enter_async_context(embedded_catalog(port, guard=OURS))
        client = await stack.enter_async_context(open_client(settings))
        await until_catalog_holds(client, SERVICE_NAME, {"node-0", "node-1"})
        assert await client.held_checks() is None
    said = [f"{record.message} {record.__dict__.get('reason', '')}" for record in caplog.records]
    assert [one for one in said if "ACL" in one or "not an object" in one] == []
