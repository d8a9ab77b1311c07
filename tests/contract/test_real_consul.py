"""What only a real Consul can show: rights, restarts, and how fast we are back after one."""

import asyncio
import logging
import subprocess
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from discovery.consul.client import open_client
from discovery.consul.environment import ConsulSettings
from discovery.consul.registration import register_payload
from discovery.consul.session import open_session
from discovery.model import AccessRefused, Registration, SettingsRefused
from tests.consul_process import NODE_RULES, RunningConsul, running_consul
from tests.contract.following import MACHINE_S, Follower, health_of, ids, running, until
from tests.measured import measured

pytestmark = pytest.mark.consul

NAME = "mcp-node"
LIMIT = "limits.http_max_conns_per_client"
WITHOUT_NODE_READ = f"""
service "{NAME}" {{ policy = "write" }}
service_prefix "{NAME}" {{ policy = "read" }}
"""
READ_ONLY = f"""
service_prefix "{NAME}" {{ policy = "read" }}
node_prefix "" {{ policy = "read" }}
"""


async def test_the_least_privilege_policy_is_enough_for_everything_we_do(guarded: RunningConsul) -> None:
    settings = guarded.settings(await guarded.token_for(NODE_RULES))
    ours = Registration("least-1", NAME, 8000, meta={"digest": "a"}, heartbeat_s=0.2)
    async with open_session(settings) as session:
        assert await session.answers()
        registrar = session.registrar(ours)
        follower = Follower(session.source(NAME, registrar))
        async with running(follower.run(), registrar.keep()):
            await follower.until(lambda seen: "least-1" in ids(seen))
            registrar.verify()
            registrar.change(replace(ours, meta={"digest": "b"}))
            await follower.until(lambda seen: any(one.meta.get("digest") == "b" for one in seen.instances))
        assert registrar.status.last_error == ""
        await registrar.leave()
        assert not registrar.status.registered


async def test_a_node_whose_ttl_had_run_out_is_passing_right_after_it_registers(
    real_consul: RunningConsul, name: str
) -> None:
    """The agent ignores the status of a registration whose check it holds; the next heartbeat is a minute away here."""
    ours = Registration(f"{name}-1", name, 8000, ttl_s=1.0, heartbeat_s=60.0)
    async with open_session(real_consul.settings()) as session, open_client(real_consul.settings()) as client:
        await client.register(register_payload(ours))
        # Its new TTL is longer, so that a busy machine shows it before it has run out again.
        registrar, follower = session.registrar(replace(ours, ttl_s=120.0)), Follower(session.source(name))
        async with running(follower.run()):
            await follower.until(lambda seen: health_of(seen, ours.service_id) == "critical")
            async with running(registrar.keep()):
                await until(lambda: registrar.status.registered, what="registered")
                registered_s = time.monotonic()
                await follower.until(lambda seen: health_of(seen, ours.service_id) == "passing", within_s=0.5)
                measured(f"passing {time.monotonic() - registered_s:.2f} s after it registered")
        await registrar.leave()


async def test_an_answer_emptied_by_missing_rights_is_not_shown(guarded: RunningConsul) -> None:
    token = await guarded.token_for(WITHOUT_NODE_READ)
    async with open_session(guarded.settings(token)) as session, open_client(guarded.settings(token)) as client:
        registrar = session.registrar(Registration("canary-1", NAME, 8000))
        async with running(registrar.keep()):
            await until(lambda: registrar.status.registered, what="registered")
            answer = await client.health(NAME)
            assert answer.rows == []  # 200, no rows, an ordinary index: only the canary can tell
            follower = Follower(session.source(NAME, registrar))
            async with running(follower.run()):
                await until(lambda: "not trusted" in follower.source.status.last_error, what="distrust")
                assert follower.catalogs == []
                assert not follower.source.status.up
                assert "node:read" in follower.source.status.last_error
        await registrar.leave()


async def test_a_token_without_rights_is_refused_by_the_name_of_the_right(guarded: RunningConsul) -> None:
    token = await guarded.token_for(READ_ONLY)
    async with open_client(guarded.settings(token)) as client:
        with pytest.raises(AccessRefused, match=r'service "mcp-node" \{ policy = "write" \}'):
            await client.register(register_payload(Registration("refused-1", NAME, 8000)))
    async with open_client(guarded.settings("not-a-token")) as client:
        with pytest.raises(AccessRefused, match="knows no such token") as unknown:
            await client.health(NAME)
        assert "right" not in str(unknown.value)


