"""The trail of a running node: what is on the disk when, rotation, crashes, a disk that refuses."""

import asyncio
import os
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from agent.audit import files
from agent.audit import trail as trail_module
from agent.audit.chain import checked
from agent.audit.files import AuditFile, older_files
from agent.audit.trail import REFUSALS_EACH_MAX, Trail
from agent.errors import ConfigRefused


@asynccontextmanager
async def running(path: Path, **options: Any) -> AsyncIterator[Trail]:
    trail = Trail(path, **options)
    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(trail.run(), name="audit")
        await trail.act("begun", "test")
        yield trail
        writing.cancel()


def records(path: Path) -> list[dict[str, Any]]:
    found = [record for one in (*older_files(path), path) for record, _ in checked(one.read_bytes().splitlines())]
    return [record for record in found if record["act"] != "begun"]


async def test_an_act_is_in_the_file_when_it_returns_and_a_call_before_it_too(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with running(path, records_calls=True) as trail:
        trail.call("ci", "tools/call", "a__b", "ok")
        await trail.act("peer.add", "ops", peer="two")
        assert [record["act"] for record in records(path)] == ["call", "peer.add"]
    assert path.stat().st_mode & 0o777 == 0o600


async def test_what_waits_at_the_end_is_written_and_the_chain_goes_on_at_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with running(path) as trail:
        trail.refusal("ci", "tools/call a__b", "its tools are c")
    async with running(path) as trail:
        await trail.act("peer.remove", "ops", peer="two")
    assert [(record["seq"], record["act"]) for record in records(path)] == [(2, "refused"), (4, "peer.remove")]


async def test_what_a_crash_left_of_a_line_is_cut_and_said(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with running(path) as trail:
        await trail.act("peer.add", "ops", peer="two")
    with path.open("ab") as file:
        file.write(b'{"act":"peer.re')
    async with running(path) as trail:
        await trail.act("peer.add", "ops", peer="three")
    assert [record["act"] for record in records(path)] == ["peer.add", "audit.torn", "peer.add"]
    assert records(path)[1]["bytes"] == 15


@pytest.mark.parametrize("limit", ["FILE_BYTES_MAX", "FILE_AGE_MAX_S"])
async def test_a_full_or_old_file_gives_way_to_another_and_the_oldest_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(files, limit, 0)
    monkeypatch.setattr(files, "FILES_KEPT_MAX", 3)
    path = tmp_path / "audit.jsonl"
    async with running(path) as trail:
        for number in range(6):
            await trail.act("peer.add", "ops", peer=str(number))
    assert [one.name for one in older_files(path)] == ["audit.jsonl.4", "audit.jsonl.5", "audit.jsonl.6"]
    assert [record["seq"] for record in records(path)] == [4, 5, 6, 7]
    monkeypatch.undo()
    path.unlink()
    reopened = AuditFile(path)
    reopened.close()
    assert reopened.head.seq == 6, "a crash between two files loses nothing"


async def test_a_full_file_goes_on_where_there_is_no_descriptor_for_another_until_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, limits = tmp_path / "audit.jsonl", resource.getrlimit(resource.RLIMIT_NOFILE)
    async with running(path) as trail:
        await trail.act("peer.add", "ops", peer="one")
        monkeypatch.setattr(files, "FILE_BYTES_MAX", 0)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
            await trail.act("peer.add", "ops", peer="two")
            await trail.act("peer.add", "ops", peer="three")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert ([record["seq"] for record in records(path)], older_files(path)) == ([2, 3, 4], [])
        await trail.act("peer.add", "ops", peer="four")
    assert [one.name for one in older_files(path)] == ["audit.jsonl.4"]
    assert [record["seq"] for record in records(path)] == [2, 3, 4, 5]


async def test_one_process_writes_a_file_and_another_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with running(path):
        with pytest.raises(ConfigRefused, match="another node writes this audit"):
            Trail(path)
    with pytest.raises(ConfigRefused, match="cannot be written"):
        Trail(tmp_path / "none" / "audit.jsonl")
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(ConfigRefused, match="cannot be written: link is a link, and none is followed here"):
        Trail(tmp_path / "link")


async def test_a_disk_that_refuses_stops_no_operator_and_the_loss_is_counted_and_recorded(tmp_path: Path) -> None:
    path, lost = tmp_path / "audit.jsonl", list[int]()
    async with running(path, lost=lost.append) as trail:
        whole, trail._file._descriptor = trail._file._descriptor, os.open("/dev/full", os.O_WRONLY)
        async with asyncio.timeout(10):
            await trail.act("peer.add", "ops", peer="two")
        os.close(trail._file._descriptor)
        trail._file._descriptor = whole
        await trail.act("peer.add", "ops", peer="three")
    assert lost == [1]
    assert [(record["act"], record.get("records")) for record in records(path)] == [
        ("audit.lost", 1),
        ("peer.add", None),
    ]


async def test_records_that_wait_are_bounded_and_texts_are_one_harmless_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, lost = tmp_path / "audit.jsonl", list[int]()
    trail = Trail(path, lost=lost.append)
    monkeypatch.setattr(trail_module, "WAITING_MAX", 50)
    for _ in range(55):
        trail.note("seen", "ci\x1b[31m", what="a\nb" * 1_000, where="http://a/mcp?key=canary, as said")
    assert sum(lost) == 5
    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(trail.run(), name="audit")
        await trail.act("last", "test")
        writing.cancel()
    record = orjson.loads(path.read_bytes().splitlines()[1])
    assert (record["who"], record["where"]) == ("ci", "http://a/mcp?********, as said")
    assert len(record["what"]) <= 300


async def test_a_flood_of_refusals_of_one_caller_neither_fills_the_file_nor_hides_those_of_another(
    tmp_path: Path,
) -> None:
    path = tmp_path / "audit.jsonl"
    async with running(path) as trail:
        for number in range(5_000):
            trail.refusal("narrow", f"tools/call a__{number}", "its tools are b")
        trail.refusal("other", "tools/call a__b", "its tools are c")
    found = records(path)
    assert [record["who"] for record in found].count("narrow") == REFUSALS_EACH_MAX
    assert [record["who"] for record in found].count("other") == 1
    assert (found[-1]["act"], found[-1]["most"]) == ("refused.more", "narrow")
    assert found[-1]["records"] == 5_000 - REFUSALS_EACH_MAX
