"""What operators see of traffic: every promised metric, balanced calls, a line with the word MCP for each request."""

import re

import orjson
import pytest

from tests.e2e.meshes import SharedMesh
from tests.e2e.processes import ROOT
from tests.e2e.running import ERAS
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

CALLS = 64
# A node whose link is suspect for a moment, for a busy machine was late with two probes, gets none of a crowd.
CROWDS_MAX = 3
# Longer than what the hexadecimal IDs of a log may hold by chance.
CANARY = 4_242_424_242_424_242


def promised_metrics() -> set[str]:
    """The names in the metrics page and in the README."""
    pages = [ROOT / "docs" / "metrics.md", ROOT / "README.md"]
    return {name for page in pages for name in re.findall(r"\bmesh_[a-z_]+\b", page.read_text("utf-8"))}


async def test_every_promised_metric_is_there_after_traffic_and_no_other(mesh: SharedMesh) -> None:
    async with mesh.plain.client() as client:
        await client.call_tool("kit__add", {"terms": [1]})
    code, text = await mesh.plain.request("GET", "/metrics")
    assert code == 200
    kinds = dict(re.findall(r"^# TYPE (mesh_\w+) (\w+)$", text, re.MULTILINE))
    shown = {name for name in kinds if not name.endswith("_created")}
    assert len(shown) >= 16
    assert shown == promised_metrics()
    assert "process_cpu_seconds_total" in text
    expected = {"mesh_consul_up": 1.0, "mesh_calls_in_flight": 0.0, "mesh_name_conflicts": 0.0}

    async def all_is_well() -> bool:
        found = {name: await mesh.plain.metric(name) for name in expected}
        # A link is suspect for a moment when a busy machine is late with two probes.
        assert (found, await mesh.plain.metric("mesh_links", state="ready")) == (expected, 2)
        return True

    await eventually(all_is_well)


async def test_calls_of_one_tool_are_spread_over_the_nodes_that_have_it_and_are_counted(mesh: SharedMesh) -> None:
    async def counted(backend: str) -> float:
        return await mesh.plain.metric("mesh_calls_total", backend=backend, outcome="ok", tool="dice__roll") or 0

    async with mesh.plain.client() as client:
        for _ in range(CROWDS_MAX):
            before = {backend: await counted(backend) for backend in ("peer:desk", "peer:hall")}
            # At once: the faster one may have all calls that come one by one, but no crowd.
            await all_of(client.call_tool("dice__roll", {}) for _ in range(CALLS))
            grown = {backend: await counted(backend) - known for backend, known in before.items()}
            assert sum(grown.values()) == CALLS
            if min(grown.values()) >= 1:
                break
    assert min(grown.values()) >= 1, grown


@pytest.mark.parametrize("era", ERAS)
async def test_each_request_is_one_line_with_the_word_mcp(mesh: SharedMesh, era: str) -> None:
    async with mesh.plain.client(era) as client:
        before = len(mesh.plain.events("MCP request"))
        await client.list_tools()
        await client.call_tool("kit__add", {"terms": [CANARY]})
        await client.list_prompts()

    async def all_logged() -> bool:
        # The line is written when the answer is, and read here from a file.
        asked = [(line["method"], line["mcp_name"]) for line in mesh.plain.events("MCP request")[before:]]
        # Peers' links list and probe as they like; only this test calls.
        assert [entry for entry in asked if entry[0] == "tools/call"] == [("tools/call", "kit__add")]
        assert {("tools/list", None), ("prompts/list", None)} <= set(asked)
        return True

    await eventually(all_logged)
    assert str(CANARY) not in mesh.plain.log()


async def test_every_line_of_a_log_is_one_json_object_with_time_level_and_event(mesh: SharedMesh) -> None:
    for node in mesh.nodes:
        *lines, partial = node.log().split("\n")  # It goes on writing.
        assert not partial or node.process.returncode is None
        records = [orjson.loads(line) for line in lines]
        assert all({"time", "level", "logger", "event"} <= record.keys() for record in records)
        assert [record for record in records if record["level"] in ("error", "critical")] == []
