"""Servers by TLS with an authority of their own, and those that ask for a certificate, real ones under aiohttp."""

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from agent.client.http.open_pool import open_pool
from agent.client.http.pool import RequestBody
from agent.client.outbound import DIRECT, Outbound
from agent.config.load import load_settings
from agent.config.servers_file import check_servers
from agent.errors import ConfigRefused, LinkFailed, ProtocolBroken
from agent.links.dial import Dialling, opened
from agent.model import HttpTarget, Json, NodeIdentity, PeerSource, PeerSpec, ServerSpec, TlsFiles
from tests.integration.servers.certificates import PASSWORD, Authority, Issued

OWN = NodeIdentity("0" * 32, "n")


@asynccontextmanager
async def tls_server(issued: Issued, clients: Authority | None = None) -> AsyncIterator[tuple[str, list[str]]]:
    """A server of 2026-07-28; gives its URL and the names of the clients that showed a certificate of `clients`."""
    shown: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        peer = request.transport.get_extra_info("peercert") or {}
        shown.extend(value for part in peer.get("subject", ()) for _, value in part)
        result: Json = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
        return web.json_response({"jsonrpc": "2.0", "id": (await request.json())["id"], "result": result})

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.cert, issued.key)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients.ca)
    app = web.Application()
    app.router.add_post("/mcp", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}/mcp", shown
    finally:
        await runner.cleanup()


def spec_of(folder: Path, url: str, **tls: object) -> ServerSpec:
    """As the servers file in `folder` has it."""
    entry: Json = {"url": url, "mesh": {"tls": tls}} if tls else {"url": url}
    file = check_servers(json.dumps({"mcpServers": {"kit": entry}}), folder / "servers.json", {"PLACE": str(folder)})
    assert not file.left_out, file.left_out
    return file.servers[0]


async def dial(spec: ServerSpec | PeerSpec, outbound: Outbound = DIRECT) -> str:
    """The era that was agreed on."""
    async with AsyncExitStack() as stack:
        client = await opened(stack, spec, OWN, dialling=Dialling(outbound=outbound))
        return client.client.server_info.protocol_version


