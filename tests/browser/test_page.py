"""The node's page as its users have it: in Chromium, on a node with servers, a peer and tokens."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, expect

from tests.attacks.clients import entry, token_of, write_tokens
from tests.browser.patience import SEEN_WITHIN_S, TIMEOUT_S, seconds_until
from tests.e2e.processes import ROOT
from tests.e2e.running import RunningNode, nodes_below, start_node
from tests.e2e.servers_files import example, replace_file
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(TIMEOUT_S)]
LINKS = 4
FICKLE = {"name": "say", "description": "Say it.", "inputSchema": {"type": "object"}}
TOKEN = "token-of-the-operator-0123456789"
VIEWS = ("mesh", "try", "calls", "events", "trust")


@dataclass
class Mesh:
    """An open node, and a closed one beside it. `tools`: what the server named fickle lists."""

    open: RunningNode
    closed: RunningNode
    tools: Path


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    folder = tmp_path_factory.mktemp("pages")
    # A question of a server with sessions, which the node passes on to a client without one.
    module, old = ["-m", "tests.browser.question_server"], {"protocol": "2025-11-25", "sessions": "own"}
    questions = {"command": sys.executable, "args": module, "cwd": str(ROOT), "mesh": old}
    dead = {"url": f"http://127.0.0.1:{free_port()}/mcp"}
    tools = folder / "fickle.json"
    tools.write_text(json.dumps([FICKLE]))
    fickle = {"command": sys.executable, "args": ["-m", "tests.attacks.fickle_server", str(tools)], "cwd": str(ROOT)}
    servers = {"notes": example("notes", "service"), "questions": questions, "dead": dead, "fickle": fickle}
    tokens = write_tokens(folder / "tokens.json", {"caller": entry("caller", "mcp")})

    async def start() -> Mesh:
        opened = await start_node("front", folder / "open", servers=servers, MESH_DISCOVERY="off")
        settings = {"MESH_DISCOVERY": "off", "MESH_TOKEN": TOKEN, "MESH_TOKENS_FILE": str(tokens)}
        closed = await start_node("vault", folder / "closed", servers={"notes": example("notes")}, **settings)
        # The page lists once, when it is opened.
        await eventually(partial(are_up, opened, "notes", "questions", "fickle"))
        await eventually(partial(are_up, closed, "notes"))
        return Mesh(opened, closed, tools)

    with nodes_below(folder):
        yield asyncio.run(start())


async def are_up(node: RunningNode, *names: str) -> bool:
    servers = await node.servers()
    return all(servers[name]["connected"] for name in names)


async def opened(browser: Browser, node: RunningNode, **options: Any) -> Page:
    """The node's page, which fails the test for any error of its scripts or of the browser's policy."""
    page = await browser.new_page(**options)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda line: faults.append(line.text) if "Content Security Policy" in line.text else None)
    page.on("close", lambda _: faults and pytest.fail("; ".join(faults)))
    await page.goto(f"{node.base}/")
    return page


async def pictured(page: Page, name: str) -> None:
    """Keep a picture for the documents, where PAGE_PICTURES names a folder."""
    if folder := os.environ.get("PAGE_PICTURES"):
        await page.screenshot(path=Path(folder) / f"{name}.png", animations="disabled")


async def chosen(page: Page, name: str) -> None:
    await page.click("#tab-try")
    await page.fill("#search", name)
    await page.locator("#entries button").first.click()


@asynccontextmanager
async def answered(page: Page, method: str) -> AsyncIterator[None]:
    """Order something about peers, and wait until the node has it on its disk, which may be a slow one."""
    async with page.expect_response(lambda one: "/mcp/peers" in one.url and one.request.method == method):
        yield


async def test_the_page_shows_each_link_and_why_one_is_down(browser: Browser, mesh: Mesh) -> None:
    page = await opened(browser, mesh.open)
    rows = page.locator("#links tr")
    await expect(rows).to_have_count(LINKS)
    dead = rows.filter(has_text="dead")
    await expect(dead).to_contain_text("refuses the connection")
    await expect(dead).to_contain_text("next try")
    await expect(rows.filter(has_text="notes")).to_contain_text("ready")
    await expect(page.locator("#mesh-title")).to_contain_text(f"{LINKS - 1} of {LINKS} links connected")
    await pictured(page, "mesh")
    await page.fill("#link-filter", "dead backoff")
    await expect(rows).to_have_count(1)
    await page.close()


async def test_a_change_is_on_the_screen_at_once_and_an_event_tells_of_it(browser: Browser, mesh: Mesh) -> None:
    page = await opened(browser, mesh.open)
    await expect(page.locator("#links tr")).to_have_count(LINKS)
    row = page.locator("#links tr", has_text="elsewhere")
    came_s, went_s = list[float](), list[float]()
    for ending in ("Reset", "Remove"):
        await page.click("#add-peer")
        await page.fill("#peer-name", "elsewhere")
        await page.fill("#peer-url", f"http://127.0.0.1:{free_port()}/mcp")
        async with answered(page, "POST"):
            await page.click("dialog button.main")
        came_s.append(await seconds_until(expect(row).to_contain_text("refuses the connection")))
        async with answered(page, "DELETE"):
            await row.get_by_text(ending).click()
            if ending == "Remove":
                await page.locator("dialog button.main").click()
        went_s.append(await seconds_until(expect(row).to_have_count(0)))
    assert max(min(came_s), min(went_s)) <= SEEN_WITHIN_S, (came_s, went_s)
    await page.click("#tab-events")
    await expect(page.locator("#events li").first).to_contain_text("elsewhere is gone")
    await page.close()


async def test_a_form_made_from_a_schema_calls_a_tool(browser: Browser, mesh: Mesh) -> None:
    page = await opened(browser, mesh.open)
    await chosen(page, "notes__add")
    fields = page.locator("#entry form textarea[required]")
    await expect(fields.first).to_be_visible()
    await page.locator("#entry form button.main").click()
    assert await fields.first.evaluate("one => one.validity.valueMissing")
    for number in range(await fields.count()):
        await fields.nth(number).fill("from the page")
    await page.locator("#entry form button.main").click()
    await expect(page.locator("#entry .result h3")).to_contain_text("Answered")
    await pictured(page, "tools")
    await page.close()


async def test_a_question_of_a_server_is_answered_in_the_page(browser: Browser, mesh: Mesh) -> None:
    page = await opened(browser, mesh.open)
    await chosen(page, "questions__favourite")
    await page.locator("#entry form button.main").click()
    await expect(page.locator("dialog")).to_contain_text("Which colour")
    await page.fill("#answer-colour", "blue")
    await page.fill("#answer-count", "3")
    await page.locator("dialog button.main").click()
    await expect(page.locator("#entry .result")).to_contain_text("3 x blue")
    await page.close()


async def test_a_call_shows_its_progress_and_can_be_cancelled_and_an_image_is_one(browser: Browser, mesh: Mesh) -> None:
    page = await opened(browser, mesh.open)
    await chosen(page, "questions__forever")
    await page.locator("#entry form button.main").click()
    await expect(page.locator("#entry .result")).to_contain_text("half of it")
    await page.locator("#entry form").get_by_text("Cancel").click()
    await expect(page.locator("#entry .result")).to_contain_text("Cancelled.")
    await chosen(page, "questions__dot")
    await page.locator("#entry form button.main").click()
    image = page.locator("#entry .result img")
    await expect(image).to_have_count(1)
    assert await image.evaluate("one => one.decode().then(() => one.naturalWidth)") == 1
    await page.close()


async def test_a_changed_definition_shows_its_difference_and_is_approved_and_recorded(
    browser: Browser, mesh: Mesh
) -> None:
    replace_file(mesh.tools, json.dumps([{**FICKLE, "description": "Say what I tell you."}]).encode())
    page = await opened(browser, mesh.open)
    row = page.locator("#links tr", has_text="fickle")
    await row.get_by_text("Reload").click()
    await expect(page.locator("#notes")).to_contain_text("fickle")
    await page.click("#tab-trust")
    await expect(page.locator("#pins li pre")).to_contain_text("Say what I tell you.")
    await pictured(page, "trust")
    await page.locator("#pins").get_by_text("Approve").click()
    await expect(page.locator("#pins-now")).to_contain_text("0 changed")
    await expect(page.locator("#audit tbody tr").first).to_contain_text("definition.approve")
    await page.close()


async def test_what_servers_say_is_text_and_never_markup(browser: Browser, mesh: Mesh) -> None:
    page = await opened(browser, mesh.open)
    await chosen(page, "questions__picture")
    await page.locator("#entry form button.main").click()
    await expect(page.locator("#entry .result")).to_contain_text("onerror")
    assert await page.locator("#entry .result img").count() == 0
    assert "taken" not in await page.title()
    await page.close()


async def test_a_closed_node_shows_nothing_before_its_token_and_keeps_it_from_scripts(
    browser: Browser, mesh: Mesh
) -> None:
    page = await opened(browser, mesh.closed)
    await expect(page.locator("#login")).to_be_visible()
    await expect(page.locator("#view-mesh")).to_be_hidden()
    await page.fill("#token", "not-the-token")
    await page.click("#login-form button")
    await expect(page.locator("#login-fault")).to_contain_text("not valid")
    await page.fill("#token", TOKEN)
    await page.click("#login-form button")
    await expect(page.locator("#links tr")).to_have_count(1)
    [cookie] = await page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert TOKEN not in cookie["value"]
    assert await page.evaluate("document.cookie") == ""
    assert TOKEN not in await page.evaluate("JSON.stringify([localStorage, sessionStorage, location.href])")
    await page.reload()
    await expect(page.locator("#links tr")).to_have_count(1)
    await page.click("#logout")
    await expect(page.locator("#login")).to_be_visible()
    await page.close()


async def test_a_token_for_calls_alone_gets_the_tools_and_reads_what_it_lacks(browser: Browser, mesh: Mesh) -> None:
    page = await opened(browser, mesh.closed)
    await page.fill("#token", token_of("caller"))
    await page.click("#login-form button")
    await expect(page.locator("#node-state")).to_contain_text("read")
    await expect(page.locator("#entries li").first).to_be_visible()
    await expect(page.locator("#tab-mesh")).to_be_hidden()
    await expect(page.locator("#tab-trust")).to_be_visible()
    await page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_no_view_has_a_fault_that_axe_finds(browser: Browser, mesh: Mesh, scheme: str) -> None:
    page = await opened(browser, mesh.open, color_scheme=scheme)
    await expect(page.locator("#links tr")).to_have_count(LINKS)
    for view in VIEWS:
        await page.click(f"#tab-{view}")
        if view == "try":
            await chosen(page, "notes__add")
        results = await Axe().run(page)
        assert results.violations_count == 0, f"{view}: {results.generate_report()}"
    await page.close()


@pytest.mark.parametrize("width", [400, 3840])
async def test_nothing_is_wider_than_the_window(browser: Browser, mesh: Mesh, width: int) -> None:
    page = await opened(browser, mesh.open, viewport={"width": width, "height": 900})
    await expect(page.locator("#links tr")).to_have_count(LINKS)
    for view in VIEWS:
        await page.click(f"#tab-{view}")
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
    await page.close()


async def test_the_keyboard_alone_reaches_a_tool_and_calls_it(browser: Browser, mesh: Mesh) -> None:
    page = await opened(browser, mesh.open)
    await page.focus("#tab-mesh")
    await page.keyboard.press("ArrowRight")
    await expect(page.locator("#entries li").first).to_be_visible()
    await page.focus("#search")
    await page.keyboard.type("list_mcp_servers")
    await expect(page.locator("#entries li")).to_have_count(1)
    for _ in range(2):
        await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.locator("#entry form")).to_be_visible()
    await page.locator("#entry form button.main").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("#entry .result h3")).to_contain_text("Answered")
    await page.close()
