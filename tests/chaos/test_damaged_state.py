"""Files of a real node's state are damaged, one at a time: the node refuses to start, or goes on without, and says so.

The one rule: what only an operator can replace is never guessed at, and no damaged file is written over.
"""

import asyncio
from pathlib import Path

import pytest

from tests.e2e.running import RunningNode, running_nodes, stop_node
from tests.measured import measured

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

DAMAGE = b'\x00{"half'
# The file, and what a node says of it: before it exits, or as it goes on without.
REFUSED = {"node.json": "the node's identity is damaged", "overrides.json": "overrides is damaged at line 1, column 1"}
DONE_WITHOUT = {"names.json": "the names of before are ignored", "pins.json": "pinned definitions put aside"}


async def test_damaged_state_is_refused_with_its_remedy_or_put_aside_and_never_written_over(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with running_nodes() as start:
        node = await start("node", tmp_path, MESH_DISCOVERY="off")
        status, _ = await node.request(
            "POST", "/api/v1/mcp/peers", {"peer_name": "x", "peer_url": "http://127.0.0.1:1"}
        )
        assert status == 202
        assert await stop_node(node) == 0
        for name, said in REFUSED.items():
            whole = await asyncio.to_thread((state / name).read_bytes)
            (state / name).write_bytes(DAMAGE)
            with pytest.raises(RuntimeError, match=rf"exited with 2:(?s:.*){said}(?s:.*)move it away"):
                await start(node)
            assert (state / name).read_bytes() == DAMAGE
            (state / name).write_bytes(whole)
        for name in DONE_WITHOUT:
            (state / name).write_bytes(DAMAGE)
        node = await start(node)
        assert set(DONE_WITHOUT.values()) <= events_of(node)
        assert (state / "pins.json.unreadable").read_bytes() == DAMAGE
        assert (await node.peers()).keys() == {"x"}
    measured(f"{len(REFUSED)} files refused with exit code 2, {len(DONE_WITHOUT)} done without")


def events_of(node: RunningNode) -> set[str]:
    return {str(line["event"]) for line in node.events()}
