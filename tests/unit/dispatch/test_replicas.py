"""What is remembered of replicas that left the tables for a while and are back."""

from dataclasses import replace

import pytest

from agent.errors import NOT_EXECUTED, RpcError
from agent.model import OWN_ERROR_KEY
from tests.unit.control.fleet import OK, fleet

SAID_NO = RpcError(NOT_EXECUTED, "kit__do was not executed: gone", {"outcome": "not_executed", OWN_ERROR_KEY: True})

pytestmark = pytest.mark.looptime(start=1000.0)


@pytest.mark.parametrize(("missed", "back"), [("kit__do", True), ("kit__other", False)])
async def test_a_node_that_offers_anew_what_it_refused_gets_calls_again(missed: str, *, back: bool) -> None:
    now = fleet(a=[SAID_NO, OK], b=[OK])
    while not now.dispatch.balance().ejected:
        await now.call()
    # Of another tool of that server, the node may never have had it.
    without = replace(now.route, public_name=missed, replicas=now.route.replicas[1:])
    await now.call(route=without)
    for _ in range(100):
        await now.call()
    assert (now.counts()["a"] > 1) is back
