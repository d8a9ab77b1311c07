"""The cached catalog: whole or ignored, keyed by where it is from, and never in the way."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import orjson
import pytest

from agent.state.catalog_cache import FILE_NAME, CatalogCache
from discovery.model import Catalog, Health, Instance, InstanceKey
from tests.waiting import eventually

URL, SERVICE = "http://127.0.0.1:8500", "mcp-node"


def catalog(count: int) -> Catalog:
    return Catalog(
        tuple(
            Instance(
                InstanceKey("dc1", "m", f"node-{n:03}"),
                f"10.0.0.{n}",
                8000 + n,
                Health.WARNING,
                {"node_id": str(n), "name": "höst"},
                ("a", "b"),
                1 + n,
            )
            for n in range(count)
        )
    )


@asynccontextmanager
async def keeping(cache: CatalogCache) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(cache.keep(), name="keep")
        yield
        task.cancel()


async def written(folder: Path, count: int) -> None:
    """Wait until the file holds that many instances; a thread writes it, and says nothing."""
    async with asyncio.timeout(10):
        while True:
            found = await CatalogCache(folder).load(URL, SERVICE)
            if found is not None and len(found.instances) == count:
                return


async def test_a_catalog_is_read_back_as_it_was(tmp_path: Path) -> None:
    cache = CatalogCache(tmp_path)
    async with keeping(cache):
        cache.take(URL, SERVICE, catalog(3))
        await written(tmp_path, 3)
    assert await cache.load(URL, SERVICE) == catalog(3)


async def test_a_catalog_of_another_place_or_service_is_none_of_ours(tmp_path: Path) -> None:
    cache = CatalogCache(tmp_path)
    async with keeping(cache):
        cache.take(URL, SERVICE, catalog(1))
        await written(tmp_path, 1)
    assert await cache.load("http://elsewhere:8500", SERVICE) is None
    assert await cache.load(URL, "other") is None


async def test_nothing_kept_is_nothing_known(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert await CatalogCache(tmp_path).load(URL, SERVICE) is None
    assert caplog.records == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"schema": 2, "url": "x", "service": "y", "instances": []}',
        orjson.dumps({"schema": 1, "url": URL, "service": SERVICE, "instances": [{"node": "secret-value"}]}),
        b"\xff\xfe",
    ],
)
async def test_a_file_that_cannot_be_used_is_ignored_with_a_warning_and_written_anew(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    cache = CatalogCache(tmp_path)
    assert await cache.load(URL, SERVICE) is None
    assert [record.message for record in caplog.records] == ["the cached catalog is ignored"]
    assert "secret-value" not in str(caplog.records[0].__dict__)
    async with keeping(cache):
        cache.take(URL, SERVICE, catalog(2))
        await written(tmp_path, 2)


class _Instances(tuple[Instance, ...]):
    """Notes which threads look at it."""

    __slots__ = ()
    seen_by: ClassVar[set[int]] = set()

    def __iter__(self) -> Iterator[Instance]:
        self.seen_by.add(threading.get_ident())
        return super().__iter__()


async def test_the_event_loop_does_not_wait_while_a_long_catalog_is_written_out(tmp_path: Path) -> None:
    cache = CatalogCache(tmp_path)
    async with keeping(cache):
        cache.take(URL, SERVICE, Catalog(_Instances(catalog(3).instances)))
        await written(tmp_path, 3)
    assert _Instances.seen_by
    assert threading.get_ident() not in _Instances.seen_by


class _Held(tuple[Instance, ...]):
    """Instances that are not written out before they may be."""

    __slots__ = ()
    began: ClassVar = threading.Event()
    may: ClassVar = threading.Event()

    def __iter__(self) -> Iterator[Instance]:
        self.began.set()
        assert self.may.wait(10)
        return super().__iter__()


async def test_a_catalog_that_is_forgotten_while_it_is_written_is_gone_afterwards(tmp_path: Path) -> None:
    cache, loop = CatalogCache(tmp_path), asyncio.get_running_loop()
    async with keeping(cache):
        cache.take(URL, SERVICE, Catalog(_Held(catalog(3).instances)))
        assert await loop.run_in_executor(None, _Held.began.wait, 10)
    async with asyncio.TaskGroup() as group:
        group.create_task(cache.forget(), name="forget")
        await loop.run_in_executor(None, sum, ())  # Its turn comes after that of what forgets.
        _Held.may.set()
    await loop.shutdown_default_executor()
    assert not (tmp_path / FILE_NAME).exists()


@pytest.mark.looptime
async def test_a_burst_is_written_once_a_second_and_its_last_catalog_is_not_lost(tmp_path: Path) -> None:
    cache = CatalogCache(tmp_path)
    writes: list[int] = []
    seen = b""
    async with keeping(cache):
        for count in range(1, 30):
            cache.take(URL, SERVICE, catalog(count))
            await asyncio.sleep(0.1)
            path = tmp_path / FILE_NAME
            content = path.read_bytes() if path.exists() else b""
            if content != seen:
                seen = content
                writes.append(count)

        async def is_kept() -> bool:
            return await cache.load(URL, SERVICE) == catalog(29)

        await eventually(is_kept)  # However slow the disk is.
    assert len(writes) <= 4


@pytest.mark.looptime
async def test_a_disk_that_refuses_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = CatalogCache(tmp_path / "missing")
    caplog.set_level(logging.WARNING)
    async with keeping(cache):
        for count in range(3):
            cache.take(URL, SERVICE, catalog(count))
            await asyncio.sleep(5)
    assert [record.message for record in caplog.records] == ["the catalog cannot be kept on disk"]
