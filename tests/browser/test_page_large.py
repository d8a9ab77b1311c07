"""The page before a mesh of a thousand peers of which fifty change each second: whether it stays fluid.

The feed and the routes are a node's own; only the links that they look at are made up, so that nothing has to be one of
a thousand. The one rule: a bound is on the work of the page itself, which a busy machine stretches least.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
from aiohttp import web
from playwright.async_api import Browser, expect

from agent import clock
from agent.call_history import CallHistory
from agent.model import HttpTarget, LinkState, LinkView, PeerSource, PeerSpec
from agent.page.feed import MeshFeed, Sources
from agent.page.routes import PageRoutes
from agent.rest.logins import Logins
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
PEERS = 1_000
CHANGES = 5
CHANGE_EVERY_S = 0.1
# The first ones make the table and warm the browser up.
FIRST_FRAMES = 4
FRAMES = 8
# Thirty frames a second, less what the browser itself needs to put one on the screen.
FRAME_WORK_MAX_MS = 25.0
WITHIN_MS = 15_000
# How soon a change has to be on the screen, beside what a busy machine adds.
SEEN_WITHIN_MS = 1_000 + 2_000
# How long the page works in each frame in which it draws.
WATCHED = """
  window.work = [];
  const request = window.requestAnimationFrame.bind(window);
  let frame = -1, spent = 0;
  window.requestAnimationFrame = (callback) => request((at) => {
    const began = performance.now();
    callback(at);
    if (at !== frame) { if (frame >= 0) window.work.push(spent); [frame, spent] = [at, 0]; }
    spent += performance.now() - began;
  });
"""


@dataclass
class LargeMesh:
    """Links that change as those of a large mesh do."""

    views: list[LinkView] = field(default_factory=lambda: [_peer(number) for number in range(PEERS)])
    history: CallHistory = field(default_factory=CallHistory)
    turned: int = 0

    def turn(self) -> None:
        """Some links are lost, some come back, and calls go over others."""
        for _ in range(CHANGES):
            index = self.turned * 7 % PEERS
            view = self.views[index]
            lost = {"state": LinkState.BACKOFF, "last_error": "it refuses the connection"}
            now = lost if view.connected else {"state": LinkState.READY, "last_error": ""}
            self.views[index] = replace(view, **now)
            self.history.add(self.views[(index + 1) % PEERS].key, "ok", 0.01)
            self.turned += 1

    @asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        def node() -> dict[str, object]:
            return {"name": "front", "state": "ready", "version": "1", "tools": PEERS}

        feed = MeshFeed(Sources(lambda: self.views, dict, node, dict, self.history))
        app = web.Application()
        app.add_routes(PageRoutes(feed, Logins("front", clock.now_s), is_secure=False).routes())
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with asyncio.TaskGroup() as tasks:
            looking = [tasks.create_task(feed.run(), name="feed"), tasks.create_task(self._live(), name="mesh")]
            try:
                yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
            finally:
                feed.close()
                for task in looking:
                    task.cancel()
                await runner.cleanup()

    async def _live(self) -> None:
        due_s = clock.now_s()
        while True:
            self.turn()
            due_s += CHANGE_EVERY_S
            await asyncio.sleep(max(0.0, due_s - clock.now_s()))


def _peer(number: int) -> LinkView:
    spec = PeerSpec(f"peer-{number:04}", HttpTarget(f"http://10.0.{number // 250}.1:1/mcp"), PeerSource.DISCOVERY)
    return LinkView(spec, state=LinkState.READY)


async def test_a_thousand_peers_of_which_fifty_change_each_second_stay_fluid(browser: Browser) -> None:
    mesh = LargeMesh()
    async with mesh.served() as url:
        page = await browser.new_page(viewport={"width": 1280, "height": 900})
        await page.add_init_script(WATCHED)
        await page.goto(url)
        await expect(page.locator("#mesh-title")).to_contain_text(f"of {PEERS} links", timeout=WITHIN_MS)
        work_ms: list[float] = []

        async def has_drawn() -> bool:
            work_ms[:] = sorted((await page.evaluate("window.work"))[FIRST_FRAMES:])
            return len(work_ms) >= FRAMES

        await eventually(has_drawn)
        assert work_ms[len(work_ms) // 2] <= FRAME_WORK_MAX_MS, work_ms
        assert await page.locator("#links tr").count() < PEERS, "a table of all would be slow"
        await page.fill("#link-filter", "peer-0999")
        row = page.locator("#links tr", has_text="peer-0999")
        await expect(row).to_have_count(1, timeout=WITHIN_MS)
        mesh.views[999] = replace(mesh.views[999], state=LinkState.BACKOFF, last_error="the disk is full")
        await expect(row).to_contain_text("the disk is full", timeout=SEEN_WITHIN_MS)
        await page.close()
