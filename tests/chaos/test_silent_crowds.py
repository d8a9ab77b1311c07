"""Most peers of a node fall silent at once: the node doubts itself, and removes none of them.

Peers in one process, which is stopped and goes on, and three real nodes: one has many of them, one a few, one a single
one. The one rule: the node with one shows that the silence was long enough.
"""

import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.stub_peers import TOOL, links, listed, stub_peers
from tests.e2e.by_hand import modern_answer
from tests.e2e.running import RunningNode, running_nodes
from tests.measured import measured
from tests.ports import free_ports
from tests.processor_time import Stopwatch
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

MANY = 20
# By the name of the node that has them.
COUNTS = {"many": MANY, "few": 3, "lone": 1}
# Longer than a hung peer takes to be down, probed in its turn; a call without an answer has it probed at once.
SILENT_S = 13.0
CALL_TIMEOUT_S = 6.0
# Calls of the moment when all is heard again, all at once.
ANSWERED_WITHIN_S = 3.0
SEEN_WITHIN_S = 12.0
BACK_WITHIN_S = 15.0


async def test_when_most_peers_are_silent_at_once_a_node_doubts_itself_and_ends_no_link(tmp_path: Path) -> None:
    ports = free_ports(MANY)
    common = {"MESH_DISCOVERY": "off", "MESH_CALL_TIMEOUT_S": str(CALL_TIMEOUT_S)}

    def peers_of(name: str, count: int) -> dict[str, str]:
        return {**common, "MESH_PEER_FILES": str(listed(tmp_path / f"{name}.json", ports[:count]))}

    async with stub_peers(tmp_path, ports) as stubs, running_nodes() as start:
        nodes = await all_of(start(name, tmp_path / name, **peers_of(name, count)) for name, count in COUNTS.items())
        many, few, lone = nodes
        for node in nodes:
            await eventually(partial(has_ready, node, COUNTS[node.name]))
        stubs.send_signal(signal.SIGSTOP)
        began_s = time.monotonic()
        try:
            failed = await all_of(call(node, number) for node in nodes for number in range(COUNTS[node.name]))
            assert all("error" in answer for answer in failed)
            await Stopwatch(lone.process.pid).until(partial(has_ready, lone, 0), SEEN_WITHIN_S)
            await eventually(partial(has_lasted, began_s, SILENT_S))
            for node in (many, few):
                assert await has_ready(node, COUNTS[node.name])
        finally:
            silent_s = time.monotonic() - began_s
            stubs.send_signal(signal.SIGCONT)
        heard_s, watch = time.monotonic(), Stopwatch(stubs.pid, *(node.process.pid for node in nodes))
        answers = await all_of(call(node, number) for node in (many, few) for number in range(COUNTS[node.name]))
        answered_s = watch()
        measured(f"{len(answers)} calls at once after it were answered within {time.monotonic() - heard_s:.2f} s")
        assert all("result" in answer for answer in answers)
        assert answered_s < ANSWERED_WITHIN_S
        for node in nodes:
            await watch.until(partial(has_ready, node, COUNTS[node.name]), BACK_WITHIN_S)
        broken = {node.name: len(node.events("MCP link down")) for node in nodes}
        said = ", ".join(f"{broken[name]} of {count}" for name, count in COUNTS.items())
        measured(f"links that broke in {silent_s:.1f} s of silence: {said}")
        assert broken == {"many": 0, "few": 0, "lone": 1}


async def call(node: RunningNode, number: int) -> dict[str, Any]:
    arguments = {"node": f"n{number}", "text": "x"}
    return await modern_answer(node.url, "tools/call", {"name": TOOL, "arguments": arguments})


async def has_lasted(since_s: float, seconds: float) -> bool:
    return time.monotonic() - since_s >= seconds


async def has_ready(node: RunningNode, count: int) -> bool:
    found = await links(node)
    assert found.get("ready", 0) + found.get("suspect", 0) == count, found
    return True
