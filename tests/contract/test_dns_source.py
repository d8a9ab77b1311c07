"""A name of DNS as a source of peers: what changes is seen, and no error takes anything away (scripted servers)."""

import dns.rcode
import pytest

from discovery.dns import lookup, source
from discovery.dns.source import DnsSource
from discovery.model import Catalog
from tests.contract.dns_server import name_server, over_udp_first
from tests.contract.following import Follower, ids, running, until

SRV = "_mcp._tcp.mesh.test"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes in tenths of a second."""
    monkeypatch.setattr(source, "TTL_MIN_S", 0.02)
    monkeypatch.setattr(source, "CONFIRM_AFTER_S", 0.1)
    monkeypatch.setattr(source, "NO_NAME_AFTER_S", 0.3)
    monkeypatch.setattr(source, "NOTHING_AGAIN_S", 0.1)


def places(catalog: Catalog) -> set[str]:
    return {f"{one.address}:{one.port}" for one in catalog.instances}


async def test_srv_records_and_addresses_are_followed_as_long_as_their_ttl_says() -> None:
    async with name_server() as server:
        server.records[SRV, "SRV"] = ["0 0 8000 one.mesh.test.", "0 0 8001 two.mesh.test."]
        server.records["nodes.test", "A"] = ["10.0.0.1"]
        server.records["six.test", "AAAA"] = ["fd00::2"]
        by_name = {
            name: Follower(DnsSource(name, [server.address])) for name in (SRV, "nodes.test:8000", "six.test:8000")
        }
        async with running(*(follower.run() for follower in by_name.values())):
            await by_name[SRV].until(lambda seen: places(seen) == {"one.mesh.test:8000", "two.mesh.test:8001"})
            await by_name["nodes.test:8000"].until(lambda seen: places(seen) == {"10.0.0.1:8000"})
            await by_name["six.test:8000"].until(lambda seen: places(seen) == {"fd00::2:8000"})
            server.records["nodes.test", "A"] = ["10.0.0.1", "10.0.0.2"]
            await by_name["nodes.test:8000"].until(lambda seen: places(seen) == {"10.0.0.1:8000", "10.0.0.2:8000"})


async def test_a_root_as_target_says_that_there_is_no_such_service() -> None:
    async with name_server() as server:
        server.records[SRV, "SRV"] = ["0 0 8000 one.mesh.test."]
        follower = Follower(DnsSource(SRV, [server.address]))
        async with running(follower.run()):
            await follower.until(lambda seen: places(seen) == {"one.mesh.test:8000"})
            server.records[SRV, "SRV"] = ["0 0 0 ."]
            await follower.until(lambda seen: places(seen) == set())
            assert follower.source.status.last_error == ""


@pytest.mark.parametrize("other", [{}, {("late.test", "TXT"): ["it has another record"]}])
async def test_a_name_that_gets_its_first_records_is_found_soon(other: dict[tuple[str, str], list[str]]) -> None:
    async with name_server() as server:
        server.records.update(other)
        follower = Follower(DnsSource("late.test:8000", [server.address]))
        async with running(follower.run()):
            await until(lambda: server.over_tcp >= 2, what="asked for")
            server.records["late.test", "A"] = ["10.0.0.1"]
            await follower.until(lambda seen: places(seen) == {"10.0.0.1:8000"}, within_s=2)


def everywhere(_address: str) -> bool:
    """Has a route."""
    return True


async def test_addresses_of_both_kinds_are_found_though_they_may_be_of_other_machines() -> None:
    async with name_server() as server:
        server.records["both.test", "A"] = ["10.0.0.1", "10.0.0.2"]
        server.records["both.test", "AAAA"] = ["fd00::1", "fd00::3"]
        both = Follower(DnsSource("both.test:8000", [server.address], reaches=everywhere))
        without_six = Follower(DnsSource("both.test:8000", [server.address], reaches=lambda one: ":" not in one))
        nowhere = Follower(DnsSource("both.test:8000", [server.address], reaches=lambda _one: False))
        async with running(both.run(), without_six.run(), nowhere.run()):
            all_four = {"10.0.0.1:8000", "10.0.0.2:8000", "fd00::1:8000", "fd00::3:8000"}
            await both.until(lambda seen: places(seen) == all_four)
            await without_six.until(lambda seen: places(seen) == {"10.0.0.1:8000", "10.0.0.2:8000"})
            await nowhere.until(lambda seen: places(seen) == all_four)


@pytest.mark.parametrize("kind", ["A", "AAAA"])
async def test_an_error_for_one_kind_of_addresses_keeps_those_and_the_other_kind_goes_on(kind: str) -> None:
    new = {"A": ("AAAA", "fd00::9"), "AAAA": ("A", "10.0.0.9")}[kind]
    async with name_server() as server:
        server.records |= {("both.test", "A"): ["10.0.0.1"], ("both.test", "AAAA"): ["fd00::1"]}
        follower = Follower(DnsSource("both.test:8000", [server.address], reaches=everywhere))
        async with running(follower.run()):
            before = await follower.until(lambda seen: len(ids(seen)) == 2)
            server.faults[kind] = dns.rcode.SERVFAIL
            await until(lambda: f"{kind} records" in follower.source.status.last_error, what="named")
            assert not follower.source.status.up
            server.records["both.test", new[0]].append(new[1])
            await follower.until(lambda seen: places(seen) == places(before) | {f"{new[1]}:8000"})
            server.faults.clear()
            await until(lambda: follower.source.status.up, what="back")
            assert follower.source.status.last_error == ""
        assert len(follower.catalogs) == 2


async def test_a_server_that_never_answers_for_one_kind_of_addresses_is_no_fault_and_is_named() -> None:
    async with name_server() as server:
        server.records["four.test", "A"] = ["10.0.0.1"]
        server.faults["AAAA"] = dns.rcode.SERVFAIL
        follower = Follower(DnsSource("four.test:8000", [server.address]))
        async with running(follower.run()):
            await follower.until(lambda seen: places(seen) == {"10.0.0.1:8000"})
            assert follower.source.status.up
            assert "AAAA records" in follower.source.status.last_error


async def test_a_start_begins_with_both_kinds_as_they_were_while_one_of_them_cannot_be_learned() -> None:
    async with name_server() as server:
        server.records |= {("both.test", "A"): ["10.0.0.1"], ("both.test", "AAAA"): ["fd00::1"]}
        before = Follower(DnsSource("both.test:8000", [server.address], reaches=everywhere))
        async with running(before.run()):
            known = await before.until(lambda seen: len(ids(seen)) == 2)
        server.faults["AAAA"] = dns.rcode.SERVFAIL
        follower = Follower(DnsSource("both.test:8000", [server.address], known, reaches=everywhere))
        async with running(follower.run()):
            await until(lambda: "AAAA records" in follower.source.status.last_error, what="named")
            assert follower.catalogs == [known]


async def test_a_name_is_asked_again_when_its_ttl_is_over_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "TTL_MIN_S", 0.1)
    async with name_server() as server:
        server.ttl_s = 1
        server.records["kept.test", "A"] = ["10.0.0.1"]
        follower = Follower(DnsSource("kept.test:8000", [server.address]))
        async with running(follower.run()):
            await until(lambda: len(server.asked_at_s.get("A", [])) >= 3, what="asked three times")
        first, second, third = server.asked_at_s["A"][:3]
        assert min(second - first, third - second) > 0.95


@pytest.mark.parametrize(("said_s", "kept_s"), [(0, 2.0), (7, 7.0), (3_600, 3_600.0), (2**31 - 1, 86_400.0)])
async def test_a_ttl_is_kept_between_two_seconds_and_a_day(
    monkeypatch: pytest.MonkeyPatch, said_s: int, kept_s: float
) -> None:
    monkeypatch.undo()
    async with name_server() as server:
        server.ttl_s = said_s
        server.records |= {(SRV, "SRV"): ["0 0 8000 one.mesh.test."], ("one.mesh.test", "A"): ["10.0.0.1"]}
        for name in (SRV, "one.mesh.test:8000"):
            assert (await DnsSource(name, [server.address])._ask()).ttl_s == kept_s


async def test_the_ten_minutes_that_dockers_resolver_says_of_all_names_hide_no_new_replica() -> None:
    async with name_server(host=lookup.DOCKER_RESOLVER) as server:
        server.ttl_s = 600
        server.records["mesh", "A"] = ["10.0.0.1"]
        assert (await DnsSource("mesh:8000", [server.address])._ask()).ttl_s == 10.0


async def test_five_hundred_records_come_whole_though_a_datagram_cannot_hold_them() -> None:
    async with name_server() as server:
        server.records["many.test", "A"] = [f"10.1.{n // 250}.{n % 250 + 1}" for n in range(500)]
        follower = Follower(over_udp_first(DnsSource("many.test:8000", [server.address])))
        async with running(follower.run()):
            await follower.until(lambda seen: len(ids(seen)) == 500)
        assert server.over_udp >= 2
        assert server.over_tcp >= 1


async def test_a_server_that_was_set_and_speaks_no_tcp_is_asked_over_udp() -> None:
    async with name_server(over_tcp=False) as server:
        server.records["few.test", "A"] = ["10.0.0.1"]
        follower = Follower(DnsSource("few.test:8000", [server.address]))
        async with running(follower.run()):
            await follower.until(lambda seen: places(seen) == {"10.0.0.1:8000"})


@pytest.mark.parametrize("fault", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, None])
async def test_an_error_of_dns_takes_nothing_away(
    fault: dns.rcode.Rcode | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with name_server() as server:
        server.records["nodes.test", "A"] = ["10.0.0.1", "10.0.0.2"]
        follower = Follower(DnsSource("nodes.test:8000", [server.address]))
        async with running(follower.run()):
            await follower.until(lambda seen: len(ids(seen)) == 2)
            monkeypatch.setattr(lookup, "ANSWER_TIMEOUT_S", 0.5)
            server.fault, server.silent = fault, fault is None
            await until(lambda: not follower.source.status.up, what="fault")
            assert "nodes.test" in follower.source.status.last_error
            server.fault, server.silent = None, False
            await until(lambda: follower.source.status.up, what="back")
        assert len(follower.catalogs) == 1


async def test_a_start_without_a_name_server_begins_with_what_was_known_of_the_name() -> None:
    async with name_server() as server:
        server.records[SRV, "SRV"] = ["0 0 8000 one.mesh.test.", "0 0 8001 two.mesh.test."]
        server.records |= {("one.mesh.test", "A"): ["10.0.0.1"], ("two.mesh.test", "A"): ["10.0.0.2"]}
        before = Follower(DnsSource(SRV, [server.address]))
        async with running(before.run()):
            known = await before.until(lambda seen: places(seen) == {"10.0.0.1:8000", "10.0.0.2:8001"})
        server.fault = dns.rcode.SERVFAIL
        follower = Follower(DnsSource(SRV, [server.address], known))
        async with running(follower.run()):
            await until(lambda: "SERVFAIL" in follower.source.status.last_error, what="fault")
            assert follower.catalogs == [known]
            server.fault = None
            del server.records["two.mesh.test", "A"]  # Its last address serves; the name alone may mean nothing here.
            await until(lambda: follower.source.status.up, what="back")
            assert follower.catalogs == [known]
            server.records[SRV, "SRV"] = ["0 0 8000 one.mesh.test.", "0 0 8001 new.mesh.test."]
            await follower.until(lambda seen: places(seen) == {"10.0.0.1:8000", "new.mesh.test:8001"})


async def test_an_error_for_one_kind_of_addresses_of_a_target_changes_none_that_is_known() -> None:
    async with name_server() as server:
        server.records |= {(SRV, "SRV"): ["0 0 8000 one.mesh.test."], ("one.mesh.test", "A"): ["10.0.0.1"]}
        server.records |= {("one.mesh.test", "AAAA"): ["fd00::1"], ("two.mesh.test", "AAAA"): ["fd00::2"]}
        follower = Follower(DnsSource(SRV, [server.address]))
        async with running(follower.run()):
            await follower.until(lambda seen: places(seen) == {"10.0.0.1:8000"})
            server.faults["A"] = dns.rcode.SERVFAIL
            server.records[SRV, "SRV"].append("0 0 8001 two.mesh.test.")
            await follower.until(lambda seen: places(seen) == {"10.0.0.1:8000", "fd00::2:8001"})


async def test_a_name_or_most_of_its_records_are_gone_only_when_that_is_said_again() -> None:
    async with name_server() as server:
        server.records["nodes.test", "A"] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
        follower = Follower(DnsSource("nodes.test:8000", [server.address]))
        async with running(follower.run()):
            await follower.until(lambda seen: len(ids(seen)) == 3)
            server.records["nodes.test", "A"] = ["10.0.0.3"]
            await until(lambda: follower.source.status.holding_removals, what="doubt")
            server.records["nodes.test", "A"] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
            await until(lambda: not follower.source.status.holding_removals, what="no doubt")
            assert len(follower.catalogs) == 1
            server.records["nodes.test", "A"] = ["10.0.0.1", "10.0.0.2"]  # A lone one goes at once.
            await follower.until(lambda seen: len(ids(seen)) == 2)
            server.records.clear()
            await until(lambda: follower.source.status.holding_removals, what="doubt")
            await follower.until(lambda seen: not seen.instances)
            assert "no such name" in follower.source.status.last_error
