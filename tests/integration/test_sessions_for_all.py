"""Servers that are to give every client with a session one of its own (mesh.sessions: own), and open none."""

from pathlib import Path

import pytest
from mcp.shared.exceptions import MCPError

from agent.model import Era, Sessions
from tests.integration.servers.answering_client import answering_client
from tests.integration.servers.hops import front_of
from tests.integration.test_dual_era import STATELESS, Human, gated, over_http, words


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_server_that_is_to_have_sessions_for_all_and_opens_none_gets_no_call_of_such_a_client(
    hops: int, tmp_path: Path
) -> None:
    async with (
        gated(400) as (url, gate),
        front_of(tmp_path, over_http(url, sessions=Sessions.OWN), hops=hops) as front,
        answering_client(front.url, Era.LEGACY, Human()) as mcp,
        answering_client(front.url, Era.MODERN, Human()) as stateless,
    ):
        for _ in range(2):
            with pytest.raises(
                MCPError, match=r"opens no sessions, which its entry asks for \(mesh.sessions: own\)"
            ) as no:
                await mcp.call_tool("kit__version", {})
            assert no.value.error.data["outcome"] == "not_executed"
        assert words(await stateless.call_tool("kit__version", {})).startswith(STATELESS)
        assert gate.opened == 1
