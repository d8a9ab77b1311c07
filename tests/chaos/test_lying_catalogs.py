"""A Consul whose answers are empty, go back in time or make no sense, under two real nodes that call each other.

It keeps what is registered and beats, and answers what the test says to those that follow the service. The one rule: no
answer that may be a lie takes a peer away, and none is asked for in a busy loop.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from tests.contract.fault_server import FaultServer, serving
from tests.e2e.running import RunningNode, running_nodes
from tests.e2e.servers_files import example
from tests.e2e.steady_calls import steady_calls
from tests.measured import measured
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

NAMES = ("one", "two")
# Of each lie, by both nodes together.
TOLD_MIN = 2
# A follower that is always answered at once asks about twice a second.
ASKED_PER_S_MAX = 20.0


class LyingConsul(FaultServer):
    """Answers with what is registered, or with `lie`."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.index = 100
        self.lie: Callable[[list[Any]], web.Response] | None = None

    def _answer(self, _number: int, _request: web.Request) -> web.Response:
        rows = [
            {
                "Node": {"Node": "n1", "Address": "127.0.0.1", "Datacenter": "dc1"},
                "Service": {name: one.get(name) for name in ("ID", "Port", "Address", "Meta", "Tags")},
                "Checks": [{"Status": "passing"}],
            }
            for one in self.registered.values()
        ]
        return answer(rows, self.index) if self.lie is None else self.lie(rows)


def answer(rows: Any, index: int) -> web.Response:
    headers = {"X-Consul-Index": str(index)}
    return web.Response(body=orjson.dumps(rows), content_type="application/json", headers=headers)


LIES: dict[str, Callable[[list[Any]], web.Response]] = {
    "empty": lambda _: answer([], 101),
    "empty, index 0": lambda _: answer([], 0),
    "empty, index gone back": lambda _: answer([], 7),
    "rows of nothing": lambda rows: answer([{}, None, *({**row, "Service": None} for row in rows)], 102),
    "no JSON": lambda _: web.Response(text="<html>", headers={"X-Consul-Index": "103"}),
}


async def test_no_answer_that_may_be_a_lie_takes_a_peer_away_or_is_asked_for_in_a_busy_loop(tmp_path: Path) -> None:
    consul = LyingConsul()
    async with serving(consul), running_nodes() as start:
        settings = {"CONSUL_HTTP_ADDR": f"127.0.0.1:{consul.port}"}
        one, two = await all_of(
            start(name, tmp_path / name, servers={"dice": example("dice")}, **settings) for name in NAMES
        )
        await eventually(partial(one.sees, "two"))
        await eventually(partial(two.sees, "one"))
        await eventually(partial(one.offers, "two__dice__roll"))
        async with steady_calls(one, "two__dice__roll") as tally:
            began_s, before = time.monotonic(), len(consul.queries)
            for name, consul.lie in LIES.items():
                asked = len(consul.queries)
                await eventually(partial(was_asked, consul, asked + TOLD_MIN))
                for node, other in ((one, "two"), (two, "one")):
                    assert await node.sees(other), name
                await tally.grows(5)
            took_s, asked = time.monotonic() - began_s, len(consul.queries) - before
            consul.lie = None
            consul.index = 200
            await eventually(partial(is_up, one))
        measured(f"{len(LIES)} kinds of lies in {took_s:.1f} s, told {asked} times, took no peer away")
        assert tally.failures == []
        assert asked / took_s < ASKED_PER_S_MAX
        for node, other in ((one, "two"), (two, "one")):
            assert (await node.peers())[other]["reconnects"] == 0


async def was_asked(consul: FaultServer, times: int) -> bool:
    return len(consul.queries) >= times


async def is_up(node: RunningNode) -> bool:
    return bool((await node.discovery())["up"])
