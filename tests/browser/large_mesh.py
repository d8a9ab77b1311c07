"""A mesh of a thousand peers for the page: a node's own feed and routes, looking at links that are made up.

Fifty of the links change each second, and calls go over others. Served by tests/browser/test_page_large.py. The one
rule: it changes by its own clock, whatever the page does, but for the last link, which is the test's alone.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from aiohttp import web

from agent import clock
from agent.call_history import CallHistory
from agent.model import HttpTarget, LinkState, LinkView, PeerSource, PeerSpec
from agent.page.feed import MeshFeed, Sources
from agent.page.routes import PageRoutes
from agent.rest.logins import Logins

PEERS = 1_000
LAST = PEERS - 1
CHANGES = 5
CHANGE_EVERY_S = 0.1


@dataclass
class LargeMesh:
    """Links that change as those of a large mesh do."""

    views: list[LinkView] = field(default_factory=lambda: [_peer(number) for number in range(PEERS)])
    history: CallHistory = field(default_factory=CallHistory)
    turned: int = 0

    def turn(self) -> None:
        """Some links are lost, some come back, and calls go over others."""
        for _ in range(CHANGES):
            index = self.turned * 7 % LAST
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
