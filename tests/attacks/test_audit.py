"""The audit of a running node: what it holds, what it never holds, and that a changed line shows."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.attacks.clients import Holder, entry, token_of, write_tokens
from tests.e2e.processes import ROOT, environment_of
from tests.e2e.running import RunningNode, nodes_below, start_node
from tests.e2e.servers_files import example
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

SHORT = "short-form-canary-0123456789abcdef"
TOKENS = {
    "client": entry("client", "mcp"),
    "narrow": entry("narrow", "mcp", tools=["notes__l*"]),
    "operator": entry("operator", "admin"),
    "reader": entry("reader", "read"),
}


@dataclass
class Audited:
    """The node, its audit and its tokens file."""

    node: RunningNode
    audit: Path
    tokens: Path

    def holder(self, name: str) -> Holder:
        return Holder(self.node.base, token_of(name))

    def records(self, act: str = "") -> list[dict[str, Any]]:
        whole = self.audit.read_text().split("\n")[:-1]
        return [record for line in whole if act in ("", (record := orjson.loads(line))["act"])]

    async def recorded(self, act: str, **members: object) -> dict[str, Any]:
        """The record with these members, when it is there."""

        async def found() -> dict[str, Any] | None:
            fitting = [record for record in self.records(act) if members.items() <= record.items()]
            return fitting[-1] if fitting else None

        record = await eventually(found)
        assert record is not None
        return record


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audited]:
    """One node with notes, whose audit has calls, too."""
    folder = tmp_path_factory.mktemp("audited")
    tokens, audit = write_tokens(folder / "tokens.json", TOKENS), folder / "audit.jsonl"
    settings = {
        "MESH_TOKEN": SHORT,
        "MESH_TOKENS_FILE": str(tokens),
        "MESH_AUDIT_FILE": str(audit),
        "MESH_AUDIT_CALLS": "1",
        "MESH_DISCOVERY": "off",
    }

    async def start() -> RunningNode:
        node = await start_node("front", folder, servers={"notes": example("notes", "service")}, **settings)
        await eventually(partial(node.offers, "notes__add"))
        return node

    with nodes_below(folder):
        yield Audited(asyncio.run(start()), audit, tokens)


def command(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent", *words],
        env=environment_of(settings),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_operators_acts_are_on_the_disk_before_they_are_answered(audited: Audited) -> None:
    operator = audited.holder("operator")
    url = f"http://127.0.0.1:{free_port()}/mcp?key=canary"
    body = {"peer_name": "elsewhere", "peer_url": url, "auth_token": "canary-of-the-peer"}
    assert (await operator.ask("POST", "/api/v1/mcp/peers", body)).status == 202
    added = audited.records("peer.add")[-1]
    assert (added["who"], added["peer"], added["outcome"]) == ("operator", "elsewhere", "added")
    assert (await operator.ask("DELETE", "/api/v1/mcp/peers/elsewhere")).status == 200
    assert audited.records("peer.remove")[-1]["outcome"] == "removed"
    forbidden = {"peer_name": "metadata", "peer_url": "http://169.254.169.254/mcp"}
    assert (await operator.ask("POST", "/api/v1/mcp/peers", forbidden)).status == 403
    assert audited.records("peer.add")[-1]["outcome"] == "address_refused"
    ordinary = audited.node.events("peer ordered")
    assert [(line["act"], line["by"]) for line in ordinary[-3:-1]] == [
        ("peer.add", "operator"),
        ("peer.remove", "operator"),
    ]


async def test_calls_refusals_reloads_and_tokens_are_recorded_by_name_and_never_with_arguments(
    audited: Audited,
) -> None:
    client, narrow = audited.holder("client"), audited.holder("narrow")
    arguments = {"title": "canary-title", "text": "canary-text"}
    assert (await client.modern("tools/call", name="notes__add", arguments=arguments)).status == 200
    await client.begin()
    assert (await client.legacy("tools/call", name="notes__read", arguments={"title": "none"})).status == 200
    assert (await narrow.modern("tools/call", name="notes__add", arguments=arguments)).error["code"] == -32003
    assert (await narrow.ask("GET", "/api/v1/mcp/peers")).status == 403
    await audited.node.request("GET", "/api/v1/mcp/status", headers={"Authorization": "Bearer canary-of-nobody"})
    reload = await Holder(audited.node.base, SHORT).modern(
        "tools/call", name="reload_mcp_server", arguments={"server_name": "notes"}
    )
    assert reload.status == 200
    write_tokens(audited.tokens, {**TOKENS, "fresh": entry("fresh", "mcp")})
    await audited.recorded("call", who="client", name="notes__add", outcome="ok")
    await audited.recorded("call", who="client", name="notes__read", outcome="tool_error")
    await audited.recorded("refused", who="narrow", what="tools/call notes__add")
    await audited.recorded("refused", who="narrow", what="GET /api/v1/mcp/peers")
    await audited.recorded("refused", who="127.0.0.1", why="bad_token")
    await audited.recorded("server.reload", who="MESH_TOKEN", server="notes", outcome="connected")
    await audited.recorded("tokens.read", added=["fresh"], removed=[], changed=[])
    text = audited.audit.read_text()
    assert "canary" not in text
    lines = [line for line in audited.node.events("MCP request") if line.get("caller") == "client"]
    assert {line["mcp_name"] for line in lines} >= {"notes__add", "notes__read"}
    assert audited.audit.stat().st_mode & 0o077 == 0


async def test_operators_alone_read_the_newest_records_and_hashes_are_not_among_them(audited: Audited) -> None:
    operator, path = audited.holder("operator"), "/api/v1/mcp/audit"
    assert (await operator.ask("DELETE", "/api/v1/mcp/peers/nowhere")).status == 404
    shown = (await operator.ask("GET", f"{path}?count=2")).body["data"]["records"]
    assert (len(shown), shown[-1]["act"], shown[-1]["who"]) == (2, "peer.remove", "operator")
    assert not {"prev", "hash"} & shown[-1].keys()
    for name, address in (("reader", path), ("reader", path.replace("audit", "%61udit")), ("client", path)):
        assert (await audited.holder(name).ask("GET", address)).status == 403, (name, address)
    for count in ("0", "501", "-1", "x", "9" * 5_000):
        assert (await operator.ask("GET", f"{path}?count={count}")).status == 422, count[:9]


async def test_a_whole_chain_is_verified_and_a_changed_moved_or_missing_line_shows(
    audited: Audited, tmp_path: Path
) -> None:
    copy = tmp_path / "audit.jsonl"
    for name in ("notes__list", "notes__read"):
        params = {"name": name, "arguments": {"title": "none"} if name == "notes__read" else {}}
        assert (await audited.holder("client").modern("tools/call", **params)).status == 200
        await audited.recorded("call", who="client", name=name)
    lines = audited.audit.read_bytes().splitlines(keepends=True)
    copy.write_bytes(b"".join(lines))
    whole = await asyncio.to_thread(command, "audit", "verify", str(copy))
    assert (whole.returncode, "are whole" in whole.stdout) == (0, True), whole
    tail = await asyncio.to_thread(command, "audit", "tail", "-n", "2", MESH_AUDIT_FILE=str(copy))
    assert len(tail.stdout.splitlines()) == 2, tail
    broken = {
        "changed": [lines[0].replace(b'"node"', b'"nods"'), *lines[1:]],
        "moved": [lines[1], lines[0], *lines[2:]],
        "missing": [*lines[:1], *lines[2:]],
    }
    for what, found in broken.items():
        copy.write_bytes(b"".join(found))
        done = await asyncio.to_thread(command, "audit", "verify", str(copy))
        assert (done.returncode, "BROKEN" in done.stderr) == (1, True), what
