"""The mesh in a conversation: `show_mesh` and its page in ext-apps' own bridge, in Chromium.

The host is tests/outside/clients/browser_page.mjs: the TypeScript SDK's client and the bridge of ext-apps, as they are.
"""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Frame, Page, expect

from tests.browser.patience import TIMEOUT_S
from tests.conformance.node_tools import NodeTools, node_tools, why_not
from tests.e2e.processes import ROOT, environment_of, spawn
from tests.e2e.running import RunningNode, nodes_below, start_node
from tests.e2e.servers_files import example
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(TIMEOUT_S)]
HOST_PAGE = ROOT / "tests" / "outside" / "clients" / "browser_page.mjs"
WITHIN_MS = 45_000
BUNDLED_WITHIN_S = 120.0
DRAWN = """(() => {
  const canvas = document.getElementById("picture");
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const green = (at) => pixels[at + 1] > pixels[at] + 40 && pixels[at + 1] > pixels[at + 2];
  return pixels.some((_, at) => at % 4 === 0 && green(at));
})()"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningNode, RunningNode]]:
    """A node named front with a server that is there and one that is not, and its peer named back."""
    folder = tmp_path_factory.mktemp("app")
    dead = {"url": f"http://127.0.0.1:{free_port()}/mcp"}

    async def start() -> tuple[RunningNode, RunningNode]:
        mesh = {"MESH_DISCOVERY": "embedded", "MESH_EMBEDDED_PORT": str(free_port())}
        node = await start_node("front", folder / "front", servers={"notes": example("notes"), "dead": dead}, **mesh)
        back = await start_node("back", folder / "back", servers={"sums": example("calculator")}, **mesh)

        async def linked() -> bool:
            return (await node.peers()).get("back", {}).get("connected") is True

        await eventually(linked)
        return node, back

    with nodes_below(folder):
        yield asyncio.run(start())


@pytest.fixture(scope="module")
def host_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the host's page is served: by a process of its own, as browsers keep connections that no test ends."""
    tools = node_tools()
    if tools is None:
        pytest.skip(f"NO NODE PROGRAMS ({why_not()}), the MCP App was not tried in ext-apps' bridge")
    folder = tmp_path_factory.mktemp("host")
    bundle(tools, folder)
    (folder / "index.html").write_text("<body><script src=/host.js></script>")
    port = free_port()
    server = spawn(
        ("http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)),
        folder / "server.log",
        environment_of({}),
    )

    async def serves() -> bool:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        return True

    asyncio.run(eventually(serves))
    yield f"http://127.0.0.1:{port}/"
    server.send_signal(signal.SIGKILL)
    asyncio.run(server.wait())


def bundle(tools: NodeTools, folder: Path) -> None:
    """Write the host's page as one script, `host.js`."""
    (folder / "node_modules").symlink_to(tools.modules)
    (folder / HOST_PAGE.name).write_bytes(HOST_PAGE.read_bytes())
    bundler = [str(tools.node), str(tools.modules / "rolldown" / "bin" / "cli.mjs"), HOST_PAGE.name]
    options = ["--format", "iife", "--platform", "browser", "--file", "host.js"]
    subprocess.run([*bundler, *options], cwd=folder, check=True, capture_output=True, timeout=BUNDLED_WITHIN_S)


async def shown(browser: Browser, host_url: str, node: RunningNode, arguments: dict[str, str]) -> tuple[Page, Frame]:
    """A host's page that shows what `show_mesh` with these arguments came to, and the frame of the app."""
    page = await browser.new_page(viewport={"width": 920, "height": 460})
    wanted = {"url": node.url, "prefix": "", "tool": "show_mesh", "input": arguments}
    await page.goto(f"{host_url}#{quote(json.dumps(wanted))}")
    await page.wait_for_function("window.stage", timeout=WITHIN_MS)
    assert await page.evaluate("window.stage") == "shown"
    return page, next(frame for frame in page.frames if frame is not page.main_frame)


async def titled(app: Frame, begins: str) -> None:
    """Wait until the app's title begins so."""
    script = "(begins) => document.getElementById('title').textContent.startsWith(begins)"
    await app.wait_for_function(script, arg=begins, timeout=WITHIN_MS)


async def test_the_picture_is_drawn_in_the_host_and_keeps_up_to_date(
    browser: Browser, mesh: tuple[RunningNode, RunningNode], host_url: str
) -> None:
    page, app = await shown(browser, host_url, mesh[0], {})
    await titled(app, "front is healthy")
    away = await app.locator("#away").inner_text()
    assert "server dead" in away
    assert "127.0.0.1" not in away, "addresses are for operators"
    assert await app.evaluate(DRAWN)
    results = await Axe().run(app, options={"resultTypes": ["violations"]})
    assert [found["id"] for found in results.response["violations"]] == []
    if picture := os.environ.get("PAGE_PICTURES"):
        await page.screenshot(path=Path(picture) / "app.png")
    await page.wait_for_function("window.called.length >= 2", timeout=WITHIN_MS)
    assert set(await page.evaluate("window.called")) == {"show_mesh"}
    await page.close()


async def test_another_node_is_shown_through_this_one_and_is_faint_once_it_is_away(
    browser: Browser, mesh: tuple[RunningNode, RunningNode], host_url: str
) -> None:
    front, back = mesh
    page, app = await shown(browser, host_url, front, {"node": "back"})
    await titled(app, "back is healthy")
    back.process.send_signal(signal.SIGKILL)
    await expect(app.locator("#said")).to_contain_text(
        "Not up to date: Node 'back' is not connected", timeout=WITHIN_MS
    )
    await expect(app.locator("#picture")).to_have_class("old")
    await page.close()
