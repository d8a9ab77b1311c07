"""Access tokens of an OAuth issuer: what a node believes of them, and what it lets their holders do."""

import asyncio
import base64
import hmac
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

from agent.rest.introspection import INTROSPECTED_S
from agent.rest.issuer import KEYS_AGAIN_S
from tests.attacks.clients import Holder, entry, token_of, write_tokens
from tests.e2e.processes import ROOT
from tests.e2e.running import RunningNode, nodes_below, start_node
from tests.e2e.servers_files import example, replace_file
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

AUDIENCE = "http://127.0.0.1:8000/mcp"


@dataclass
class Scene:
    """A node, and the issuers that it trusts. `key`: what the issuer signs with, `other_key`: what another one does."""

    node: RunningNode
    folder: Path
    issuer: str
    other: str
    key: Any
    other_key: Any

    def publish(self, *keys: Any, of: str = "realm") -> None:
        replace_file(self.folder / f"{of}.json", json.dumps(KeySet(list(keys)).as_dict(private=False)).encode())

    def asked(self) -> int:
        """How often the issuer was asked for its keys."""
        return (self.folder / "asked").read_text().count("/realm/keys\n")

    def token(self, key: Any = None, alg: str = "RS256", header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token that is right, but for what is given."""
        signer = key or self.key
        now = int(time.time())
        whole = {"iss": self.issuer, "aud": AUDIENCE, "sub": "ada", "iat": now, "exp": now + 600, **claims}
        known = {name: value for name, value in whole.items() if value is not None}
        return jwt.encode({"alg": alg, "kid": signer.kid, **(header or {})}, known, signer, algorithms=[alg])

    def opaque(self, token: str, **claims: Any) -> Holder:
        """The holder of a token that is no JWT; the issuer says this of it from now on, and without claims nothing."""
        known = json.loads((self.folder / "opaque.json").read_text())
        whole = {"active": True, "sub": "ada", "aud": AUDIENCE, "exp": int(time.time()) + 600, "scope": "mesh"}
        known[token] = {**whole, **claims} if claims else {"active": False}
        replace_file(self.folder / "opaque.json", json.dumps(known).encode())
        return self.holder(token)

    def holder(self, token: str) -> Holder:
        return Holder(self.node.base, token)


def new_key(name: str) -> Any:
    return RSAKey.generate_key(2048, {"kid": name, "use": "sig"})


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("oauth")
    port, key, other_key = free_port(), new_key("first"), new_key("first")
    issuer, other = f"http://127.0.0.1:{port}/realm", f"http://127.0.0.1:{port}/other"
    rules = [
        {"claim": "groups", "value": "operators", "scopes": ["mcp", "read", "admin"]},
        {"claim": "scope", "value": "notes:read", "scopes": ["mcp"], "tools": ["notes__l*"]},
        {"claim": "scope", "value": "mesh", "scopes": ["mcp"]},
    ]
    (folder / "secret").write_text("canary-of-the-resource\n")
    (folder / "opaque.json").write_text("{}")
    asking = {"client_id": "resource", "client_secret_file": str(folder / "secret")}
    content = {
        "tokens": {"own": entry("own", "mcp", "read")},
        "oauth": [
            {"issuer": issuer, "audience": AUDIENCE, "rules": rules, "introspection": asking},
            {"issuer": other, "audience": AUDIENCE, "rules": [{"scopes": ["mcp"], "tools": ["notes__l*"]}]},
        ],
    }
    tokens = replace_file(folder / "tokens.json", json.dumps(content).encode())

    async def start() -> Scene:
        settings: dict[str, Any] = {"MESH_TOKENS_FILE": str(tokens), "MESH_DISCOVERY": "off"}
        node = await start_node("node", folder, servers={"notes": example("notes", "service")}, **settings)
        scene = Scene(node, folder, issuer, other, key, other_key)
        scene.publish(key)
        scene.publish(other_key, of="other")
        return scene

    command = [sys.executable, "-m", "tests.attacks.oauth_issuer", str(port), str(folder)]
    with subprocess.Popen(command, cwd=ROOT) as process, nodes_below(folder):
        try:
            scene = asyncio.run(start())
            asyncio.run(ready(scene))
            yield scene
        finally:
            process.terminate()


async def ready(scene: Scene) -> None:
    """Wait for the issuer, the server, and the node's first look at the keys."""

    async def listed() -> bool:
        return "notes__list" in await scene.holder(scene.token(scope="mesh")).tools("modern")

    await eventually(listed)


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_claims_decide_what_the_holder_of_a_token_sees_and_may_do(era: str, scene: Scene) -> None:
    whole = scene.holder(scene.token(scope="openid mesh"))
    assert {"notes__list", "notes__add"} <= set(await whole.tools(era))
    narrow = scene.holder(scene.token(scope="notes:read"))
    assert "notes__add" not in await narrow.tools(era)
    refused = await narrow.request(era, "tools/call", name="notes__add", arguments={"text": "x"})
    assert refused.status == 403 or refused.error["code"] < 0
    assert (await whole.ask("GET", "/api/v1/mcp/status")).status == 403
    operator = scene.holder(scene.token(groups=["staff", "operators"]))
    assert (await operator.ask("GET", "/api/v1/mcp/status")).status == 200


async def test_a_token_that_no_rule_fits_is_refused_with_the_reason(scene: Scene) -> None:
    answer = await scene.holder(scene.token(scope="other")).modern("tools/list")
    assert answer.status == 401
    assert "no rule of this node fits" in json.dumps(answer.body)


async def test_tokens_of_this_nodes_own_work_beside_them(scene: Scene) -> None:
    assert "notes__add" in await scene.holder(token_of("own")).tools("modern")


async def test_each_issuer_speaks_for_itself_alone_and_by_its_own_rules(scene: Scene) -> None:
    guest = scene.holder(scene.token(scene.other_key, iss=scene.other, groups=["operators"], scope="mesh"))
    listed = await guest.tools("modern")
    assert "notes__list" in listed
    assert "notes__add" not in listed
    assert (await guest.ask("GET", "/api/v1/mcp/status")).status == 403
    for signer, issuer in ((scene.other_key, scene.issuer), (scene.key, scene.other)):
        answer = await scene.holder(scene.token(signer, iss=issuer, scope="mesh")).modern("tools/list")
        assert answer.status in (401, 429), "a key of another issuer"


async def test_holders_of_one_name_at_two_issuers_are_two(scene: Scene) -> None:
    ada = scene.holder(scene.token(scope="mesh"))
    namesake = scene.holder(scene.token(scene.other_key, iss=scene.other))
    await ada.begin()
    assert (await namesake.legacy("tools/list", session=ada.session)).status == 404


async def test_a_token_that_is_no_jwt_is_shown_to_the_one_issuer_that_is_asked(scene: Scene) -> None:
    await scene.opaque("opaque-of-whom-0123456789", scope="mesh").tools("modern")
    assert "/other/about\n" not in (scene.folder / "asked").read_text()


def encoded(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


FORGED = {
    "for another service": {"aud": "https://other.example/mcp"},
    "for nothing": {"aud": None},
    "of another issuer": {"iss": "https://other.example"},
    "expired": {"exp": 1_700_000_000},
    "without an end": {"exp": None},
    "not valid yet": {"nbf": int(time.time()) + 3_600},
    "without a holder": {"sub": None},
}


@pytest.mark.parametrize("claims", FORGED.values(), ids=FORGED.keys())
async def test_a_token_whose_claims_are_not_for_us_is_refused(claims: dict[str, Any], scene: Scene) -> None:
    answer = await scene.holder(scene.token(scope="mesh", **claims)).modern("tools/list")
    assert answer.status == 401
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


async def test_a_token_that_the_issuer_has_not_signed_is_refused(scene: Scene) -> None:
    stranger = RSAKey.generate_key(2048, {"kid": "first"})
    right = scene.token(scope="mesh")
    head, claims, _ = right.split(".")
    symmetric = f"{encoded({'alg': 'HS256', 'kid': 'first'})}.{claims}"
    signature = hmac.new(scene.key.as_pem(private=False), symmetric.encode(), "sha256").digest()
    forged = [
        scene.token(stranger, scope="mesh"),
        scene.token(ECKey.generate_key("P-256", {"kid": "first"}), alg="ES256", scope="mesh"),
        f"{symmetric}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}",
        f"{encoded({'alg': 'none', 'kid': 'first'})}.{claims}.",
        f"{head}.{claims}.",
        f"{claims}.{claims}.{claims}",
        right[:-4] + "AAAA",
    ]
    for token in forged:
        answer = await scene.holder(token).modern("tools/list")
        assert answer.status in (401, 429), token


async def test_a_token_that_is_no_jwt_is_what_the_issuer_says_of_it_and_ends_when_it_is_revoked(scene: Scene) -> None:
    token = "opaque-0123456789abcdef"
    before = (scene.folder / "asked").read_text().count("/realm/about\n")
    holder, began_s = scene.opaque(token, scope="notes:read mesh", sub="of-no-other-token"), time.monotonic()
    for _ in range(3):
        assert "notes__list" in await holder.tools("modern")
    asked = (scene.folder / "asked").read_text().count("/realm/about\n") - before
    assert asked <= 1 + (time.monotonic() - began_s) / INTROSPECTED_S, "it is not asked for each call"
    assert "notes__add" not in await holder.tools("modern")
    await holder.begin()
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{holder.base}/mcp", headers=holder.of_session()) as standing,
    ):
        assert standing.status == 200
        scene.opaque(token)
        async with asyncio.timeout(30):
            await standing.content.read()
    assert (await holder.modern("tools/list")).status in (401, 429)


NOT_FOR_US = {
    "for another service": {"aud": "https://other.example/mcp"},
    "for nothing": {"aud": None},
    "of another issuer": {"iss": "https://other.example"},
    "without an end": {"exp": None},
    "expired": {"exp": 1_700_000_000},
    "not active": {"active": False},
    "active in words": {"active": "true"},
}


@pytest.mark.parametrize("claims", NOT_FOR_US.values(), ids=NOT_FOR_US.keys())
async def test_a_token_that_the_issuer_does_not_vouch_for_is_refused(claims: dict[str, Any], scene: Scene) -> None:
    holder = scene.opaque(f"opaque-{'-'.join(claims)}-0123456789abcdef", **claims)
    assert (await holder.modern("tools/list")).status in (401, 429)


async def test_clients_learn_where_to_get_a_token(scene: Scene) -> None:
    answer = await Holder(scene.node.base, None).modern("tools/list")
    assert answer.status == 401
    wanted = "http://127.0.0.1:8000/.well-known/oauth-protected-resource/mcp"
    assert f'resource_metadata="{wanted}"' in answer.headers["WWW-Authenticate"]
    for path in ("/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"):
        metadata = await Holder(scene.node.base, None).ask("GET", path)
        assert metadata.status == 200
        assert metadata.body["resource"] == AUDIENCE
        assert metadata.body["authorization_servers"] == [scene.issuer, scene.other]
        assert metadata.body["scopes_supported"] == ["notes:read", "mesh"], "those that the issuer knows"
    other = await Holder(scene.node.base, None).ask("GET", "/.well-known/oauth-authorization-server")
    assert other.status == 404


async def test_the_issuer_is_not_asked_for_each_made_up_key(scene: Scene) -> None:
    strangers = [new_key(f"made-up-{number}") for number in range(5)]  # It may take seconds.
    before, began_s = scene.asked(), time.monotonic()
    for stranger in strangers:
        assert (await scene.holder(scene.token(stranger, scope="mesh")).modern("tools/list")).status in (401, 429)
    assert scene.asked() - before <= 1 + (time.monotonic() - began_s) / KEYS_AGAIN_S


async def test_a_new_key_of_the_issuer_is_taken_when_the_first_token_comes_with_it(scene: Scene) -> None:
    second = new_key("second")
    scene.publish(scene.key, second)

    async def listed() -> bool:
        answer = await scene.holder(scene.token(second, scope="mesh")).modern("tools/list")
        return answer.status == 200

    await eventually(listed)


async def test_a_session_belongs_to_the_holder_that_began_it(scene: Scene) -> None:
    ada, eve = scene.holder(scene.token(scope="mesh")), scene.holder(scene.token(scope="mesh", sub="eve"))
    await ada.begin()
    assert (await eve.legacy("tools/list", session=ada.session)).status == 404
    renewed = scene.holder(scene.token(scope="mesh", jti="another"))
    assert (await renewed.legacy("tools/list", session=ada.session)).status == 200


async def test_what_a_token_opened_ends_with_the_trust_in_its_issuer(scene: Scene) -> None:
    path = scene.folder / "tokens.json"
    content = path.read_bytes()
    holder = scene.holder(scene.token(scope="mesh"))
    await holder.begin()
    assert (await holder.legacy("tools/list")).status == 200
    write_tokens(path, {"own": entry("own", "mcp", "read")})

    async def refused() -> bool:
        return (await holder.legacy("tools/list")).status == 401

    try:
        await eventually(refused)
        assert (await Holder(scene.node.base, None).ask("GET", "/.well-known/oauth-protected-resource")).status == 404
    finally:
        replace_file(path, content)
    again = scene.holder(scene.token(scope="mesh"))
    await eventually(partial(again.tools, "modern"))
