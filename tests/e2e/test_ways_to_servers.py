"""A real node and servers that are hard to reach: by a proxy, an authority of their own, the old transport."""

from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.running import StartNode
from tests.integration.servers.certificates import Authority
from tests.integration.servers.forward_proxy import forward_proxy
from tests.integration.servers.hosting import http_app, serving
from tests.integration.servers.sse_hosting import sse_served
from tests.integration.test_http_sse_servers import kit
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


async def test_settings_and_environment_lead_a_node_to_every_server_of_its_file(
    start: StartNode, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "tls")
    issued = authority.issue("kit.example")
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(sse_served(kit()))
        plain = await stack.enter_async_context(serving(await stack.enter_async_context(http_app(kit()))))
        by_tls = await stack.enter_async_context(serving(await stack.enter_async_context(http_app(kit())), issued.both))
        places = {"kit.example": urlsplit(plain).port or 0, "kit.example:8443": urlsplit(by_tls).port or 0}
        proxy = await stack.enter_async_context(forward_proxy(places, "me:canary"))
        servers = {
            "proxied": {"url": "http://kit.example/mcp"},
            "secured": {"url": "https://kit.example:8443/mcp"},
            "old": {"type": "sse", "url": old},
            "direct": {"url": f"{plain}/mcp"},
        }
        node = await start(
            "owner",
            tmp_path / "owner",
            servers=servers,
            MESH_DISCOVERY="off",
            MESH_TLS_CA=str(authority.ca),
            HTTP_PROXY=proxy.url,
            https_proxy=proxy.url,
        )
        await eventually(partial(node.offers, *(f"{name}__echo" for name in servers)))
        async with node.client() as client:
            for name in servers:
                called = await client.call_tool(f"{name}__echo", {"word": name})
                assert called.content[0].text == name
        assert {line.split(" ")[1] for line in proxy.asked} == {"http://kit.example/mcp", "kit.example:8443"}
        assert "canary" not in node.log_path.read_text()
