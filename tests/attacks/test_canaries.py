"""No secret that a node was given shows anywhere: answers, logs, metrics, files that others read, the process list."""

import asyncio
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agent.config.load import load_settings, shown
from agent.config.table import SECRET_VARIABLES
from agent.errors import ConfigRefused
from agent.rest.openapi import OPERATIONS
from agent.state.identity import FILE_NAME as IDENTITY
from agent.state.overrides import FILE_NAME as OVERRIDES
from tests.attacks.clients import Holder, entry, texts_below, token_of
from tests.e2e.processes import ROOT, environment_of
from tests.e2e.running import MANAGEMENT_TOOLS, RunningNode, nodes_below, start_node
from tests.e2e.servers_files import example, replace_file
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

MARK = "s1lent"
TOKEN = f"{MARK}-of-the-short-form-0123456789abcdef"
# Of the variables for secrets, those with which no node starts.
REFUSED = frozenset({"CONSUL_HTTP_AUTH"})
# What holds secrets for the node itself, readable by its owner alone.
KEPT = frozenset({OVERRIDES, IDENTITY, "servers.json", "tokens.json"})
# What must show nowhere; the private key of the node, which it makes itself, comes to them.
SECRETS = [MARK]
EVENTS = "/api/v1/mcp/events"
# All that can be read without a name, as the node describes itself.
NEEDED = {"/api/v1/mcp/ping": "?name=dead"}
READ = sorted(path for method, path in OPERATIONS if method == "GET" and "{" not in path and path != EVENTS)
URIS = ("config://app", "health://system")


@dataclass
class Scene:
    """A node with a secret in every place that takes one. `closed`: a port where nothing listens."""

    node: RunningNode
    folder: Path
    settings: dict[str, str]
    closed: int

    @property
    def operator(self) -> Holder:
        return Holder(self.node.base, TOKEN)

    def command(self, *words: str) -> str:
        ran = subprocess.run(
            [sys.executable, "-m", "agent", *words],
            env=environment_of({**self.settings, "MESH_URL": self.node.base}),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("canaries")
    closed = free_port()
    gone = {"url": f"http://127.0.0.1:{closed}/mcp?api_key={MARK}-in-url", "headers": {"X-Key": f"{MARK}-in-header"}}
    dead = {"command": "sh", "args": ["-c", "echo failed: bad key >&2; exit 3"], "env": {"KEY": f"{MARK}-in-env"}}
    notes = {**example("notes", "service"), "env": {"NOTES_KEY": f"{MARK}-in-environment"}}
    oauth = {"client_id": "node", "client_secret": f"{MARK}-of-the-client", "issuer": f"http://127.0.0.1:{closed}/as"}
    asking = {"client_id": "node", "client_secret": f"{MARK}-of-the-resource"}
    rules = {"issuer": "https://id.invalid", "audience": "https://mesh.invalid/mcp", "introspection": asking}
    tokens = {
        "tokens": {"reader": entry("reader", "read", "mcp")},
        "oauth": {**rules, "rules": [{"scopes": ["mcp"]}]},
    }
    tokens_file = replace_file(folder / "tokens.json", json.dumps(tokens).encode())
    settings = {
        **{name: f"{MARK}-in-{name}-0123456789abcdef" for name in SECRET_VARIABLES if name not in REFUSED},
        "MESH_TOKEN": TOKEN,
        "MESH_TOKENS_FILE": str(tokens_file),
        "MESH_DISCOVERY": "off",
        "MESH_AUDIT_CALLS": "1",
        "MESH_LOG_LEVEL": "debug",
        "MESH_PEERS": f"far=http://127.0.0.1:{closed}/mcp?token={MARK}-in-a-setting",
        "HTTPS_PROXY": f"http://user:{MARK}-of-the-proxy@127.0.0.1:{closed}",
    }

    async def start() -> Scene:
        asks = {"url": f"http://127.0.0.1:{closed}/mcp", "oauth": oauth}
        servers = {"notes": notes, "gone": gone, "dead": dead, "asks": asks}
        node = await start_node("node", folder, servers=servers, **settings)  # type: ignore[arg-type] # all are texts
        scene = Scene(node, folder, {**settings, **node.environment}, closed)
        SECRETS[1:] = [json.loads(next(folder.rglob(IDENTITY)).read_bytes())["key"]]
        await exercise(scene)
        return scene

    with nodes_below(folder):
        yield asyncio.run(start())


async def exercise(scene: Scene) -> None:
    """Let everything happen that may lead a secret out."""
    operator = scene.operator
    url = f"http://127.0.0.1:{scene.closed}/mcp?key={MARK}-of-a-peer"
    body = {"peer_name": "added", "peer_url": url, "auth_token": f"{MARK}-for-a-peer"}
    assert (await operator.ask("POST", "/api/v1/mcp/peers", body)).status in (201, 202)
    await operator.ask("POST", "/api/v1/mcp/peers", {**body, "peer_name": "bad name"})
    await operator.ask("POST", "/api/v1/mcp/peers", {**body, "peer_url": f"{url} {MARK}"})
    await Holder(scene.node.base, f"{MARK}-wrong-token-0123456789abcdef").modern("tools/list")
    for era in ("modern", "legacy"):
        arguments = {"text": f"{MARK}-argument"}
        await operator.request(era, "tools/call", name="notes__add", arguments=arguments)
        await operator.request(era, "tools/call", name="gone__anything", arguments=arguments)

    async def failed() -> bool:
        servers = await scene.node.servers()
        return bool(servers["gone"].get("last_error")) and bool(servers["dead"].get("last_error"))

    await eventually(failed)


def found(text: str) -> list[str]:
    """Where a secret stands in a text, with its surroundings."""
    secrets = "|".join(map(re.escape, SECRETS))
    return [text[max(0, hit.start() - 60) : hit.end() + 40] for hit in re.finditer(secrets, text)]


@pytest.mark.parametrize("name", SECRET_VARIABLES)
@pytest.mark.parametrize("value", [MARK, f"{MARK} with blanks", f"{MARK}\x1b", f"{MARK}\u202e" * 5_000])
def test_no_fault_and_no_row_of_the_settings_repeats_a_secret(name: str, value: str, tmp_path: Path) -> None:
    given = {name: value, "HOME": str(tmp_path), "HOST": "0.0.0.0"}
    try:
        said = str(shown(load_settings({}, given)))
    except ConfigRefused as refused:
        said = str(refused)
    assert found(said) == []


@pytest.mark.parametrize("path", READ)
async def test_no_answer_of_the_rest_api_has_a_secret(path: str, scene: Scene) -> None:
    answer = await scene.operator.ask("GET", path + NEEDED.get(path, ""))
    assert answer.status in (200, 503)
    assert found(json.dumps([answer.body, dict(answer.headers)])) == []


async def test_the_events_of_the_page_begin_with_all_of_the_mesh_and_without_a_secret(scene: Scene) -> None:
    async with (
        aiohttp.ClientSession() as http,
        http.get(scene.node.base + EVENTS, headers={"Authorization": f"Bearer {TOKEN}"}) as stream,
    ):
        text = ""
        async with asyncio.timeout(30):
            while "added" not in text or "gone" not in text:
                text += (await stream.content.readany()).decode()
    assert found(text) == []


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_no_list_resource_or_management_tool_shows_a_secret(era: str, scene: Scene) -> None:
    operator = scene.operator
    answers: list[Any] = [
        (await operator.request(era, method)).body for method in ("tools/list", "resources/list", "prompts/list")
    ]
    answers += [(await operator.request(era, "resources/read", uri=uri)).body for uri in URIS]
    for tool in sorted(MANAGEMENT_TOOLS):
        for name in ("notes", "gone", "dead", "asks", "added", "far"):
            arguments = {"server_name": name} if tool in ("reload_mcp_server", "get_mcp_server_functions") else {}
            answers.append((await operator.request(era, "tools/call", name=tool, arguments=arguments)).body)
            if not arguments:
                break
    assert found(json.dumps(answers)) == []


async def test_an_error_repeats_no_secret(scene: Scene) -> None:
    operator, bodies = scene.operator, list[Any]()
    for name in ("gone__anything", "dead__anything", "added__anything", "far__anything", "nothing__at_all"):
        for era in ("modern", "legacy"):
            bodies.append((await operator.request(era, "tools/call", name=name, arguments={})).body)
    bodies.append((await Holder(scene.node.base, f"{MARK}-wrong-token-0123456789abcdef").ask("GET", "/metrics")).body)
    assert found(json.dumps(bodies)) == []


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("status", "--json"),
        ("peers", "ls"),
        ("servers", "ls", "-o", "wide"),
        ("config", "show"),
        ("config", "check"),
        ("pins", "ls"),
        ("audit", "tail"),
        ("token", "ls"),
        ("ping", "dead"),
        ("logs", "--level", "debug"),
    ],
    ids=" ".join,
)
def test_no_command_prints_a_secret(words: tuple[str, ...], scene: Scene) -> None:
    assert found(scene.command(*words)) == []


