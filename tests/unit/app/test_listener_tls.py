"""The certificate of the listener: shown, renewed, and asked of clients where an authority for them is set."""

import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from agent.app.drain import runner_of
from agent.app.first_bytes import GuardedSite
from agent.app.listener_tls import ListenerTls
from agent.app.sockets import bound_socket
from agent.config.tls_files import TlsFault
from agent.model import TlsFiles
from tests.integration.servers.certificates import Authority, Issued


@asynccontextmanager
async def listening(tls: ListenerTls) -> AsyncIterator[str]:
    """The URL of a site that says which host it was asked for."""

    async def fine(request: web.Request) -> web.Response:
        return web.Response(text=request.scheme)

    app = web.Application()
    app.router.add_get("/fine", fine)
    runner = runner_of(app, fast_path="/mcp")
    await runner.setup()
    with bound_socket("127.0.0.1", 0, explicit=True) as bound:
        try:
            await GuardedSite(runner, bound, tls=tls.context).start()
            yield f"https://127.0.0.1:{bound.getsockname()[1]}/fine"
        finally:
            await runner.cleanup()


async def asked(url: str, authority: Authority, shown: Issued | None = None) -> str:
    """The answer to a client that trusts this authority, and shows this certificate."""
    context = ssl.create_default_context(cafile=str(authority.ca))
    if shown is not None:
        context.load_cert_chain(shown.cert, shown.key)
    async with aiohttp.ClientSession() as http, http.get(url, ssl=context) as response:
        return await response.text()


def files(issued: Issued, authority: Authority | None = None) -> TlsFiles:
    return TlsFiles(None if authority is None else str(authority.ca), str(issued.cert), str(issued.key))


async def test_requests_over_tls_are_known_as_https_and_without_files_there_is_no_context(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = ListenerTls(files(authority.issue("127.0.0.1")))
    assert len(tls.paths) == 2
    async with listening(tls) as url:
        assert await asked(url, authority) == "https"
    plain = ListenerTls(None)
    assert (plain.context, plain.paths) == (None, [])
    plain.read_again()


async def test_a_client_without_a_certificate_of_the_authority_is_refused(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    async with listening(ListenerTls(files(ours.issue("127.0.0.1"), ours))) as url:
        assert await asked(url, ours, ours.issue("client")) == "https"
        for shown in (None, theirs.issue("client")):
            with pytest.raises(aiohttp.ClientError):
                await asked(url, ours, shown)


async def test_files_that_change_hold_for_the_next_connection_and_unusable_ones_do_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    before, after = old.issue("127.0.0.1"), new.issue("127.0.0.1")
    tls = ListenerTls(files(before))
    async with listening(tls) as url:
        before.cert.write_bytes(after.cert.read_bytes())
        with caplog.at_level(logging.INFO):
            tls.read_again()
            assert await asked(url, old) == "https"
            before.key.write_bytes(after.key.read_bytes())
            tls.read_again()
        assert await asked(url, new) == "https"
        with pytest.raises(aiohttp.ClientError):
            await asked(url, old)
    assert [record.getMessage() for record in caplog.records if record.name == "agent.app.listener_tls"] == [
        "TLS files refused, the certificate stays",
        "TLS certificate read again",
    ]
    with pytest.raises(TlsFault, match="cannot be read"):
        ListenerTls(TlsFiles(cert=str(tmp_path / "none.crt")))
