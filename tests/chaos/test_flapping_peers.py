"""A peer whose connections keep breaking is held down, and clients see few changed lists.

A real node behind a proxy that cuts it off once it is linked, and then lets it be dialled again. The one rule: while it
is held down, neither calls nor its own dials bring it back.
"""

import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent.links.state import FLAPS_MIN, HOLD_DOWN
from tests.chaos.fault_proxy import Weather, fault_proxy
from tests.e2e.by_hand import modern_answer
from tests.e2e.running import RunningNode, running_nodes
from tests.e2e.servers_files import example
from tests.measured import measured
from tests.ports import free_port
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

# Several times as long as calls and the peer's own dials would take to have it dialled.
CALLED_FOR_S = 3.0


async def test_a_peer_that_flaps_is_held_down_whatever_calls_it_and_lists_stay_as_they_are_meanwhile(
    tmp_path: Path,
) -> None:
    ports = {name: free_port() for name in ("front", "peer")}
    settings = {"MESH_DISCOVERY": "off", "MESH_ALLOWED_HOSTS": "127.0.0.1"}
    async with fault_proxy(ports["peer"]) as proxy, running_nodes() as start:
        peers = {"MESH_PEERS": f"peer=http://127.0.0.1:{proxy.port}/mcp"}
        # It dials the front as well, which is a reason to dial it.
        back = {"MESH_PEERS": f"front=http://127.0.0.1:{ports['front']}/mcp"}
        front, peer = await all_of(
            [
                start("front", tmp_path / "front", port=ports["front"], **peers, **settings),
                start(
                    "peer", tmp_path / "peer", port=ports["peer"], servers={"d": example("dice")}, **back, **settings
                ),
            ]
        )
        began_s = time.monotonic()
        for _ in range(FLAPS_MIN):
            # Its tools are listed for a moment longer than its session lasts, so they alone tell of no other one.
            await eventually(partial(is_linked, front))
            await eventually(partial(front.offers, "peer__d__roll"))
            proxy.set(Weather(listens=False))
            cut_s = time.monotonic()
            await eventually(partial(is_down, front))
            proxy.set(Weather())
        took_s, asked_s = time.monotonic() - began_s, time.monotonic()
        held = await eventually(partial(waiting_peer, front))
        # However long it took to ask for that.
        assert held["next_attempt_s"] + time.monotonic() - cut_s >= HOLD_DOWN.first_s, held
        assert f"held down for {HOLD_DOWN.first_s:g} s, as {FLAPS_MIN} connections in a row" in held["last_error"]
        # What a machine says that is slower than that, is of later.
        held_until_s, called, notices = asked_s + held["next_attempt_s"], 0, None
        while time.monotonic() < min(held_until_s, began_s + took_s + CALLED_FOR_S):
            answer = await modern_answer(front.url, "tools/call", {"name": "peer__d__roll", "arguments": {}})
            # The last notice comes a quarter of a second late; each of these calls waits longer for the peer.
            notices = notices or await front.metric("mesh_list_changes_total", kind="tools")
            shown, later = (await front.peers())["peer"], await front.metric("mesh_list_changes_total", kind="tools")
            if time.monotonic() < held_until_s:
                assert answer["error"]["data"]["outcome"] == "not_executed", answer
                assert "held down for" in answer["error"]["message"]
                assert (shown["connected"], shown["attempts"]) == (False, held["attempts"])
                assert later == notices is not None
                called += 1
        await eventually(partial(peer.sees, "front"))
    measured(
        f"{FLAPS_MIN} sessions in {took_s:.1f} s, then held down for {held['next_attempt_s']:.1f} s "
        f"in spite of {called} calls"
    )


async def waiting_peer(node: RunningNode) -> dict[str, Any]:
    """The peer, once it is said when it is dialled next: after what the link held has been closed."""
    peer = (await node.peers())["peer"]
    assert peer["next_attempt_s"] is not None, peer
    return peer


async def is_linked(node: RunningNode) -> bool:
    return bool((await node.peers())["peer"]["connected"])


async def is_down(node: RunningNode) -> bool:
    return not await is_linked(node)
