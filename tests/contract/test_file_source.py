"""Files as a source of peers: what changes is seen, and nothing that can be wrong with one takes anything away."""

import asyncio
import codecs
import json
import os
import resource
from pathlib import Path

import pytest

from discovery.file import source as files
from discovery.file.source import FileSource
from discovery.model import Catalog
from tests.contract.following import Follower, ids, running, until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds in hundredths."""
    monkeypatch.setattr(files, "POLL_EVERY_S", 0.02)
    monkeypatch.setattr(files, "GONE_AFTER_S", 0.3)


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
        '[{"targets": ["a:1"], "labels": []}]',
        '[{"targets": ["a:1"], "labels": {"name": 5}}]',
        '[{"targets": ["a:1"], "labels": {"__scheme__": true}}]',
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


async def test_a_change_that_cannot_be_read_for_want_of_descriptors_is_read_when_it_can(tmp_path: Path) -> None:
    file = tmp_path / "peers.json"
    file.write_text(listing("10.0.0.1:8000"))
    follower = Follower(FileSource([str(file)]))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with running(follower.run()):
        await follower.until(lambda seen: places(seen) == {"10.0.0.1:8000"})
        file.write_text(listing("10.0.0.2:8000"))
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
            await until(lambda: "Too many open files" in follower.source.status.last_error, what="fault")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        await follower.until(lambda seen: places(seen) == {"10.0.0.2:8000"})


async def test_a_byte_order_mark_and_labels_of_others_are_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "peers.json"
    labels = {"env": 5, "team": ["a"], "name": None}
    file.write_bytes(codecs.BOM_UTF8 + json.dumps([{"targets": ["10.0.0.1:8000"], "labels": labels}]).encode())
    follower = Follower(FileSource([str(file)]))
    async with running(follower.run()):
        await follower.until(lambda seen: places(seen) == {"10.0.0.1:8000"})
    assert follower.source.status.last_error == ""


@pytest.mark.parametrize("kind", ["pipe", "folder"])
async def test_what_is_no_file_keeps_what_the_file_said_and_holds_up_nothing(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "peers.json"
    file.write_text(listing("10.0.0.1:8000"))
    follower = Follower(FileSource([str(tmp_path / "*.json")]))
    async with running(follower.run()):
        await follower.until(lambda seen: places(seen) == {"10.0.0.1:8000"})
        file.unlink()
        os.mkfifo(file) if kind == "pipe" else file.mkdir()
        await until(lambda: f"it is a {kind}" in follower.source.status.last_error, what="fault")
        file.unlink() if kind == "pipe" else file.rmdir()
        file.write_text(listing("10.0.0.2:8000"))
        await follower.until(lambda seen: places(seen) == {"10.0.0.2:8000"})
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


async def test_files_of_a_volume_that_is_not_mounted_any_more_keep_what_they_said(tmp_path: Path) -> None:
    folder, away = tmp_path / "volume", tmp_path / "away"
    folder.mkdir()
    (folder / "peers.json").write_text(listing("10.0.0.1:8000"))
    follower = Follower(FileSource([str(folder / "*.json")]))
    async with running(follower.run()):
        await follower.until(lambda seen: places(seen) == {"10.0.0.1:8000"})
        folder.rename(away)
        began_at_s = asyncio.get_running_loop().time()
        await until(lambda: "its folder is gone" in follower.source.status.last_error, what="fault")
        await until(lambda: asyncio.get_running_loop().time() > began_at_s + 2 * files.GONE_AFTER_S, what="too long")
        away.rename(folder)
        await until(lambda: follower.source.status.up, what="back")
        assert follower.catalogs[1:] == []
        (folder / "peers.json").unlink()
        await follower.until(lambda seen: not seen.instances)


@pytest.mark.parametrize(
    ("leads_to", "fault"),
    # To itself once it is in place; and where a volume of links, as of a ConfigMap, has lost what they lead to.
    [("peers.json", "symbolic links"), ("..data/peers.json", "a link that leads nowhere")],
)
async def test_a_file_that_cannot_be_looked_at_is_not_a_file_that_is_gone(
    leads_to: str, fault: str, tmp_path: Path
) -> None:
    file = tmp_path / "peers.json"
    file.write_text(listing("10.0.0.1:8000"))
    follower = Follower(FileSource([str(tmp_path / "*.json")]))
    async with running(follower.run()):
        await follower.until(lambda seen: places(seen) == {"10.0.0.1:8000"})
        draft = tmp_path / "draft"
        draft.symlink_to(leads_to)
        draft.replace(file)
        began_at_s = asyncio.get_running_loop().time()
        await until(lambda: fault in follower.source.status.last_error, what="fault")
        await until(lambda: asyncio.get_running_loop().time() > began_at_s + 2 * files.GONE_AFTER_S, what="too long")
        file.unlink()
        file.write_text(listing("10.0.0.2:8000"))
        await follower.until(lambda seen: places(seen) == {"10.0.0.2:8000"})
        assert follower.source.status.up
    assert len(follower.catalogs) == 2
