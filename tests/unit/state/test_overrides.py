"""The override store: what is acknowledged is kept, and nothing unreadable is ever written over."""

import asyncio
import json
import random
import stat
import threading
from pathlib import Path

import pytest

from agent.errors import ConfigRefused, OverrideRefused
from agent.model import HttpTarget, Override, PeerScope, Suppression
from agent.state import overrides as module
from agent.state.overrides import FILE_NAME, OverrideStore


def override(name: str, *, token: str | None = None, scope: PeerScope = PeerScope.LOCAL) -> Override:
    return Override(name, HttpTarget(f"http://{name}.example:8000/mcp", token=token), scope)


def test_a_folder_that_an_operator_has_made_keeps_its_mode(tmp_path: Path) -> None:
    (folder := tmp_path / "state").mkdir()
    folder.chmod(0o770)
    OverrideStore.open(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o770


async def test_everything_kept_is_there_after_a_restart(tmp_path: Path) -> None:
    store = OverrideStore.open(tmp_path / "state")
    gateway = Override("b", HttpTarget("https://b/mcp", (("X-Team", "é"),), "secret-b"), PeerScope.MESH)
    await store.put(gateway)
    await store.put(override("a"))
    await store.suppress(Suppression("gone", "id-1", "gone-12345678"))
    await store.suppress(Suppression("false", None, "false", "http://10.6.6.6:8000/mcp"))
    again = OverrideStore.open(tmp_path / "state")
    assert again.overrides == store.overrides == (override("a"), gateway)
    gone = Suppression("gone", "id-1", "gone-12345678")
    false = Suppression("false", None, "false", "http://10.6.6.6:8000/mcp")
    assert again.suppressions == store.suppressions == (gone, false)
    assert repr(again) == "<OverrideStore overrides=2 suppressions=2>"


async def test_the_file_and_its_folder_are_for_their_owner_alone(tmp_path: Path) -> None:
    store = OverrideStore.open(tmp_path / "state")
    await store.put(override("a", token="secret"))
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "state" / FILE_NAME).stat().st_mode) == 0o600
    (tmp_path / "state" / FILE_NAME).chmod(0o644)
    OverrideStore.open(tmp_path / "state")
    assert stat.S_IMODE((tmp_path / "state" / FILE_NAME).stat().st_mode) == 0o600


async def test_put_replaces_the_peer_of_that_name_and_lifts_its_suppressions(tmp_path: Path) -> None:
    store = OverrideStore.open(tmp_path)
    await store.suppress(Suppression("a", "id-1"))
    await store.suppress(Suppression("a", None, "a-service"))
    await store.suppress(Suppression("b", "id-2"))
    await store.put(override("a"))
    await store.put(override("a", token="new"))
    again = OverrideStore.open(tmp_path)
    assert [known.target.token for known in again.overrides] == ["new"]
    assert again.suppressions == (Suppression("b", "id-2"),)


async def test_to_remove_or_suppress_twice_is_no_error_and_changes_nothing(tmp_path: Path) -> None:
    store = OverrideStore.open(tmp_path)
    await store.put(override("a"))
    await store.suppress(Suppression("b"))
    await store.suppress(Suppression("b"))
    for _ in range(2):
        await store.remove("a")
    again = OverrideStore.open(tmp_path)
    assert (again.overrides, again.suppressions) == ((), (Suppression("b"),))


async def test_writers_at_once_lose_nothing_of_each_other(tmp_path: Path) -> None:
    store = OverrideStore.open(tmp_path)
    async with asyncio.TaskGroup() as tasks:
        for n in range(12):
            tasks.create_task(store.put(override(f"peer-{n}")), name=f"put {n}")
            tasks.create_task(store.suppress(Suppression(f"gone-{n}")), name=f"suppress {n}")
    again = OverrideStore.open(tmp_path)
    assert (len(again.overrides), len(again.suppressions)) == (12, 12)
    assert again.overrides == store.overrides


