"""The pool of HTTP connections against servers that others wrote, aiohttp and uvicorn, plain and by TLS.

The one rule: both servers pass the same tests by either way, so that no answer depends on who frames it.
"""

import asyncio
import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.client.http import dial as http_dial
from agent.client.http.open_pool import open_pool
from agent.client.http.pool import HttpPool, RequestBody
from agent.errors import CallNotSent
from agent.model import HttpTarget
from tests.integration.servers.hosting import serving
from tests.waiting import UNREPAIRED_S

LARGE = bytes(range(256)) * 4096  # 1 MiB
Hosting = Callable[[Path | None], AbstractAsyncContextManager[str]]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and a certificate for localhost and 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mesh test")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same, trusted by this process while the test runs."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    http_dial._tls_context.cache_clear()
    yield certificate
    http_dial._tls_context.cache_clear()


@asynccontextmanager
async def aiohttp_server(certificate: Path | None, host: str = "127.0.0.1") -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if request.query.get("as") != "stream":
            return web.Response(body=body, headers={"X-Port": _port_of(request)})
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Port": _port_of(request)})
        await stream.prepare(request)
        for start in range(0, len(body), 50_000):
            await stream.write(body[start : start + 50_000])
        await stream.write_eof()
        return stream

    app = web.Application(client_max_size=8 << 20)
    app.router.add_post("/mcp", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    await web.TCPSite(runner, host, 0, ssl_context=context).start()
    try:
        yield f"http{'s' if certificate else ''}://{host}:{runner.addresses[0][1]}/mcp"
    finally:
        await runner.cleanup()


def _port_of(request: web.Request) -> str:
    """Which connection a request came by: each has a port of its own on our side."""
    assert request.transport is not None
    return str(request.transport.get_extra_info("peername")[1])


@asynccontextmanager
async def uvicorn_server(certificate: Path | None) -> AsyncIterator[str]:
    async def app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = [(b"x-port", str(scope["client"][1]).encode())]
        stream = scope["query_string"] == b"as=stream"
        if not stream:
            headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for start in range(0, len(body), 50_000):
            await send({"type": "http.response.body", "body": body[start : start + 50_000], "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async with serving(app, certificate) as base:
        yield f"{base}/mcp"


@pytest.fixture(params=[aiohttp_server, uvicorn_server], ids=["aiohttp", "uvicorn"])
def hosting(request: pytest.FixtureRequest) -> Hosting:
    made: Hosting = request.param
    return made


@pytest.fixture(params=["plain", "tls"])
async def url(request: pytest.FixtureRequest, hosting: Hosting, trusted: Path) -> AsyncIterator[str]:
    async with hosting(trusted if request.param == "tls" else None) as served:
        yield served


@asynccontextmanager
async def pool_of(url: str) -> AsyncIterator[HttpPool]:
    # The servers are in this very loop: where the machine stands still, a dial is given up that was accepted long ago.
    with open_pool(HttpTarget(url), connect_timeout_s=UNREPAIRED_S) as pool:
        async with asyncio.timeout(UNREPAIRED_S):
            yield pool


async def ask(pool: HttpPool, body: bytes) -> tuple[bytes, str]:
    """The answer's body, and which connection it came by."""
    response = await pool.post(RequestBody(body), {})
    assert response.status == 200
    port = response.headers["X-Port"]
    read = await response.read()
    assert response.closed
    return read, port


async def all_of(asks: list[Awaitable[tuple[bytes, str]]]) -> list[tuple[bytes, str]]:
    async def one(asked: Awaitable[tuple[bytes, str]]) -> tuple[bytes, str]:
        return await asked

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(asked), name="ask") for asked in asks]
    return [task.result() for task in tasks]


@pytest.mark.parametrize("query", ["", "?as=stream"])
@pytest.mark.parametrize("body", [b"", b"x", LARGE], ids=["empty", "one byte", "1 MiB"])
async def test_what_was_sent_comes_back_by_one_connection(url: str, query: str, body: bytes) -> None:
    async with pool_of(url + query) as pool:
        answers = [await ask(pool, body) for _ in range(3)]
    assert {read for read, _ in answers} == {body}
    assert len({port for _, port in answers}) == 1


async def test_many_at_once_get_each_their_own(url: str) -> None:
    bodies = [str(number).encode() * 1000 for number in range(100)]
    async with pool_of(url) as pool:
        answers = await all_of([ask(pool, body) for body in bodies])
        assert [read for read, _ in answers] == bodies
        again = await all_of([ask(pool, body) for body in bodies[:10]])
    assert {port for _, port in again} <= {port for _, port in answers}


async def test_a_response_that_is_left_early_costs_its_connection_and_no_other(url: str) -> None:
    async with pool_of(url + "?as=stream") as pool:
        left, kept = await pool.post(RequestBody(LARGE), {}), await pool.post(RequestBody(b"k"), {})
        await left.more()
        left.close()
        assert await kept.read() == b"k"
        assert (await ask(pool, b"next"))[1] == kept.headers["X-Port"]
        assert "1 connections, 1 idle" in repr(pool)


async def test_a_certificate_that_no_authority_vouches_for_is_refused(hosting: Hosting, certificate: Path) -> None:
    async with hosting(certificate) as served, pool_of(served) as pool:
        body = RequestBody(b"{}")
        with pytest.raises(CallNotSent, match="TLS certificate that is refused: self-signed"):
            await pool.post(body, {})
        assert not body.sent


async def test_a_certificate_of_another_host_is_refused(trusted: Path) -> None:
    async with aiohttp_server(trusted, "127.0.0.2") as served, pool_of(served) as pool:
        with pytest.raises(CallNotSent, match=r"TLS certificate that is refused: .*127\.0\.0\.2"):
            await pool.post(RequestBody(b"{}"), {})


async def test_a_certificate_is_compared_with_the_name_that_was_dialled(trusted: Path) -> None:
    async with aiohttp_server(trusted) as served, pool_of(served.replace("127.0.0.1", "localhost")) as pool:
        assert (await pool.post(RequestBody(b"{}"), {})).status == 200


async def test_a_plain_server_is_not_reached_by_tls(hosting: Hosting) -> None:
    async with hosting(None) as served, pool_of(served.replace("http:", "https:")) as pool:
        with pytest.raises(CallNotSent, match="cannot be reached"):
            await pool.post(RequestBody(b"{}"), {})
