"""A node as a client of servers that want OAuth: logins, its own secret, renewals, and what no token ever reaches."""

import asyncio
import json
import re
import subprocess
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest

from agent.state.logins import FILE_NAME
from tests.attacks.clients import Holder, texts_below
from tests.attacks.oauth_server import MACHINE, MARK
from tests.e2e.processes import ROOT, environment_of
from tests.e2e.running import RunningNode, nodes_below, start_node, stop_node
from tests.ports import free_port
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

TOKEN = "operator-0123456789abcdef0123456789"
LOGIN = "/api/v1/mcp/servers/person/login"
PAPERS, HOME = "https://node.example/client.json", "https://node.example/back"
REDIRECT = {"redirect_uri": "http://127.0.0.1:1/callback"}


@dataclass
class Scene:
    """A node, and the servers behind an issuer that its file has."""

    node: RunningNode
    folder: Path
    base: str

    @property
    def operator(self) -> Holder:
        return Holder(self.node.base, TOKEN)

    async def say(self, method: str, path: str, body: object = None) -> Any:
        """To the servers' own process."""
        async with aiohttp.ClientSession() as http, http.request(method, self.base + path, json=body) as response:
            return await response.json()

    async def seen(self, path: str) -> list[dict[str, Any]]:
        return [one for one in await self.say("GET", "/seen") if one["path"] == path]

    async def grants(self, kind: str) -> int:
        return len([one for one in await self.seen("/as/token") if one["grant"] == kind])

    async def row(self, name: str) -> dict[str, Any]:
        return (await self.node.servers())[name]

    async def is_up(self, name: str) -> bool:
        return bool((await self.row(name))["status"] == "connected")

    async def browser(self, url: str) -> str:
        """Where the issuer leads a browser that opens this URL."""
        async with aiohttp.ClientSession() as http, http.get(url, allow_redirects=False) as response:
            assert response.status == 302, await response.text()
            return response.headers["Location"]

    async def log_in(self) -> None:
        """By REST, as the command does it."""
        begun = await self.operator.ask("POST", LOGIN, REDIRECT)
        back = await self.browser(begun.body["data"]["authorization_url"])
        finished = await self.operator.ask("POST", f"{LOGIN}/finish", {"redirected_to": back})
        assert finished.status == 200, finished
        await eventually(lambda: self.is_up("person"))

    async def look(self, tool: str = "person__look") -> int:
        answer = await self.operator.modern("tools/call", name=tool, arguments={})
        return answer.status if "error" not in answer.body else answer.body["error"]["code"]

    def environment(self) -> dict[str, str]:
        return environment_of({**self.node.environment, "MESH_URL": self.node.base, "MESH_TOKEN": TOKEN})

    async def command(self, *words: str, stdin: int = DEVNULL) -> Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "agent", *words),
            env=self.environment(),
            cwd=ROOT,
            stdin=stdin,
            stdout=PIPE,
            stderr=PIPE,
        )


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder, port = tmp_path_factory.mktemp("logins"), free_port()
    base = f"http://127.0.0.1:{port}"
    (folder / "secret").write_text(f"{MACHINE[1]}\n")
    by_file = {"client_id": MACHINE[0], "client_secret_file": str(folder / "secret"), "issuer": f"{base}/as"}
    servers = {
        "person": {"url": f"{base}/mcp/person"},
        "machine": {"url": f"{base}/mcp/machine", "oauth": {**by_file, "scopes": ["a:b", "c"]}},
        "batch": {"url": f"{base}/mcp/batch", "oauth": by_file},
        "led": {"url": f"{base}/mcp/led", "oauth": by_file},
        "lost": {"url": f"{base}/mcp/lost"},
        "papers": {"url": f"{base}/mcp/papers", "oauth": {"client_id": PAPERS, "redirect_uri": HOME, "scopes": ["x"]}},
    }
    settings: dict[str, Any] = {"MESH_TOKEN": TOKEN, "MESH_DISCOVERY": "off", "MESH_LOG_LEVEL": "debug"}
    command = [sys.executable, "-m", "tests.attacks.oauth_server", str(port)]

    async def start() -> Scene:
        node = await start_node("node", folder, servers=servers, **settings)
        scene = Scene(node, folder, base)
        await eventually(lambda: scene.is_up("machine"))
        return scene

    with subprocess.Popen(command, cwd=ROOT) as process, nodes_below(folder):
        try:
            scene = asyncio.run(start())
            yield scene
            # A login that is under way keeps no node from stopping.
            asyncio.run(scene.operator.ask("POST", LOGIN, REDIRECT))
            assert asyncio.run(stop_node(scene.node)) == 0
        finally:
            process.terminate()


async def test_a_node_gets_tokens_by_its_own_secret_for_the_scopes_of_its_entry(scene: Scene) -> None:
    asked = await scene.seen("/as/token")
    assert {(one["grant"], one["scope"]) for one in asked} >= {("client_credentials", "a:b c")}
    answer = await scene.operator.modern("tools/call", name="machine__look", arguments={})
    assert answer.result["content"][0]["text"] == "seen"