async def test_a_proxy_of_consuls_own_mesh_under_our_name_is_no_server(real_consul: RunningConsul, name: str) -> None:
    proxy = {"ID": f"{name}-proxy", "Name": name, "Kind": "connect-proxy", "Port": 20_000}
    proxy["Proxy"] = {"DestinationServiceName": f"{name}-web"}
    await real_consul.call("PUT", "/v1/agent/service/register", proxy)
    await real_consul.call("PUT", "/v1/agent/service/register", {"ID": f"{name}-1", "Name": name, "Port": 8000})
    async with open_session(real_consul.settings()) as session:
        follower = Follower(session.source(name))
        async with running(follower.run()):
            await follower.until_ids(f"{name}-1")
    for service_id in (f"{name}-1", f"{name}-proxy"):
        await real_consul.call("PUT", f"/v1/agent/service/deregister/{service_id}")
    assert [ids(seen) for seen in follower.catalogs] == [{f"{name}-1"}]


async def test_a_token_file_is_waited_for_and_picked_up_within_two_seconds_when_rotated(
    guarded: RunningConsul, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    settings = replace(guarded.settings(), token=None, token_file=str(token_file))
    async with open_session(settings) as session:
        registrar = session.registrar(Registration("rotated-1", NAME, 8000))
        follower = Follower(session.source(NAME, registrar))
        async with running(follower.run(), registrar.keep()):
            await until(lambda: "it is waited for" in registrar.status.last_error, what="waiting")
            await until(lambda: "it is waited for" in follower.source.status.last_error, what="waiting")
            assert await session.answers()  # Whether a Consul is there can be asked without a token.
            token_file.write_text("00000000-0000-0000-0000-00000000dead\n")
            await until(lambda: "refused our ACL token" in registrar.status.last_error, what="refused")
            await until(lambda: "refused our ACL token" in follower.source.status.last_error, what="refused")
            token_file.write_text(await guarded.token_for(NODE_RULES))
            rotated_at_s = time.monotonic()
            await follower.until(lambda seen: "rotated-1" in ids(seen))
            assert time.monotonic() - rotated_at_s < 3.0 + MACHINE_S
        await registrar.leave()


async def test_a_node_lives_with_two_connections_to_a_consul_that_allows_no_more(binary: Path, tmp_path: Path) -> None:
    limits = {"limits": {"http_max_conns_per_client": 2}}
    async with running_consul(binary, tmp_path, extra=limits) as consul, open_session(consul.settings()) as session:
        registrar = session.registrar(Registration("few-1", NAME, 8000))
        follower = Follower(session.source(NAME, registrar))
        async with running(follower.run(), registrar.keep()):
            await follower.until_ids("few-1")
            registrar.change(Registration("few-1", NAME, 8001))
            await follower.until(lambda seen: [one.port for one in seen.instances] == [8001])


async def connected(url: str) -> asyncio.StreamWriter:
    """A connection that Consul counts, for it has answered a request on it, and that stays open."""
    parts = urlsplit(url)
    async with asyncio.timeout(MACHINE_S + 10):
        while True:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(f"GET /v1/status/leader HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"HTTP/1.1 200"):
                    return writer
            writer.close()  # The one of another look at Consul is not forgotten yet.


async def test_a_consul_that_takes_no_more_connections_is_named_with_the_limit_that_it_has(
    binary: Path, tmp_path: Path
) -> None:
    limits = {"limits": {"http_max_conns_per_client": 1}}
    async with running_consul(binary, tmp_path, extra=limits) as consul, open_session(consul.settings()) as session:
        registrar = session.registrar(Registration("late-1", NAME, 8000))
        follower = Follower(session.source(NAME, registrar))
        with closing(await connected(consul.url)):
            async with running(follower.run(), registrar.keep()):
                await until(lambda: LIMIT in registrar.status.last_error, what="named where it registers")
                await until(lambda: LIMIT in follower.source.status.last_error, what="named where it reads")
            assert follower.catalogs == []


async def test_after_a_restart_with_wiped_state_all_are_back_and_none_was_dropped(
    binary: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    everybody = {"node-1", "node-2", "node-3"}
    caplog.set_level(logging.INFO)
    async with running_consul(binary, tmp_path) as consul, open_session(consul.settings()) as session:
        registrars = [session.registrar(Registration(one, NAME, 8000)) for one in sorted(everybody)]
        followers = [Follower(session.source(NAME, registrar)) for registrar in registrars]
        parts = [registrar.keep() for registrar in registrars] + [follower.run() for follower in followers]
        async with running(*parts):
            for follower in followers:
                await follower.until_ids(*everybody)
            shown = [len(follower.catalogs) for follower in followers]
            consul.kill(wipe=True)
            await until(lambda: not any(follower.source.status.up for follower in followers), what="seen as down")
            consul.start()
            await consul.wait_for_leader()
            back_at_s = time.monotonic()
            await until(
                lambda: all(registrar.status.registrations_total >= 2 for registrar in registrars),
                within_s=5,
                what="registered again",
            )
            async with open_client(consul.settings()) as client:
                await client.register(register_payload(Registration("newcomer", NAME, 8000)))
            for follower in followers:
                await follower.until_ids(*everybody, "newcomer", within_s=2)
            assert time.monotonic() - back_at_s < 7.0 + MACHINE_S
            for follower, before in zip(followers, shown, strict=True):
                assert all(ids(catalog) >= everybody for catalog in follower.catalogs[before:])
    assert "consul answers again" in caplog.text


async def test_after_a_restart_that_kept_its_state_nothing_changes(binary: Path, tmp_path: Path) -> None:
    async with running_consul(binary, tmp_path) as consul, open_session(consul.settings()) as session:
        registrar = session.registrar(Registration("node-1", NAME, 8000))
        follower = Follower(session.source(NAME, registrar))
        async with running(follower.run(), registrar.keep()):
            await follower.until_ids("node-1")
            shown = len(follower.catalogs)
            consul.kill()
            await until(lambda: not follower.source.status.up, what="seen as down")
            consul.start()
            await consul.wait_for_leader()
            await until(lambda: follower.source.status.up, within_s=3, what="followed again")
            assert all(ids(catalog) == {"node-1"} for catalog in follower.catalogs[shown:])
        await registrar.leave()


@pytest.fixture
def tls(binary: Path, tmp_path: Path) -> dict[str, Any]:
    """Consul's TLS settings with an authority and a certificate of its own, beside another authority."""
    for arguments in (["ca", "create"], ["cert", "create", "-server"], ["ca", "create", "-domain", "other"]):
        subprocess.run([str(binary), "tls", *arguments], cwd=tmp_path, check=True, capture_output=True)
    return {
        "ca_file": str(tmp_path / "consul-agent-ca.pem"),
        "cert_file": str(tmp_path / "dc1-server-consul-0.pem"),
        "key_file": str(tmp_path / "dc1-server-consul-0-key.pem"),
        "verify_incoming_https": True,  # a client certificate is asked for as well
    }


async def files_are_read_again(folder: Path, good: ConsulSettings) -> None:
    """Of one session, which is not opened again."""
    ca, cert, key = folder / "ca", folder / "cert", folder / "key"
    right, other = (folder / name for name in ("consul-agent-ca.pem", "other-agent-ca.pem"))
    issued, its_key = (folder / f"dc1-server-consul-0{end}.pem" for end in ("", "-key"))
    for path, source in ((ca, other), (cert, issued), (key, its_key)):
        path.write_bytes(source.read_bytes())
    settings = replace(good, ca_cert=str(ca), client_cert=str(cert), client_key=str(key))
    async with open_session(settings) as session:
        assert not await session.answers()
        ca.write_bytes(right.read_bytes())
        assert await session.answers()
        key.write_bytes(b"half a key")
        assert await session.answers(), "the last ones stay"
        key.write_bytes(its_key.read_bytes())
        ca.write_bytes(other.read_bytes())
        assert not await session.answers()


async def test_tls_is_spoken_by_renewed_files_and_a_wrong_authority_or_name_is_not_trusted(
    binary: Path, tmp_path: Path, tls: dict[str, Any]
) -> None:
    async with running_consul(binary, tmp_path, extra=tls, https=True) as consul:
        good = ConsulSettings(
            url=f"https://127.0.0.1:{consul.ports['https']}",
            ca_cert=tls["ca_file"],
            client_cert=tls["cert_file"],
            client_key=tls["key_file"],
            tls_server_name="server.dc1.consul",
        )
        for settings, answers in [
            (good, True),
            (replace(good, ca_cert=None, verify=False), True),
            (replace(good, ca_cert=str(tmp_path / "other-agent-ca.pem")), False),
            (replace(good, tls_server_name="elsewhere.example"), False),
            (replace(good, client_cert=None, client_key=None), False),
        ]:
            async with open_session(settings) as session:
                assert await session.answers() is answers, settings
        await files_are_read_again(tmp_path, good)
    with pytest.raises(SettingsRefused, match="CONSUL_CACERT"):
        async with open_session(replace(good, ca_cert=str(tmp_path / "missing.pem"))):
            pass
