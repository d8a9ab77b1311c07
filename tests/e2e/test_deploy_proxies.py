"""nginx and Caddy in front of a node, by the files of deploy/: a real client, streams, large bodies, the page's login.

The files run as they are, but for what is a machine's own: name, ports, certificate. The one rule: what is replaced is
listed here, so that everything else in them is tested.
"""

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson
import pytest
from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport

from tests.debian_binary import CADDY, NGINX, Program, debian_binary, why_not
from tests.e2e.meshes import RunningKit
from tests.e2e.processes import ROOT
from tests.e2e.running import CLIENT_TIMEOUT_S, ERAS, RunningNode, nodes_below, start_node
from tests.integration.servers.certificates import Authority
from tests.ports import free_port, free_ports
from tests.waiting import eventually, one_pass

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

TOKEN = "a-token-of-the-test"
NAME = "mesh.example.com"
ORIGIN = f"https://{NAME}"
# More than any buffer of a proxy; a request may have 4 MiB.
LARGE_BYTES = 3 << 20


@dataclass(frozen=True)
class Front:
    """A proxy and the node behind it."""

    name: str
    base: str
    folder: Path
    trust: ssl.SSLContext
    node: RunningNode

    def client(self, era: str, **options: Any) -> Client[StreamableHttpTransport]:
        transport = StreamableHttpTransport(f"{self.base}/mesh/mcp", verify=self.trust, auth=TOKEN)
        return Client(transport, mode=era, timeout=CLIENT_TIMEOUT_S, **options)

    def http(self) -> aiohttp.ClientSession:
        """As a browser that knows the proxy by its name, and not the node."""
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self.trust),
            headers={"Host": NAME, "Authorization": f"Bearer {TOKEN}"},
            timeout=aiohttp.ClientTimeout(total=CLIENT_TIMEOUT_S),
        )


async def asked(
    http: aiohttp.ClientSession, method: str, url: str, **options: Any
) -> tuple[int, Mapping[str, str], str]:
    """Status, headers and text of an answer.

    It is read to its end: a connection over TLS that is left before stays open until the proxy has said goodbye, which
    may be later than the end of the test.
    """
    async with http.request(method, url, **options) as response:
        return response.status, response.headers, await response.text()


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    for before, after in pairs:
        assert before in text, before
        text = text.replace(before, after)
    return text


