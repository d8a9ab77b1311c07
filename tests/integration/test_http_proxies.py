"""Servers that are reached through a proxy alone: by name, by TLS, with a password; and what never goes that way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from agent.client.connect import open_client
from agent.client.http.dial import DialFailed, Dialler
from agent.client.outbound import Outbound
from agent.client.proxies import Proxy, proxies_of
from agent.errors import DialRefused, LinkFailed, ProtocolBroken, Unreachable
from agent.links.dial import Dialling, opened
from agent.model import Era, HttpTarget, HttpTransport, NodeIdentity, PeerSource, PeerSpec, TlsFiles
from tests.integration.servers.certificates import Authority
from tests.integration.servers.forward_proxy import ForwardProxy, forward_proxy
from tests.integration.servers.hosting import Front, serving
from tests.integration.servers.sse_hosting import sse_served
from tests.integration.test_http_sse_servers import call, kit, said
from tests.ports import free_port
from tests.waiting import UNREPAIRED_S

OWN = NodeIdentity("0" * 32, "n")


def port_of(url: str) -> int:
    return urlsplit(url).port or 0


def through(proxy: ForwardProxy, **more: str) -> Outbound:
    return Outbound(proxies=proxies_of({"HTTP_PROXY": proxy.url, "HTTPS_PROXY": proxy.url, **more}))


@asynccontextmanager
async def kit_served(*, modern: bool = True, certificate: Path | None = None) -> AsyncIterator[tuple[int, Front]]:
    """The port of a server, and what it saw."""
    app = kit().http_app()
    async with app.router.lifespan_context(app):
        front = Front(app, None if modern else 400)
        async with serving(front, certificate) as base:
            yield port_of(base), front


@pytest.mark.parametrize("era", list(Era))
async def test_a_name_that_only_the_proxy_knows_is_reached_through_it(era: Era) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(UNREPAIRED_S))
        port, front = await stack.enter_async_context(kit_served(modern=era is Era.MODERN))
        proxy = await stack.enter_async_context(forward_proxy({"kit.example": port}))
        target = HttpTarget("http://kit.example/mcp")
        client = await stack.enter_async_context(open_client(target, outbound=through(proxy)))
        assert client.server_info.era is era
        assert said(await client.request(call("echo", word="here"))) == "here"
        assert {line for line in proxy.asked if line.startswith("POST")} == {"POST http://kit.example/mcp HTTP/1.1"}
        assert {one["host"] for one in front.seen} == {"kit.example"}
        assert not any(name.startswith("proxy-") for one in front.seen for name in one)


async def test_a_server_by_tls_is_reached_through_a_tunnel_and_checked_by_its_own_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with AsyncExitStack() as stack:
        issued = authority.issue("kit.example")
        port, front = await stack.enter_async_context(kit_served(certificate=issued.both))
        places = {"kit.example:443": port, "other.example:8443": port}
        proxy = await stack.enter_async_context(forward_proxy(places, "me:canary"))
        tls = TlsFiles(ca=str(authority.ca))
        async with open_client(HttpTarget("https://kit.example/mcp", tls=tls), outbound=through(proxy)) as client:
            assert said(await client.request(call("echo", word="here"))) == "here"
        assert set(proxy.asked) == {"CONNECT kit.example:443 HTTP/1.1"}
        assert not any(name.startswith("proxy-") for one in front.seen for name in one)
        with pytest.raises(LinkFailed, match=r"TLS certificate that is refused: Hostname mismatch.*other\.example"):
            async with open_client(HttpTarget("https://other.example:8443/mcp", tls=tls), outbound=through(proxy)):
                pass


async def test_the_old_transport_goes_through_a_proxy_as_well() -> None:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(sse_served(kit()))
        proxy = await stack.enter_async_context(forward_proxy({"kit.example": port_of(url)}))
        target = HttpTarget("http://kit.example/sse", transport=HttpTransport.SSE)
        client = await stack.enter_async_context(open_client(target, outbound=through(proxy)))
        assert said(await client.request(call("echo", word="here"))) == "here"


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_wants_a_password_says_so_and_the_wrong_one_is_shown_nowhere(scheme: str) -> None:
    async with forward_proxy({}, "me:right") as proxy:
        wrong = proxy.url.replace("right", "canary")
        outbound = Outbound(proxies=proxies_of({f"{scheme}_proxy": wrong}))
        with pytest.raises(LinkFailed, match="407") as caught:
            async with open_client(HttpTarget(f"{scheme}://kit.example/mcp"), outbound=outbound):
                pass
        assert "user and password" in str(caught.value) or "user and a password" in str(caught.value)
        assert "canary" not in str(caught.value)
        assert proxy.refused


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_host_that_the_proxy_does_not_know_is_an_outage_of_that_server(scheme: str) -> None:
    async with forward_proxy({}) as proxy:
        with pytest.raises(Unreachable, match="HTTP 502"):
            async with open_client(HttpTarget(f"{scheme}://nowhere.example/mcp"), outbound=through(proxy)):
                pass


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_is_down_is_named_with_its_variable(scheme: str) -> None:
    port = free_port()
    outbound = Outbound(proxies=proxies_of({f"{scheme}_proxy": f"http://me:canary@127.0.0.1:{port}"}))
    words = rf"cannot be reached through its proxy: 127\.0\.0\.1:{port} \({scheme}_proxy\) refuses the connection"
    with pytest.raises(Unreachable, match=words):
        async with open_client(HttpTarget(f"{scheme}://kit.example/mcp"), outbound=outbound):
            pass


async def test_a_bad_proxy_is_an_error_of_the_servers_behind_it_and_of_no_other() -> None:
    outbound = Outbound(proxies=proxies_of({"HTTP_PROXY": "socks5://me:canary@p:1080", "NO_PROXY": "no.example"}))
    with pytest.raises(
        ProtocolBroken, match="would be reached through a proxy, but HTTP_PROXY names a proxy of scheme"
    ):
        async with open_client(HttpTarget("http://kit.example/mcp"), outbound=outbound):
            pass
    async with kit_served() as (port, _), open_client(HttpTarget(f"http://127.0.0.1:{port}/mcp"), outbound=outbound):
        pass


async def test_this_machine_and_the_exceptions_are_dialled_directly() -> None:
    async with kit_served() as (port, _), forward_proxy({}) as proxy:
        for host in ("127.0.0.1", "localhost"):
            async with open_client(HttpTarget(f"http://{host}:{port}/mcp"), outbound=through(proxy)):
                pass
        with pytest.raises(Unreachable, match="cannot be resolved"):
            async with open_client(HttpTarget("http://no.invalid/mcp"), outbound=through(proxy, NO_PROXY=".invalid")):
                pass
        assert not proxy.asked


async def test_peers_go_through_a_proxy_only_where_the_settings_say_so_and_by_names_known_here() -> None:
    peer = PeerSpec("p", HttpTarget("http://kit.invalid/mcp"), PeerSource.STATIC)
    async with kit_served() as (port, _), forward_proxy({"kit.invalid": port, "192.0.2.7": port}) as proxy:
        outbound = through(proxy)
        for proxied in (outbound, Outbound(proxies=outbound.proxies, proxies_for_peers=True)):
            with pytest.raises(Unreachable, match="has a host name that cannot be resolved"):
                async with AsyncExitStack() as stack:
                    await opened(stack, peer, OWN, dialling=Dialling(outbound=proxied))
        assert not proxy.asked
        by_address = PeerSpec("p", HttpTarget("http://192.0.2.7/mcp"), PeerSource.STATIC)
        by_proxy = Outbound(proxies=outbound.proxies, proxies_for_peers=True)
        async with AsyncExitStack() as stack:
            await opened(stack, by_address, OWN, dialling=Dialling(outbound=by_proxy))
        assert proxy.asked


class Leading(AbstractResolver):
    """Names lead to what a test says."""

    def __init__(self, **places: str) -> None:
        self.places = places

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:  # noqa: ARG002 - as the base has it
        if host not in self.places:
            raise OSError(f"no such name: {host}")
        address = self.places[host]
        return [{"hostname": host, "host": address, "port": port, "family": 2, "proto": 6, "flags": 0}]

    async def close(self) -> None:
        """Nothing to close."""


@pytest.mark.parametrize(
    ("places", "judges_name", "failure"),
    [
        ({"proxy": "169.254.169.254"}, False, DialRefused),
        ({"proxy": "127.0.0.1", "evil": "169.254.169.254"}, True, DialRefused),
        ({"proxy": "127.0.0.1"}, True, DialFailed),
        ({"evil": "127.0.0.1"}, False, DialFailed),
    ],
    ids=["proxy at a forbidden address", "peer at one", "peer unknown here", "proxy unknown"],
)
async def test_the_dial_guard_judges_the_proxy_and_the_names_of_peers(
    places: dict[str, str], judges_name: bool, failure: type[Exception]
) -> None:
    proxy = Proxy("proxy", 3128, "HTTPS_PROXY")
    dialler = Dialler(
        "evil", 443, tls=True, timeout_s=5, resolver=Leading(**places), proxy=proxy, judges_name=judges_name
    )
    with pytest.raises(failure):
        await dialler.dial(asyncio.Protocol)


async def test_a_literal_address_that_is_forbidden_is_so_through_a_proxy_too() -> None:
    async with forward_proxy({}) as proxy:
        with pytest.raises(DialRefused, match="metadata"):
            async with open_client(HttpTarget("http://169.254.169.254/mcp"), outbound=through(proxy)):
                pass
        assert not proxy.asked
