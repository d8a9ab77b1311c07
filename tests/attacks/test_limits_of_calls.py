"""Callers with limits: calls at once, batches, answers that have to pass, and a token that is revoked meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from fastmcp import FastMCP

from agent.config.tokens_file import check_tokens
from agent.model import HttpTarget, ServerScope, ServerSpec
from agent.rest.tokens import TokenTable
from tests.attacks.clients import ERAS, Holder, entry, token_of
from tests.integration.servers.nodes import RunningNode, running_node, served

TOKENS = {
    "single": entry("single", "mcp", concurrent_calls=1),
    "rare": entry("rare", "mcp", calls_per_s=0.01),
    "free": entry("free", "mcp"),
}
BATCHES = "2025-03-26"


@dataclass
class Gate:
    """A server whose tool `wait` answers when it is opened; `entered`: so many calls came in."""

    opened: asyncio.Event = field(default_factory=asyncio.Event)
    entered: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    def server(self) -> FastMCP:
        server: FastMCP = FastMCP("gate")

        @server.tool
        async def wait() -> str:
            self.entered.release()
            await self.opened.wait()
            return "open"

        @server.tool
        async def pass_by() -> str:
            return "passed"

        return server


@asynccontextmanager
async def guarded(folder: Path, gate: Gate) -> AsyncIterator[tuple[RunningNode, TokenTable]]:
    table = TokenTable((), check_tokens(orjson.dumps({"tokens": TOKENS}).decode(), Path("tokens.json")), closed=True)
    async with served(gate.server()) as url:
        spec = ServerSpec("gate", HttpTarget(url), ServerScope.SERVICE)
        async with running_node("one", folder, servers=[spec], tokens=table) as node:
            await node.connected("gate")
            yield node, table


def holder(node: RunningNode, name: str) -> Holder:
    return Holder(node.base, token_of(name))


async def test_a_second_call_at_once_is_refused_in_either_era_and_let_in_when_the_first_has_ended(
    tmp_path: Path,
) -> None:
    for era in ERAS:
        gate = Gate()
        async with guarded(tmp_path / era, gate) as (node, _), asyncio.TaskGroup() as tasks:
            single, same, free = holder(node, "single"), holder(node, "single"), holder(node, "free")
            await single.begin()
            first = tasks.create_task(same.request(era, "tools/call", name="gate__wait", arguments={}))
            await gate.entered.acquire()
            for refused in (
                await single.modern("tools/call", name="gate__pass_by", arguments={}),
                await single.legacy("tools/call", name="gate__pass_by", arguments={}),
            ):
                assert (refused.status, refused.headers.get("Retry-After")) == (429, "1"), refused
                assert "may make 1 at once" in refused.error["message"]
            assert (await single.legacy("ping")).status == 200
            assert (await single.modern("tools/list")).status == 200, "lists are no calls"
            assert (await free.modern("tools/call", name="gate__pass_by", arguments={})).status == 200
            gate.opened.set()
            assert "open" in str((await first).result)
            assert (await single.modern("tools/call", name="gate__pass_by", arguments={})).status == 200


async def test_another_mesh_gets_by_its_token_what_that_shows_and_speaks_for_its_clients_with_the_scope_peer(
    tmp_path: Path,
) -> None:
    async with (
        guarded(tmp_path / "ours", Gate()) as (node, table),
        running_node("theirs", tmp_path / "theirs", secret=b"another mesh") as theirs,
    ):
        gateways = {
            "whole": entry("whole", "mcp", "peer"),
            "some": entry("some", "mcp", tools=["gate__pass*"]),
        }
        table.replace((), check_tokens(orjson.dumps({"tokens": gateways}).decode(), Path("tokens.json")))
        for name, shown in (("whole", ["gate__pass_by", "gate__wait"]), ("some", ["gate__pass_by"])):
            status, body = await theirs.add_peer(name, node.url, scope="mesh", auth_token=token_of(name))
            assert (status, body["data"]["connected"]) == (201, True), body
            await theirs.when(lambda shown=shown: set(theirs.tool_names()) >= set(shown))
            assert [tool for tool in theirs.tool_names() if tool.startswith("gate__")] == shown
            caller = Holder(theirs.base, None)
            passed = await caller.modern("tools/call", name="gate__pass_by", arguments={})
            assert "passed" in str(passed.result)
            await theirs.rest("DELETE", f"/peers/{name}")


async def test_calls_in_a_batch_count_one_by_one(tmp_path: Path) -> None:
    async with guarded(tmp_path, Gate()) as (node, _):
        rare = holder(node, "rare")
        info = {"protocolVersion": BATCHES, "capabilities": {}, "clientInfo": {"name": "b", "version": "1"}}
        begun = await rare.ask("POST", "/mcp", {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": info})
        params = {"name": "gate__pass_by", "arguments": {}}
        batch = [{"jsonrpc": "2.0", "id": n, "method": "tools/call", "params": params} for n in range(5)]
        answers = (await rare.ask("POST", "/mcp", batch, {"Mcp-Session-Id": begun.headers["Mcp-Session-Id"]})).body
        codes = sorted(answer.get("error", {}).get("code", 0) for answer in answers)
        assert codes == [-32000] * 4 + [0]


async def test_a_call_that_its_client_gives_up_makes_room_for_another(tmp_path: Path) -> None:
    gate = Gate()
    async with guarded(tmp_path, gate) as (node, _):
        single = holder(node, "single")
        for _ in range(3):
            async with asyncio.TaskGroup() as tasks:
                given_up = tasks.create_task(single.modern("tools/call", name="gate__wait", arguments={}))
                await gate.entered.acquire()
                given_up.cancel()
            async with asyncio.timeout(20):
                while (await single.modern("tools/call", name="gate__pass_by", arguments={})).status == 429:
                    pass


async def test_a_call_under_way_is_finished_when_its_token_is_revoked_and_the_next_one_is_refused(
    tmp_path: Path,
) -> None:
    gate = Gate()
    async with guarded(tmp_path, gate) as (node, table), asyncio.TaskGroup() as tasks:
        free = holder(node, "free")
        call = tasks.create_task(free.modern("tools/call", name="gate__wait", arguments={}))
        await gate.entered.acquire()
        table.replace((), ())
        for endpoint in node.endpoints:
            endpoint.end_of_revoked(())
        node.views.end_of_revoked(())
        assert (await free.modern("tools/list")).status == 401
        gate.opened.set()
        assert "open" in str((await call).result)


async def test_limits_of_a_client_that_reads_errors_as_results_say_so_in_words(tmp_path: Path) -> None:
    async with guarded(tmp_path, Gate()) as (node, _):
        rare = holder(node, "rare")
        path = "/mcp?errors=result"
        assert "passed" in str((await rare.modern("tools/call", path, name="gate__pass_by", arguments={})).result)
        told = (await rare.modern("tools/call", path, name="gate__pass_by", arguments={})).result
        assert told["isError"]
        assert "Token 'rare' may make 0.01 calls a second" in told["content"][0]["text"]