def nginx_command(binary: Path, folder: Path, port: int, node_port: int, issued: Any) -> list[str]:
    kit = replaced(
        (ROOT / "deploy/nginx/mesh.conf").read_text(),
        ("listen 443 ssl http2;", f"listen 127.0.0.1:{port} ssl http2;"),
        ("    listen [::]:443 ssl http2;\n", ""),
        ("server 127.0.0.1:8000;", f"server 127.0.0.1:{node_port};"),
        ("/etc/ssl/mesh/fullchain.pem", str(issued.cert)),
        ("/etc/ssl/mesh/privkey.pem", str(issued.key)),
    )
    (folder / "mesh.conf").write_text(kit)
    temps = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log stderr warn;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temps}include {folder}/mesh.conf;\n}}\n"
    )
    return [str(binary), "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]


def caddy_command(binary: Path, folder: Path, port: int, node_port: int, issued: Any) -> list[str]:
    kit = replaced(
        (ROOT / "deploy/caddy/Caddyfile").read_text(),
        (f"{NAME} {{", f"https://localhost:{port}, https://{NAME}:{port} {{\n\ttls {issued.cert} {issued.key}"),
        ("127.0.0.1:8000", f"127.0.0.1:{node_port}"),
    )
    options = f"{{\n\tadmin off\n\tauto_https off\n\tstorage file_system {folder}/storage\n}}\n"
    (folder / "Caddyfile").write_text(options + kit)
    return [str(binary), "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


PROXIES = {"nginx": (NGINX, nginx_command), "caddy": (CADDY, caddy_command)}


@pytest.fixture(scope="module")
def node(kit: RunningKit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    folder = tmp_path_factory.mktemp("behind-a-proxy")
    settings = {
        "MESH_TOKEN": TOKEN,
        "MESH_ALLOWED_HOSTS": NAME,
        "MESH_CORS_ORIGINS": ORIGIN,
        "MESH_DISCOVERY": "off",
    }
    with nodes_below(folder):
        node = asyncio.run(start_node("inner", folder, servers={"kit": {"url": kit.url}}, **settings))
        asyncio.run(eventually(partial(node.offers, "kit__add")))
        yield node


@pytest.fixture(scope="module", params=PROXIES)
def front(
    request: pytest.FixtureRequest, node: RunningNode, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    program: Program
    program, command = PROXIES[request.param]
    binary = debian_binary(program, fetch=False)
    if binary is None:
        pytest.skip(f"NO {program.name.upper()} ({why_not()}); `python -m tests.debian_binary` fetches one")
    folder, port = tmp_path_factory.mktemp(program.name), free_port()
    authority = Authority(folder / "authority")
    words = command(binary, folder, port, node.port, authority.issue("localhost", NAME))
    log_path = folder / "log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={"HOME": str(folder), "PATH": "/usr/bin:/bin"}
        )
    trust = ssl.create_default_context(cafile=str(authority.ca))
    made = Front(program.name, f"https://localhost:{port}", folder, trust, node)

    async def answers() -> bool:
        assert process.poll() is None, log_path.read_text()
        async with made.http() as http:
            status, _, _ = await asked(http, "GET", f"{made.base}/mesh/readyz")
        return status == 200

    try:
        asyncio.run(eventually(answers))
        yield made
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.parametrize("era", ERAS)
async def test_a_real_client_lists_calls_and_sees_progress(front: Front, era: str) -> None:
    steps: list[float] = []

    async def on_progress(progress: float, _total: float | None, _message: str | None) -> None:
        steps.append(progress)

    async with front.client(era, progress_handler=on_progress) as client:
        assert {tool.name for tool in await client.list_tools()} >= {"kit__add", "kit__count"}
        assert (await client.call_tool("kit__add", {"terms": [20, 22]})).structured_content["total"] == 42
        assert (await client.call_tool("kit__count", {"to": 3})).data == "counted"
    assert steps == [1, 2, 3]


async def test_large_arguments_and_large_results_pass_whole(front: Front) -> None:
    label = "0123456789abcdef" * (LARGE_BYTES // 16)
    async with front.client("auto") as client:
        result = await client.call_tool("kit__plant", {"tree": {"label": label}})
        assert result.structured_content["label"] == label


async def test_a_stream_shows_a_change_while_it_is_open(front: Front) -> None:
    peer, port = f"added-through-{front.name}", free_ports(1)[0]
    async with front.http() as http, http.get(f"{front.base}/mesh/api/v1/mcp/events") as stream:
        assert stream.status == 200
        assert (await next_event(stream))["first"] is True
        body = {"peer_name": peer, "peer_url": f"http://127.0.0.1:{port}/mcp"}
        status, _, said = await asked(http, "POST", f"{front.base}/mesh/api/v1/mcp/peers", json=body)
        assert status in (201, 202), said
        while all(link["name"] != peer for link in (await next_event(stream)).get("links", ())):
            pass
        # As `asked`, but it has no end.
        assert stream.connection is not None
        assert stream.connection.transport is not None
        stream.connection.transport.abort()
    await one_pass()


async def next_event(stream: aiohttp.ClientResponse) -> dict[str, Any]:
    while not (line := await stream.content.readline()).startswith(b"data: "):
        assert line, "the stream has ended"
    event: dict[str, Any] = orjson.loads(line.removeprefix(b"data: "))
    return event


async def test_the_page_works_below_the_prefix_and_its_login_is_for_https_alone(front: Front) -> None:
    async with front.http() as http:
        for path in ("", "ui/page.js", "ui/style.css"):
            status, told, _ = await asked(http, "GET", f"{front.base}/mesh/{path}")
            assert status == 200, path
            assert told["Strict-Transport-Security"]
        login, headers = f"{front.base}/mesh/ui/login", {"Origin": ORIGIN, "Mesh-Page": "1"}
        status, told, said = await asked(http, "POST", login, headers=headers)
        assert status == 200, said
        cookie = told["Set-Cookie"]
        assert {part.strip().lower() for part in cookie.split(";")} >= {"secure", "httponly", "samesite=strict"}
        status, _, _ = await asked(http, "POST", login, headers=headers | {"Origin": "https://other"})
        assert status == 403


async def test_only_what_is_below_the_prefix_is_reached_and_nothing_without_a_token(front: Front) -> None:
    async with front.http() as http:
        for path in ("/mcp", "/api/v1/mcp/status", "/metrics"):
            status, _, _ = await asked(http, "GET", front.base + path)
            assert status == 404
        for path in ("mcp/server-card.json", "ai-catalog.json"):
            status, _, _ = await asked(http, "GET", f"{front.base}/.well-known/{path}")
            assert status == 200, path
        _, _, said = await asked(http, "GET", f"{front.base}/.well-known/oauth-protected-resource/mesh/mcp")
        assert "no OAuth" in said
        wrong = {"Authorization": "Bearer no"}
        status, _, _ = await asked(http, "GET", f"{front.base}/mesh/api/v1/mcp/status", headers=wrong)
        assert status == 401
    # The node answers and closes with most of it unread; a proxy that still writes may meet the end first.
    assert await asyncio.to_thread(status_of_a_large_body, front) in (413, 502, None)


def status_of_a_large_body(front: Front) -> int | None:
    """By a client that closes its connection at once, sent or not; None where the proxy has closed it before."""
    connection = HTTPSConnection(urlsplit(front.base).netloc, context=front.trust, timeout=CLIENT_TIMEOUT_S)
    headers = {"Host": NAME, "Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    headers["Accept"] = "application/json, text/event-stream"
    with contextlib.closing(connection), contextlib.suppress(ConnectionError, ssl.SSLError):
        connection.request("POST", "/mesh/mcp", body=bytes(6 << 20), headers=headers)
        return connection.getresponse().status
    return None