async def test_an_authority_of_an_entry_vouches_for_its_server_and_for_no_other(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    async with tls_server(ours.issue("127.0.0.1")) as (url, _), tls_server(theirs.issue("127.0.0.1")) as (other, _):
        with pytest.raises(LinkFailed, match="has a TLS certificate that is refused: unable to get local issuer"):
            await dial(spec_of(tmp_path, url))
        for path in (str(ours.ca), "ours/ca.pem", "${PLACE}/ours/ca.pem"):
            assert await dial(spec_of(tmp_path, url, ca=path)) == "2026-07-28"
        with pytest.raises(LinkFailed, match="has a TLS certificate that is refused"):
            await dial(spec_of(tmp_path, other, ca="ours/ca.pem"))


async def test_the_nodes_own_authorities_hold_for_servers_and_peers_but_an_entrys_stand_in_their_place(
    tmp_path: Path,
) -> None:
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    outbound = Outbound(tls=load_settings({}, {"MESH_TLS_CA": str(ours.ca)}).tls)
    async with tls_server(ours.issue("127.0.0.1")) as (url, _):
        assert await dial(spec_of(tmp_path, url), outbound) == "2026-07-28"
        assert await dial(PeerSpec("p", HttpTarget(url), PeerSource.STATIC), outbound) == "2026-07-28"
        with pytest.raises(LinkFailed, match="has a TLS certificate that is refused"):
            await dial(spec_of(tmp_path, url, ca=str(theirs.ca)), outbound)


async def test_a_certificate_is_shown_to_a_server_that_asks_for_one(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "a")
    server, node, entry = (authority.issue(name) for name in ("127.0.0.1", "node.example", "entry.example"))
    ca = str(authority.ca)
    common = load_settings({}, {"MESH_TLS_CA": ca, "MESH_TLS_CERT": str(node.cert), "MESH_TLS_KEY": str(node.key)})
    outbound = Outbound(tls=common.tls)
    async with tls_server(server, authority) as (url, shown):
        with pytest.raises(LinkFailed, match=r"closed the connection without an answer|certificate required"):
            await dial(spec_of(tmp_path, url, ca=ca))
        assert not shown
        await dial(spec_of(tmp_path, url, ca=ca, cert=str(entry.cert), key=str(entry.key)))
        await dial(spec_of(tmp_path, url, ca=ca, cert="a/entry.example.pem"))
        assert set(shown) == {"entry.example"}
        shown.clear()
        await dial(spec_of(tmp_path, url), outbound)
        assert set(shown) == {"node.example"}
        shown.clear()
        await dial(spec_of(tmp_path, url, cert=str(entry.both)), outbound)
        assert set(shown) == {"entry.example"}


async def test_a_renewed_certificate_is_shown_by_the_next_connection_of_the_same_link(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "a")
    old, new = authority.issue("old.example"), authority.issue("new.example")
    cert = tmp_path / "node.pem"
    cert.write_bytes(old.both.read_bytes())
    async with tls_server(authority.issue("127.0.0.1"), authority) as (url, shown):
        target = HttpTarget(url, tls=TlsFiles(str(authority.ca), str(cert)))
        body = b'{"jsonrpc": "2.0", "id": 1, "method": "server/discover"}'
        with open_pool(target, connect_timeout_s=5) as pool:
            for content in (old.both.read_bytes(), b"half a file", new.both.read_bytes()):
                cert.write_bytes(content)
                response = await pool.post(RequestBody(body), {"Connection": "close"})
                await response.read()
                response.close()
    assert shown == ["old.example", "old.example", "new.example"]


async def test_files_that_were_replaced_are_used_by_the_next_link(tmp_path: Path) -> None:
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    async with tls_server(new.issue("127.0.0.1")) as (url, _):
        spec = spec_of(tmp_path, url, ca=str(old.ca))
        with pytest.raises(LinkFailed, match="is refused"):
            await dial(spec)
        old.ca.write_bytes(new.ca.read_bytes())
        assert await dial(spec) == "2026-07-28"
        old.ca.unlink()
        with pytest.raises(ProtocolBroken, match=r"a TLS file that cannot be used: ca: .*ca\.pem cannot be read"):
            await dial(spec)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    authority = Authority(tmp_path / "a")
    authority.issue("x")
    authority.issue("y")
    (tmp_path / "empty").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("tls", "fault"),
    [
        ({"ca": "none.pem"}, "tls.ca: FOLDER/none.pem cannot be read: No such file or directory"),
        ({"ca": "a"}, "tls.ca: FOLDER/a cannot be read: it is a folder; name a file in it"),
        ({"ca": "empty"}, "tls.ca: FOLDER/empty has no certificate in it; it must be PEM"),
        ({"ca": "a/x.key"}, "tls.ca: FOLDER/a/x.key has no certificate in it; it must be PEM"),
        (
            {"cert": "a/x.crt"},
            "tls.cert: FOLDER/a/x.crt or FOLDER/a/x.crt is not a certificate and its key in PEM; set",
        ),
        ({"cert": "a/x.crt", "key": "none"}, "tls.key: FOLDER/none cannot be read: No such file or directory"),
        (
            {"cert": "a/x.crt", "key": "a/y.key"},
            "tls.key: FOLDER/a/y.key is not the key of the certificate in FOLDER/a/x",
        ),
        ({"cert": "a/x.crt", "key": "a/x.locked"}, "tls.key: FOLDER/a/x.locked has an encrypted key; write it without"),
        (
            {"cert": "a/x.crt", "key": "empty"},
            "tls.key: FOLDER/empty or FOLDER/a/x.crt is not a certificate and its key",
        ),
        ({"key": "a/x.key"}, "tls.key: needs its certificate; set cert too"),
        ({"ca": 5}, "tls.ca: must be text"),
        ({"ca": "${NONE}"}, "tls.ca: the environment variable NONE is not set"),
        ({"verify": False}, "tls.verify: is not known; tls has ca, cert and key"),
        ("ca.pem", "tls: must be an object"),
    ],
)
def test_an_entry_with_a_file_that_cannot_be_used_is_left_out_with_its_field_and_the_fix(
    folder: Path, tls: object, fault: str
) -> None:
    servers = {"kit": {"url": "https://h.example/mcp", "mesh": {"tls": tls}}, "other": {"command": "x"}}
    file = check_servers(json.dumps({"mcpServers": servers}), folder / "servers.json", {})
    assert [spec.name for spec in file.servers] == ["other"]
    (left_out,) = file.left_out
    assert f"mcpServers.kit.mesh.{fault.replace('FOLDER', str(folder))}" in left_out.reasons[0]
    assert PASSWORD.decode() not in left_out.reasons[0]


def test_files_of_an_entry_that_is_off_are_not_read_and_those_of_a_command_are_a_fault(tmp_path: Path) -> None:
    text = json.dumps(
        {
            "mcpServers": {
                "off": {"url": "https://h/mcp", "disabled": True, "mesh": {"tls": {"ca": "none"}}},
                "plain": {"url": "http://h/mcp", "mesh": {"tls": {}}},
                "child": {"command": "x", "mesh": {"tls": {"ca": "none"}}},
            }
        }
    )
    file = check_servers(text, tmp_path / "servers.json", {})
    assert [spec.name for spec in file.servers] == ["off", "plain"]
    assert "mcpServers.child.mesh.tls: is for a server with a url" in file.left_out[0].reasons[0]
    assert any("mcpServers.plain.mesh: has tls, which does nothing for a url with http:" in note for note in file.notes)


@pytest.mark.parametrize(
    ("environ", "fault"),
    [
        ({"MESH_TLS_CA": "none.pem"}, r"tls_ca \(environment MESH_TLS_CA\): .*none\.pem cannot be read: No such file"),
        ({"MESH_TLS_KEY": "a/x.key"}, r"tls_key \(environment MESH_TLS_KEY\): needs its certificate"),
        ({"MESH_TLS_CERT": "a/x.crt", "MESH_TLS_KEY": "a/y.key"}, "is not the key of the certificate"),
    ],
)
def test_a_node_whose_own_files_cannot_be_used_does_not_start(
    folder: Path, environ: dict[str, str], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigRefused, match=fault):
        load_settings({}, environ)
    assert load_settings({}, {"MESH_TLS_CERT": "a/x.pem"}).tls == TlsFiles(cert=str(folder / "a/x.pem"))