async def test_a_server_that_names_another_issuer_is_not_given_the_secret(scene: Scene) -> None:
    async def refused() -> bool:
        return "issuer" in (await scene.row("led"))["last_error"]

    await eventually(refused)
    assert await scene.seen("/evil/token") == []


async def test_an_issuer_at_a_forbidden_address_is_never_dialled(scene: Scene) -> None:
    answer = await scene.operator.ask("POST", LOGIN.replace("person", "lost"), REDIRECT)
    assert answer.status == 502
    assert "never dialled" in answer.body["message"]


async def test_an_issuer_that_takes_documents_is_shown_the_entrys_and_registers_none(scene: Scene) -> None:
    begun = await scene.operator.ask("POST", LOGIN.replace("person", "papers"), REDIRECT)
    assert begun.body["data"]["redirect_uri"] == HOME
    asked = parse_qs(urlsplit(begun.body["data"]["authorization_url"]).query)
    assert (asked["client_id"], asked["redirect_uri"], asked["scope"]) == ([PAPERS], [HOME], ["x"])
    assert asked["code_challenge_method"] == ["S256"]
    assert asked["resource"] == [f"{scene.base}/mcp/papers"]
    assert await scene.seen("/papers/registration") == []


async def test_a_server_that_needs_a_login_says_so_and_is_dialled_on(scene: Scene) -> None:
    await scene.operator.ask("DELETE", LOGIN)

    async def says_so() -> dict[str, Any]:
        row = await scene.row("person")
        assert "needs a login: mesh-agent servers login person" in row["last_error"]
        assert row["status"] == "backoff"  # Between two dials.
        return row

    await eventually(says_so)
    answer = await scene.operator.modern("tools/call", name="person__look", arguments={})
    assert "mesh-agent servers login" not in json.dumps(answer.body), "clients are no operators"


async def test_a_browser_on_the_same_machine_ends_the_login_and_a_strange_page_does_not(scene: Scene) -> None:
    process = await scene.command("servers", "login", "person")
    assert process.stdout is not None
    url = ""
    while not url.startswith("http"):
        line = await process.stdout.readline()
        assert line, "it ended before it named a URL"
        url = line.decode().strip()
    back = await scene.browser(url)
    async with aiohttp.ClientSession() as http:
        async with http.get(back.partition("?")[0] + "?code=forged&state=forged") as forged:
            assert forged.status == 400
        async with http.get(back) as response:
            assert response.status == 200
            assert "logged in" in await response.text()
    assert await process.wait() == 0
    await eventually(lambda: scene.is_up("person"))
    kept = next(scene.folder.rglob(FILE_NAME))
    assert kept.stat().st_mode & 0o077 == 0
    assert await scene.look() == 200


async def test_a_login_from_afar_is_finished_with_a_pasted_url(scene: Scene) -> None:
    process = await scene.command("servers", "login", "person", "--paste", "--json", stdin=PIPE)
    assert process.stderr is not None
    said = b""
    while b"paste" not in said:
        said += await process.stderr.readline()
    found = re.search(rb"http://\S+", said)
    assert found is not None
    back = await scene.browser(found[0].decode())
    out, _ = await process.communicate(back.encode() + b"\n")
    assert json.loads(out)["connected"] is True
    assert process.returncode == 0


async def test_one_refresh_is_enough_for_many_calls_that_are_refused(scene: Scene) -> None:
    await scene.log_in()
    before = await scene.grants("refresh_token")
    await scene.say("POST", "/control", {"forget_access": True})

    async def works() -> bool:
        return set(await all_of(scene.look() for _ in range(20))) == {200}

    await eventually(works)
    assert await scene.grants("refresh_token") == before + 1


async def test_a_token_is_refreshed_before_it_ends(scene: Scene) -> None:
    await scene.say("POST", "/control", {"life_s": 2})
    try:
        await scene.log_in()
        before, refused = await scene.grants("refresh_token"), len(await scene.seen("/mcp/person"))

        async def refreshed() -> bool:
            assert await scene.look() == 200
            return await scene.grants("refresh_token") >= before + 2

        await eventually(refreshed)
        assert len(await scene.seen("/mcp/person")) > refused
    finally:
        await scene.say("POST", "/control", {"life_s": 3600})


async def test_a_call_that_wants_more_scopes_is_refused_alone_and_the_next_login_asks_for_them(scene: Scene) -> None:
    await scene.log_in()
    for _ in range(6):  # More than would have a server that gives no answers left out.
        answer = await scene.operator.modern("tools/call", name="person__deep", arguments={})
        assert answer.body["error"]["code"] == -32000, "it was not executed"
        assert "wants more scopes" in answer.body["error"]["message"]
    assert await scene.look() == 200
    row = await scene.row("person")
    assert row["status"] == "connected"
    assert any("the scopes deep: mesh-agent servers login person" in hint for hint in row["hints"])
    begun = await scene.operator.ask("POST", LOGIN, REDIRECT)
    asked = parse_qs(urlsplit(begun.body["data"]["authorization_url"]).query)["scope"]
    assert asked == ["from-server deep"], "what it had, and what it lacked"
    await scene.log_in()
    assert await scene.look("person__deep") == 200
    assert not any("scopes" in hint for hint in (await scene.row("person"))["hints"])