async def test_a_cancelled_writer_leaves_memory_and_disk_in_agreement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = OverrideStore.open(tmp_path)
    write, writing, may_write = module.write_durably, threading.Event(), threading.Event()

    def slow(path: Path, content: bytes) -> None:
        writing.set()
        assert may_write.wait(10)
        write(path, content)

    monkeypatch.setattr(module, "write_durably", slow)
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(store.put(override("a")), name="first")
        await asyncio.to_thread(writing.wait, 10)
        first.cancel()
        second = tasks.create_task(store.put(override("b")), name="second")
        await asyncio.wait([first, second], timeout=0.05)
        assert not first.done()
        assert store.overrides == ()
        may_write.set()
    assert first.cancelled()
    assert [known.name for known in store.overrides] == ["a", "b"]
    assert OverrideStore.open(tmp_path).overrides == store.overrides


async def test_a_disk_that_refuses_is_reported_and_nothing_is_claimed(tmp_path: Path) -> None:
    store = OverrideStore.open(tmp_path / "state")
    await store.put(override("a"))
    (tmp_path / "state").rename(tmp_path / "elsewhere")
    with pytest.raises(OverrideRefused, match="could not be saved: No such file") as refused:
        await store.put(override("b"))
    assert (refused.value.status, refused.value.code) == (507, "not_saved")
    assert [known.name for known in store.overrides] == ["a"]
    (tmp_path / "elsewhere").rename(tmp_path / "state")
    await store.put(override("c"))
    assert [known.name for known in OverrideStore.open(tmp_path / "state").overrides] == ["a", "c"]


async def test_there_is_a_limit_to_what_can_be_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENTRIES_MAX", 2)
    store = OverrideStore.open(tmp_path)
    for name in ("a", "b", "b"):
        await store.put(override(name))
        await store.suppress(Suppression(f"gone-{name}"))
    with pytest.raises(OverrideRefused, match="At most 2"):
        await store.put(override("c"))
    with pytest.raises(OverrideRefused, match="At most 2"):
        await store.suppress(Suppression("gone-c"))


GOOD = {"name": "a", "url": "http://a/mcp", "scope": "local", "token": "secret-canary", "headers": []}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "damaged at line 1"),
        ("{", "damaged at line 1"),
        ("[]", "damaged: Input should be an object"),
        ('{"schema": 2, "overrides": 5}', "newer version .schema 2, this one knows 1"),
        ('{"schema": 0, "overrides": [], "suppressions": []}', "damaged: schema"),
        ('{"overrides": [], "suppressions": []}', "damaged: schema: Field required"),
        (json.dumps({"schema": 1, "overrides": [GOOD | {"url": 7}], "suppressions": []}), "damaged: overrides.0.url"),
        (json.dumps({"schema": 1, "overrides": [GOOD | {"scope": "secret-canary"}], "suppressions": []}), "damaged"),
        (json.dumps({"schema": 1, "overrides": [GOOD | {"more": 1}], "suppressions": []}), "damaged: overrides.0.more"),
        ("\x00" * 4096, "damaged"),
    ],
)
async def test_an_unreadable_file_is_refused_and_left_as_it_is(tmp_path: Path, content: str, why: str) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(ConfigRefused, match=why) as refused:
        OverrideStore.open(tmp_path)
    assert (tmp_path / FILE_NAME).read_text() == content
    assert str(tmp_path / FILE_NAME) in str(refused.value)
    assert "move it away" in str(refused.value)
    assert "canary" not in str(refused.value)


def test_a_link_that_leads_nowhere_is_refused_and_does_not_lose_the_operators_words(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ConfigRefused, match="cannot be read: it is a link to a file that is not there"):
        OverrideStore.open(tmp_path)


async def test_every_byte_that_is_cut_off_is_noticed(tmp_path: Path) -> None:
    store = OverrideStore.open(tmp_path)
    await store.put(override("a", token="secret"))
    whole = (tmp_path / FILE_NAME).read_bytes()
    for length in random.Random(3).sample(range(len(whole) - 1), 30):
        (tmp_path / FILE_NAME).write_bytes(whole[:length])
        with pytest.raises(ConfigRefused):
            OverrideStore.open(tmp_path)