def test_bundle_for_a_report_has_everything_but_secrets(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "bundle.tar.gz"
    assert found(scene.command("debug", "--file", str(path))) == []
    with tarfile.open(path) as bundle:
        parts = {entry.name.rpartition("/")[2]: bundle.extractfile(entry) for entry in bundle.getmembers()}
        texts = {name: part.read().decode() for name, part in parts.items() if part is not None}
    wanted = {"about.json", "log.jsonl", "metrics.txt", "peers.json", "process.json", "servers.json", "status.json"}
    assert texts.keys() == wanted
    assert json.loads(texts["about.json"])["missing"] == {}
    settings = {row["name"]: row["value"] for row in json.loads(texts["process.json"])["settings"]}
    assert settings["token"] == "********"
    assert settings["log_level"] == "debug"
    assert "node ready" in texts["log.jsonl"]
    assert found("".join(texts.values())) == []


def test_neither_the_log_nor_any_file_but_the_nodes_own_has_a_secret(scene: Scene) -> None:
    assert scene.node.events("node ready"), "there is a log to look at"
    looked_at = set()
    for path, text in texts_below(scene.folder, *KEPT):
        looked_at.add(path.name)
        assert found(text) == [], path
    assert {"node.log", "audit.jsonl", "pins.json"} <= looked_at
    overrides = next(scene.folder.rglob(OVERRIDES))
    assert overrides.stat().st_mode & 0o077 == 0


def command_lines(process_id: str = "self") -> Iterator[str]:
    """Of a process and all below it: others of this machine may run this very test."""
    process = Path("/proc", process_id)
    try:
        children = [pid for listing in process.glob("task/*/children") for pid in listing.read_text().split()]
        yield (process / "cmdline").read_bytes().decode("utf-8", "replace")
    except OSError:
        return  # It has ended.
    for child in children:
        yield from command_lines(child)


def test_no_process_has_a_secret_in_its_command_line(scene: Scene) -> None:
    lines = [*command_lines(), *command_lines(str(scene.node.process.pid))]
    assert any("agent.examples" in line for line in lines), lines
    assert [line for line in lines if found(line)] == []
    assert token_of("reader") not in scene.node.log()
