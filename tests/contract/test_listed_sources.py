"""Sources that list addresses, files and names of DNS: what changes is seen, and no error takes anything away."""

import asyncio
import json
from pathlib import Path

import dns.rcode
import pytest

from discovery.listed import files, names
from discovery.listed.files import FileSource
from discovery.listed.names import DnsSource
from discovery.model import Catalog
from tests.contract.dns_server import name_server
from tests.contract.following import Follower, ids, running, until

SRV = "_mcp._tcp.mesh.test"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes in tenths of a second."""
    monkeypatch.setattr(files, "POLL_EVERY_S", 0.02)
    monkeypatch.setattr(files, "GONE_AFTER_S", 0.3)
    monkeypatch.setattr(names, "TTL_MIN_S", 0.02)
    monkeypatch.setattr(names, "CONFIRM_AFTER_S", 0.1)
    monkeypatch.setattr(names, "NO_NAME_AFTER_S", 0.3)
    monkeypatch.setattr(names, "NOTHING_AGAIN_S", 0.1)
    monkeypatch.setattr(names, "ANSWER_TIMEOUT_S", 0.5)


def listing(*targets: str, **labels: str) -> str:
    return json.dumps([{"targets": list(targets), "labels": labels}])


def places(catalog: Catalog) -> set[str]:
    return {f"{one.address}:{one.port}" for one in catalog.instances}


async def test_files_are_found_by_globs_and_read_again_when_they_change(tmp_path: Path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.yaml"
    one.write_text(listing("10.0.0.1:8000", "[fd00::1]:8001"))
    follower = Follower(FileSource([str(tmp_path / "*.json"), str(tmp_path / "*.yaml")]))
    async with running(follower.run()):
        await follower.until(lambda seen: places(seen) == {"10.0.0.1:8000", "fd00::1:8001"})
        two.write_text("- targets: ['node-b.test:9000']\n  labels: {name: node-b, __scheme__: https, team: ops}\n")
        seen = await follower.until(lambda seen: len(seen.instances) == 3)
        named = next(one for one in seen.instances if one.address == "node-b.test")
        assert (named.key.service_id, dict(named.meta)) == ("node-b", {"name": "node-b", "scheme": "https"})
        draft = tmp_path / "draft"
        draft.write_text(listing("10.0.0.2:8000"))
        draft.replace(one)
        await follower.until(lambda seen: places(seen) == {"10.0.0.2:8000", "node-b.test:9000"})
        one.write_text("[]")
        await follower.until(lambda seen: places(seen) == {"node-b.test:9000"})
    assert follower.source.status.up


@pytest.mark.parametrize(
    "broken",
    [
        '[{"targets": ["10.0.0.9:80',
        "{}",
        '[{"targets": "x"}]',
        '[{"targets": ["no-port"]}]',
        "null",
        '[{"targets": ["a:0"]}]',
    ],
)
async def test_a_broken_or_half_written_file_keeps_what_it_said_and_the_status_says_why(
    tmp_path: Path, broken: str
) -> None:
    file = tmp_path / "peers.json"
    file.write_text(listing("10.0.0.1:8000"))
    follower = Follower(FileSource([str(file)]))
    async with running(follower.run()):
        await follower.until(lambda seen: places(seen) == {"10.0.0.1:8000"})
        file.write_text(broken)
        await until(lambda: "peers.json" in follower.source.status.last_error, what="fault")
        assert not follower.source.status.up
        file.write_text(listing("10.0.0.2:8000"))
        await follower.until(lambda seen: places(seen) == {"10.0.0.2:8000"})
        assert follower.source.status.last_error == ""
    assert len(follower.catalogs) == 2


async def test_a_start_with_a_half_written_file_begins_with_what_was_known_of_it(tmp_path: Path) -> None:
    half, whole = tmp_path / "half.json", tmp_path / "whole.json"
    half.write_text(listing("10.0.0.1:8000"))
    whole.write_text(listing("10.0.0.2:8000"))
    before = Follower(FileSource([str(tmp_path / "*.json")]))
    async with running(before.run()):
        known = await before.until(lambda seen: places(seen) == {"10.0.0.1:8000", "10.0.0.2:8000"})
    half.write_text('[{"targets": ["10.0.0.1:80')
    whole.write_text(listing("10.0.0.3:8000"))
    follower = Follower(FileSource([str(tmp_path / "*.json")], known))
    async with running(follower.run()):
        await follower.until(lambda seen: places(seen) == {"10.0.0.1:8000", "10.0.0.3:8000"})
        assert follower.catalogs[0] == known
        assert "half.json" in follower.source.status.last_error
        half.write_text(listing("10.0.0.4:8000"))
        await follower.until(lambda seen: places(seen) == {"10.0.0.3:8000", "10.0.0.4:8000"})


async def test_a_file_that_was_deleted_while_the_node_was_down_counts_a_while_and_no_longer(tmp_path: Path) -> None:
    file = tmp_path / "peers.json"
    file.write_text(listing("10.0.0.1:8000"))
    before = Follower(FileSource([str(file)]))
    async with running(before.run()):
        known = await before.until(lambda seen: places(seen) == {"10.0.0.1:8000"})
    file.unlink()
    follower = Follower(FileSource([str(file)], known))
    async with running(follower.run()):
        await follower.until(lambda seen: not seen.instances, within_s=2 * files.GONE_AFTER_S)
    assert follower.catalogs == [known, Catalog()]


@pytest.mark.parametrize("broken", ["- targets: !!bool x", "- !!int ''", "[" * 1_000, "- targets: [", "\x00"])
async def test_no_text_of_a_yaml_file_ends_the_source_or_takes_a_peer_away(tmp_path: Path, broken: str) -> None:
    file = tmp_path / "peers.yml"
    file.write_text("- targets: ['10.0.0.1:8000']")
    follower = Follower(FileSource([str(file)]))
    async with running(follower.run()):
        await follower.until(lambda seen: places(seen) == {"10.0.0.1:8000"})
        file.write_text(broken)
        await until(lambda: "peers.yml" in follower.source.status.last_error, what="fault")
        file.write_text("- targets: ['10.0.0.2:8000']")
        await follower.until(lambda seen: places(seen) == {"10.0.0.2:8000"})
    assert len(follower.catalogs) == 2


async def test_yaml_that_was_cut_after_a_line_takes_no_peer_away_before_it_has_stayed_so(tmp_path: Path) -> None:
    file = tmp_path / "peers.yml"
    lines = ["- targets: ['10.0.0.1:8000']\n", "- targets: ['10.0.0.2:8000']\n"]
    file.write_text("".join(lines))
    source = FileSource([str(file)])
    follower = Follower(source)
    async with running(follower.run()):
        await follower.until(lambda seen: len(ids(seen)) == 2)
        file.write_text(lines[0])  # Its writer is not done yet.
        await until(lambda: any(one.doubted != files._NO_STAMP for one in source._files.values()), what="seen once")
        file.write_text("".join([*lines, "- targets: ['10.0.0.3:8000']\n"]))
        await follower.until(lambda seen: len(ids(seen)) == 3)
        assert [len(ids(seen)) for seen in follower.catalogs] == [2, 3]
        file.write_text(lines[1])
        await follower.until(lambda seen: places(seen) == {"10.0.0.2:8000"})


async def test_a_file_that_is_gone_counts_a_while_longer_and_one_that_is_missing_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "peers.json"
    follower = Follower(FileSource([str(file)]))
    async with running(follower.run()):
        await until(lambda: "no file matches" in follower.source.status.last_error, what="missing")
        file.write_text(listing("10.0.0.1:8000"))
        await follower.until(lambda seen: places(seen) == {"10.0.0.1:8000"})
        file.unlink()
        file.write_text(listing("10.0.0.1:8000"))
        assert follower.catalogs[1:] == []
        file.unlink()
        await follower.until(lambda seen: not seen.instances)
    assert len(follower.catalogs) == 2


async def test_a_file_that_cannot_be_looked_at_is_not_a_file_that_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "peers.json"
    file.write_text(listing("10.0.0.1:8000"))
    follower = Follower(FileSource([str(tmp_path / "*.json")]))
    async with running(follower.run()):
        await follower.until(lambda seen: places(seen) == {"10.0.0.1:8000"})
        draft = tmp_path / "draft"
        draft.symlink_to("peers.json")  # A link to itself once it is in place, which cannot be followed.
        draft.replace(file)
        began_at_s = asyncio.get_running_loop().time()
        await until(lambda: "symbolic links" in follower.source.status.last_error, what="fault")
        await until(lambda: asyncio.get_running_loop().time() > began_at_s + 2 * files.GONE_AFTER_S, what="too long")
        file.unlink()
        file.write_text(listing("10.0.0.2:8000"))
        await follower.until(lambda seen: places(seen) == {"10.0.0.2:8000"})
        assert follower.source.status.up
    assert len(follower.catalogs) == 2


async def test_srv_records_and_addresses_are_followed_as_long_as_their_ttl_says() -> None:
    async with name_server() as server:
        server.records[SRV, "SRV"] = ["0 0 8000 one.mesh.test.", "0 0 8001 two.mesh.test."]
        server.records["nodes.test", "A"] = ["10.0.0.1"]
        server.records["nodes.test", "AAAA"] = ["fd00::1"]
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


@pytest.mark.parametrize("other", [{}, {("late.test", "TXT"): ["it has another record"]}])
async def test_a_name_that_gets_its_first_records_is_found_soon(other: dict[tuple[str, str], list[str]]) -> None:
    async with name_server() as server:
        server.records.update(other)
        follower = Follower(DnsSource("late.test:8000", [server.address]))
        async with running(follower.run()):
            await until(lambda: server.over_tcp >= 2, what="asked for")
            server.records["late.test", "A"] = ["10.0.0.1"]
            await follower.until(lambda seen: places(seen) == {"10.0.0.1:8000"}, within_s=2)


async def test_five_hundred_records_come_whole_though_a_datagram_cannot_hold_them() -> None:
    async with name_server() as server:
        server.records["many.test", "A"] = [f"10.1.{n // 250}.{n % 250 + 1}" for n in range(500)]
        source = DnsSource("many.test:8000", [server.address])
        source._made_resolver()
        source._servers = ()  # As if it were the system's own, which is asked over UDP first.
        follower = Follower(source)
        async with running(follower.run()):
            await follower.until(lambda seen: len(ids(seen)) == 500)
        assert server.over_tcp == server.over_udp >= 1


async def test_a_server_that_was_set_and_speaks_no_tcp_is_asked_over_udp() -> None:
    async with name_server(over_tcp=False) as server:
        server.records["few.test", "A"] = ["10.0.0.1"]
        follower = Follower(DnsSource("few.test:8000", [server.address]))
        async with running(follower.run()):
            await follower.until(lambda seen: places(seen) == {"10.0.0.1:8000"})


@pytest.mark.parametrize("fault", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, None])
async def test_an_error_of_dns_takes_nothing_away(fault: dns.rcode.Rcode | None) -> None:
    async with name_server() as server:
        server.records["nodes.test", "A"] = ["10.0.0.1", "10.0.0.2"]
        follower = Follower(DnsSource("nodes.test:8000", [server.address]))
        async with running(follower.run()):
            await follower.until(lambda seen: len(ids(seen)) == 2)
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
