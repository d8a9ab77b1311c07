"""A name of DNS as a source of peers, with real name servers: Debian's dnsmasq and unbound, Consul's own.

What no server does on demand (silence, a zone that is empty for a moment) is in test_dns_source. The one rule: an
answer is followed as the server gives it, whole, and a server that is away takes nothing with it.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

from discovery.backoff import Backoff
from discovery.dns import lookup, source
from discovery.dns.source import DnsSource
from discovery.model import Catalog
from tests.consul_process import running_consul
from tests.contract.dns_server import name_server, over_udp_first
from tests.contract.following import Follower, ids, running, until
from tests.debian_binary import DNSMASQ, UNBOUND, debian_binary, why_not
from tests.ports import free_port

TTL_S = 1
# As Compose and Kubernetes call them: a service, and a headless service with a named port.
COMPOSE, HEADLESS = "mesh.test", "mesh.default.svc.cluster.test"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes in tenths of a second; a TTL is kept as it is."""
    monkeypatch.setattr(source, "TTL_MIN_S", 0.02)
    monkeypatch.setattr(source, "NO_NAME_AFTER_S", 0.3)
    monkeypatch.setattr(lookup, "ANSWER_TIMEOUT_S", 2.0)
    monkeypatch.setattr(source, "ASK_AGAIN", Backoff(first_s=0.05, last_s=0.2))


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


@contextmanager
def unbound(folder: Path, *words: str) -> Iterator[str]:
    """Serve as a resolver until the end; `words`: lines of its server clause. Yields its address."""
    binary, port = debian_binary(UNBOUND, fetch=False), free_port()
    if binary is None:
        pytest.skip(f"NO UNBOUND ({why_not()}); `python -m tests.debian_binary` fetches one")
    lines = [
        "server:",
        f'directory: "{folder}"',
        'chroot: ""',
        'pidfile: ""',
        'username: ""',
        "use-syslog: no",
        "interface: 127.0.0.1",
        f"port: {port}",
        "do-not-query-localhost: no",
        "module-config: iterator",
        # What it hears is asked for again at once, a failure too.
        "cache-max-ttl: 0",
        "cache-max-negative-ttl: 0",
        *words,
    ]
    configuration = folder / "unbound.conf"
    configuration.write_text("\n".join([*lines, ""]), "utf-8")
    with (folder / "unbound.log").open("ab") as log:
        process = subprocess.Popen([str(binary), "-d", "-d", "-c", str(configuration)], stdout=log, stderr=log)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(10)


def forwarding(port: int) -> list[str]:
    """Have what is below `test`, which a resolver else knows to be none, from a server on this machine."""
    return ['local-zone: "test." nodefault', "forward-zone:", 'name: "test."', f"forward-addr: 127.0.0.1@{port}"]


async def test_a_resolver_that_cannot_reach_the_zones_own_server_says_so_and_nothing_goes(tmp_path: Path) -> None:
    async with name_server() as zone:
        zone.records |= {("both.test", "A"): ["10.0.0.1", "10.0.0.2"], ("both.test", "AAAA"): ["fd00::1"]}
        with unbound(tmp_path, *forwarding(zone.port)) as address:
            follower = Follower(DnsSource("both.test:8000", [address], reaches=lambda _one: True))
            async with running(follower.run()):
                await follower.until(lambda seen: len(ids(seen)) == 3, within_s=20)
                zone.faults["AAAA"] = dns.rcode.SERVFAIL
                await until(lambda: "AAAA records" in follower.source.status.last_error, what="one kind", within_s=20)
                assert "SERVFAIL" in follower.source.status.last_error
                zone.records["both.test", "A"].append("10.0.0.3")
                await follower.until(lambda seen: len(ids(seen)) == 4, within_s=20)
                zone.fault = dns.rcode.SERVFAIL
                await until(lambda: "A records" in follower.source.status.last_error, what="both kinds", within_s=20)
                zone.fault, zone.faults = None, {}
                await until(lambda: follower.source.status.up, what="back", within_s=30)
    assert [len(ids(catalog)) for catalog in follower.catalogs] == [3, 4]


@pytest.mark.parametrize("kind", ["A", "AAAA"])
async def test_five_hundred_addresses_that_unbound_cuts_off_in_a_datagram_come_whole(tmp_path: Path, kind: str) -> None:
    text = {"A": "10.1.{}.{}", "AAAA": "fd00::{}:{}"}[kind]
    addresses = [text.format(number // 250, number % 250 + 1) for number in range(500)]
    zone = ['local-zone: "test." static', *(f'local-data: "many.test. 1 IN {kind} {one}"' for one in addresses)]
    with unbound(tmp_path, *zone) as address:
        await until(lambda: is_cut_off(address, "many.test", kind), what="cut off in a datagram", within_s=20)
        follower = Follower(over_udp_first(DnsSource("many.test:8000", [address])))
        async with running(follower.run()):
            await follower.until(lambda seen: len(ids(seen)) == 500, within_s=20)


async def test_five_hundred_srv_records_of_unbound_come_with_the_address_of_each(tmp_path: Path) -> None:
    pods = [(f"pod-{number}.test.", f"10.2.{number // 250}.{number % 250 + 1}") for number in range(500)]
    zone = ['local-zone: "test." static']
    zone += [f'local-data: "_mcp._tcp.test. 1 IN SRV 0 0 8000 {pod}"' for pod, _ in pods]
    zone += [f'local-data: "{pod} 1 IN A {address}"' for pod, address in pods]
    with unbound(tmp_path, *zone) as address:
        follower = Follower(DnsSource("_mcp._tcp.test", [address]))
        async with running(follower.run()):
            wanted = {f"{address}:8000" for _, address in pods}
            await follower.until(lambda seen: places(seen) == wanted, within_s=40)


async def test_a_name_that_unbound_does_not_know_takes_nothing_away_before_that_is_confirmed(tmp_path: Path) -> None:
    async with name_server() as zone:
        zone.records["nodes.test", "A"] = ["10.0.0.1"]
        with unbound(tmp_path, *forwarding(zone.port)) as address:
            follower = Follower(DnsSource("nodes.test:8000", [address]))
            async with running(follower.run()):
                await follower.until(lambda seen: len(ids(seen)) == 1, within_s=20)
                zone.records.clear()
                await until(lambda: follower.source.status.holding_removals, what="doubt", within_s=20)
                assert [len(ids(catalog)) for catalog in follower.catalogs] == [1]
                await follower.until(lambda seen: not seen.instances, within_s=20)


def is_cut_off(address: str, name: str, kind: str) -> bool:
    """Whether a question over UDP gets an answer that is marked as cut off."""
    host, _, port = address.rpartition(":")
    with suppress(dns.exception.DNSException, OSError):
        return bool(dns.query.udp(dns.message.make_query(name, kind), host, 0.2, int(port)).flags & dns.flags.TC)
    return False


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