async def test_a_node_asks_its_issuer_for_more_scopes_where_its_entry_does_not_limit_them(scene: Scene) -> None:
    await eventually(lambda: scene.is_up("batch"))
    assert await scene.look("batch__deep") == 200
    asked = [one["scope"] for one in await scene.seen("/as/token") if one["grant"] == "client_credentials"]
    assert "from-server deep" in asked
    answer = await scene.operator.modern("tools/call", name="machine__deep", arguments={})
    assert answer.body["error"]["code"] == -32000
    hints = (await scene.row("machine"))["hints"]
    assert any("oauth.scopes of its entry" in hint for hint in hints), hints
    asked = [one["scope"] for one in await scene.seen("/as/token") if "a:b" in str(one["scope"])]
    assert set(asked) == {"a:b c"}, "the entry says which scopes the node may have"


async def test_a_refused_refresh_is_a_need_for_a_login_and_the_next_one_needs_no_restart(scene: Scene) -> None:
    await scene.log_in()
    await scene.say("POST", "/control", {"refuses_refresh": True, "forget_access": True})

    async def needs_login() -> bool:
        await scene.look()
        row = await scene.row("person")
        return row["status"] == "backoff" and "needs a login" in row["last_error"]

    try:
        await eventually(needs_login)
    finally:
        await scene.say("POST", "/control", {"refuses_refresh": False})
    await scene.log_in()
    assert await scene.look() == 200


async def test_an_issuer_that_is_down_costs_no_login(scene: Scene) -> None:
    await scene.log_in()
    await scene.say("POST", "/control", {"is_down": True, "forget_access": True})

    async def is_away() -> bool:
        await scene.look()
        return "503" in ((await scene.row("person"))["last_error"] or "")

    try:
        await eventually(is_away)
    finally:
        await scene.say("POST", "/control", {"is_down": False})

    async def works() -> bool:
        return await scene.look() == 200

    await eventually(works)


async def test_an_issuers_refusal_ends_a_login_with_its_reason(scene: Scene) -> None:
    begun = await scene.operator.ask("POST", LOGIN, REDIRECT)
    url = begun.body["data"]["authorization_url"]
    state = parse_qs(urlsplit(url).query)["state"][0]
    back = f"http://127.0.0.1:1/callback?error=access_denied&state={state}"
    refused = await scene.operator.ask("POST", f"{LOGIN}/finish", {"redirected_to": back})
    assert refused.status == 502
    assert "access_denied" in refused.body["message"]
    again = await scene.operator.ask("POST", f"{LOGIN}/finish", {"redirected_to": back})
    assert again.status == 409


@pytest.mark.parametrize(
    ("name", "body", "status"),
    [
        ("nothing", REDIRECT, 404),
        ("machine", REDIRECT, 409),
        ("person", {}, 422),
        ("person", {"redirect_uri": "https://elsewhere.example/take"}, 422),
    ],
)
async def test_a_login_that_makes_no_sense_is_refused(name: str, body: object, status: int, scene: Scene) -> None:
    answer = await scene.operator.ask("POST", LOGIN.replace("person", name), body)
    assert answer.status == status


async def test_servers_see_tokens_of_their_issuer_and_nothing_that_a_client_sent(scene: Scene) -> None:
    headers = {"X-Api-Key": "of-the-client", "Authorization": f"Bearer {TOKEN}"}
    await scene.operator.modern("tools/call", name="machine__look", arguments={})
    await scene.operator.ask("POST", "/mcp", {"jsonrpc": "2.0", "id": 1, "method": "ping"}, headers)
    sent = {one["authorization"] for name in ("person", "machine") for one in await scene.seen(f"/mcp/{name}")}
    assert all(one == "" or one.startswith(f"Bearer {MARK}-access-") for one in sent), sent


async def test_a_forgotten_login_is_used_no_more(scene: Scene) -> None:
    await scene.log_in()
    process = await scene.command("servers", "logout", "person")
    assert await process.wait() == 0
    assert "access_token" not in next(scene.folder.rglob(FILE_NAME)).read_text()
    assert await scene.look() < 0


async def test_no_token_code_or_secret_of_a_login_shows_anywhere(scene: Scene) -> None:
    await scene.log_in()
    answers = [
        (await scene.operator.ask("GET", path)).body
        for path in ("/api/v1/mcp/status", "/api/v1/mcp/servers", "/api/v1/mcp/pins", "/metrics")
    ]
    answers.append((await scene.operator.modern("resources/read", uri="config://app")).body)
    assert MARK not in json.dumps(answers)
    for words in (("status",), ("config", "check")):
        process = await scene.command(*words)
        out, err = await process.communicate()
        assert MARK.encode() not in out + err, words
    looked_at = set()
    for path, text in texts_below(scene.folder, FILE_NAME, "secret"):
        looked_at.add(path.name)
        assert MARK not in text, path
    assert {"node.log", "audit.jsonl"} <= looked_at
    assert any('"server.login"' in line for line in next(scene.folder.rglob("audit.jsonl")).read_text().splitlines())
