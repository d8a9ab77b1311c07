"""A name of DNS as a source of peers, with real name servers: Debian's dnsmasq, and the DNS of Consul's agent.

What no server does on demand (SERVFAIL, silence, a zone that is empty for a moment) is in test_listed_sources. The one
rule: an answer is followed as the server gives it, whole, and a server that is away takes nothing with it.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from discovery.backoff import Backoff
from discovery.listed import names
from discovery.listed.names import DnsSource
from discovery.model import Catalog
from tests.consul_process import running_consul
from tests.contract.following import Follower, ids, running, until
from tests.debian_binary import DNSMASQ, debian_binary, why_not
from tests.ports import free_port

TTL_S = 1
# As Compose and Kubernetes call them: a service, and a headless service with a named port.
COMPOSE, HEADLESS = "mesh.test", "mesh.default.svc.cluster.test"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes in tenths of a second; a TTL is kept as it is."""
    monkeypatch.setattr(names, "TTL_MIN_S", 0.02)
    monkeypatch.setattr(names, "NO_NAME_AFTER_S", 0.3)
    monkeypatch.setattr(names, "ANSWER_TIMEOUT_S", 2.0)
    monkeypatch.setattr(names, "ASK_AGAIN", Backoff(first_s=0.05, last_s=0.2))


@dataclass
class Dnsmasq:
    """A server of the zone `test` alone. `hosts`: its file of addresses and names, read again on SIGHUP."""

    binary: Path
    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        srv = f"_mcp._tcp.{HEADLESS}"
        words = [
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--listen-address=127.0.0.1",
            "--bind-interfaces",
            f"--port={self.port}",
            "--local=/test/",
            f"--local-ttl={TTL_S}",
            f"--user={os.environ.get('USER', 'root') if os.geteuid() == 0 else ''}",
            f"--pid-file={self.folder / 'dnsmasq.pid'}",
            f"--addn-hosts={self.folder / 'hosts'}",
            f"--srv-host={srv},pod-0.{HEADLESS},8000",
            f"--srv-host={srv},pod-1.{HEADLESS},8001",
        ]
        with (self.folder / "dnsmasq.log").open("ab") as log:
            self.process = subprocess.Popen([str(self.binary), *words], stdout=log, stderr=log)

    def write(self, addresses: Iterable[str], name: str) -> None:
        """Have these addresses, and no other entries."""
        (self.folder / "hosts").write_text("".join(f"{one} {name}\n" for one in addresses), "utf-8")
        if self.process is not None:
            self.process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
        self.process = None


@pytest.fixture
def dnsmasq(tmp_path: Path) -> Iterator[Dnsmasq]:
    """Not started yet."""
    binary = debian_binary(DNSMASQ, fetch=False)
    if binary is None:
        pytest.skip(f"NO DNSMASQ ({why_not()}); `python -m tests.debian_binary` fetches one")
    server = Dnsmasq(binary, tmp_path)
    try:
        yield server
    finally:
        server.stop()


def places(catalog: Catalog) -> set[str]:
    return {f"{one.address}:{one.port}" for one in catalog.instances}


async def test_addresses_of_a_service_are_followed_for_as_long_as_their_ttl_says_and_outlive_their_server(
    dnsmasq: Dnsmasq,
) -> None:
    dnsmasq.write(["10.0.0.1", "10.0.0.2"], COMPOSE)
    dnsmasq.start()
    follower = Follower(DnsSource(f"{COMPOSE}:8000", [dnsmasq.address]))
    async with running(follower.run()):
        await follower.until(lambda seen: len(ids(seen)) == 2)
        seen_at_s = asyncio.get_running_loop().time()
        dnsmasq.write(["10.0.0.1", "10.0.0.2", "10.0.0.3"], COMPOSE)
        await follower.until(lambda seen: len(ids(seen)) == 3)
        assert asyncio.get_running_loop().time() - seen_at_s > TTL_S * 0.5
        dnsmasq.stop()
        await until(lambda: not follower.source.status.up, what="fault", within_s=20)
        dnsmasq.start()
        await until(lambda: follower.source.status.up, what="back", within_s=20)
        dnsmasq.write([], COMPOSE)
        await follower.until(lambda seen: not seen.instances, within_s=20)
        assert "no such name" in follower.source.status.last_error
    assert [len(ids(catalog)) for catalog in follower.catalogs] == [2, 3, 0]


async def test_srv_records_of_a_headless_service_are_dialled_by_the_addresses_that_the_same_server_has(
    dnsmasq: Dnsmasq,
) -> None:
    hosts = {f"pod-0.{HEADLESS}": "10.0.1.1", f"pod-1.{HEADLESS}": "10.0.1.2"}
    (dnsmasq.folder / "hosts").write_text("".join(f"{address} {name}\n" for name, address in hosts.items()), "utf-8")
    dnsmasq.start()
    follower = Follower(DnsSource(f"_mcp._tcp.{HEADLESS}", [dnsmasq.address]))
    async with running(follower.run()):
        seen = await follower.until(lambda seen: places(seen) == {"10.0.1.1:8000", "10.0.1.2:8001"}, within_s=20)
    assert ids(seen) == {f"pod-0.{HEADLESS}-8000", f"pod-1.{HEADLESS}-8001"}


async def test_five_hundred_addresses_of_a_real_server_come_whole(dnsmasq: Dnsmasq) -> None:
    dnsmasq.write([f"10.1.{number // 250}.{number % 250 + 1}" for number in range(500)], COMPOSE)
    dnsmasq.start()
    follower = Follower(DnsSource(f"{COMPOSE}:8000", [dnsmasq.address]))
    async with running(follower.run()):
        await follower.until(lambda seen: len(ids(seen)) == 500, within_s=20)


@pytest.mark.consul
async def test_the_dns_of_consul_and_nomad_is_followed_though_the_system_does_not_know_its_names(
    binary: Path, tmp_path: Path
) -> None:
    port = free_port()
    async with running_consul(binary, tmp_path, ports={"dns": port}) as consul:
        # Beyond three, Consul leaves records out of a datagram and does not say so.
        addresses = [f"10.0.2.{number + 1}" for number in range(20)]
        for number, address in enumerate((*addresses, "node-b.test")):
            entry = {"ID": f"mesh-{number}", "Name": "mcp-node", "Port": 8000 + number, "Address": address}
            await consul.call("PUT", "/v1/agent/service/register", entry)
        follower = Follower(DnsSource("_mcp-node._tcp.service.consul", [f"127.0.0.1:{port}"]))
        async with running(follower.run()):
            wanted = {f"{address}:{8000 + number}" for number, address in enumerate((*addresses, "node-b.test"))}
            await follower.until(lambda seen: places(seen) == wanted, within_s=20)
