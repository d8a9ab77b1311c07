"""What a client ended (DELETE) at one node has ended at all nodes of the mesh, though any of them can read its ID."""

from pathlib import Path

import pytest

from agent.client.protocol import Request
from agent.config.values import StaticPeer
from agent.errors import RpcError
from agent.model import Era
from tests.integration.servers.nodes import RunningNode, client, running_node
from tests.integration.servers.raw_session import RawSession, raw_session, request
from tests.ports import free_port
from tests.waiting import eventually


async def _pinged(session: RawSession, node: RunningNode) -> int:
    async with session.http.post(node.url, json=request("ping"), headers=session.headers) as response:
        return int(response.status)


async def _ended_at(session: RawSession, node: RunningNode) -> int:
    async with session.http.delete(node.url, headers=session.headers) as response:
        return int(response.status)


async def test_a_session_that_its_client_ended_ends_at_other_nodes_and_at_one_that_is_linked_later(
    tmp_path: Path,
) -> None:
    later = free_port()
    statics = [StaticPeer("three", f"http://127.0.0.1:{later}/mcp")]
    async with (
        running_node("two", tmp_path / "two") as two,
        running_node("one", tmp_path / "one", statics=statics) as one,
        raw_session(one.url) as ended,
        raw_session(one.url) as kept,
    ):
        assert [await _pinged(ended, two), await _pinged(kept, two)] == [200, 200]  # Both are adopted there.
        await one.add_peer("two", two.url)
        await one.connected("two")
        assert await _ended_at(ended, one) == 200

        async def ends_there() -> bool:
            return bool(two.endpoints[0].sessions.count == 1)

        await eventually(ends_there)
        assert [await _pinged(ended, two), await _pinged(kept, two)] == [404, 200]
        async with running_node("three", tmp_path / "three", port=later) as three:

            async def has_heard() -> bool:
                return (tmp_path / "three" / "ended_sessions").exists()

            await eventually(has_heard)
            assert [await _pinged(ended, three), await _pinged(kept, three)] == [404, 200]


async def test_ended_sessions_are_taken_from_nodes_alone(tmp_path: Path) -> None:
    async with running_node("one", tmp_path) as node, raw_session(node.url) as mcp:
        told = {"event": "deleted", "sessions": [[mcp.headers["Mcp-Session-Id"], 9_999_999_999]]}
        async with client(node.url, Era.MODERN) as other:
            with pytest.raises(RpcError, match="endpoint of nodes"):
                await other.request(Request.within("mesh-agent/client", told, timeout_s=5.0))
        assert await _pinged(mcp, node) == 200
