"""Catalogs of several sources: merged, followed, forgotten, and never emptied by one another."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from pathlib import Path

from agent.control.sources import Sources
from discovery.model import Catalog, Instance, InstanceKey, SourceStatus
from tests.contract.following import running, until


def catalog(*names: str) -> Catalog:
    return Catalog(tuple(Instance(InstanceKey("dc", "m", name), "10.0.0.1", 8000) for name in names))


def ids(merged: Catalog) -> list[str]:
    return sorted(one.key.service_id for one in merged.instances)


class Script:
    """A source that says what it knew, and then what is put into its queue."""

    def __init__(self, known: Catalog | None = None) -> None:
        self.said: asyncio.Queue[Catalog] = asyncio.Queue()
        self.known = known
        self.status = SourceStatus(up=True)

    async def watch(self) -> AsyncGenerator[Catalog, None]:
        if self.known is not None:
            yield self.known
        while True:
            yield await self.said.get()


async def test_what_one_source_says_takes_nothing_from_another() -> None:
    shown: list[Catalog] = []
    sources = Sources(shown.append)
    home = catalog("a", "b")
    sources.take_home(home)
    assert shown[-1] is home
    sources.take("file", catalog("c"))
    assert ids(shown[-1]) == ["a", "b", "c"]
    sources.take("file", catalog())
    assert shown[-1] is home
    sources.take("file", catalog("d"))
    sources.take_home(catalog())
    assert ids(shown[-1]) == ["d"]
    sources.forget("file")
    sources.forget("unknown")
    assert [len(one.instances) for one in shown] == [2, 3, 2, 3, 1, 0]


async def test_a_followed_source_is_in_the_status_and_its_last_word_outlives_it() -> None:
    shown: asyncio.Queue[Catalog] = asyncio.Queue()
    sources, script = Sources(shown.put_nowait), Script()
    following = asyncio.create_task(sources.follow("dns x", lambda **_known: script))
    script.said.put_nowait(catalog("a"))
    assert ids(await shown.get()) == ["a"]
    assert sources.statuses() == {"dns x": (SourceStatus(up=True), 1)}
    following.cancel()
    await asyncio.wait([following])
    assert sources.statuses() == {}
    assert "dns x" in repr(sources)
    assert shown.empty()


async def test_the_last_word_of_each_source_is_known_after_a_restart_and_of_another_url_none_is(tmp_path: Path) -> None:
    made: dict[str, Script] = {}

    def follow(sources: Sources, name: str, url: str) -> Coroutine[None, None, None]:
        def make(known: Catalog | None) -> Script:
            made[name] = Script(known)
            return made[name]

        return sources.follow(name, make, url)

    first: list[Catalog] = []
    again: list[Catalog] = []
    sources = Sources(first.append, tmp_path)
    async with running(follow(sources, "dns x:1", ""), follow(sources, "datacenter dc2", "http://one")):
        await until(lambda: len(made) == 2, what="followed")
        made["dns x:1"].said.put_nowait(catalog("a"))
        made["datacenter dc2"].said.put_nowait(catalog("b", "c"))
        await until(lambda: len(list(tmp_path.glob("catalog-*.json"))) == 2, what="on disk")
    assert [sorted(ids(one)) for one in first][-1] == ["a", "b", "c"]
    sources = Sources(again.append, tmp_path)
    async with running(follow(sources, "dns x:1", ""), follow(sources, "datacenter dc2", "http://two")):
        await until(lambda: made["dns x:1"].known == catalog("a") and again != [], what="known again")
    assert [ids(one) for one in again] == [["a"]]
    assert made["datacenter dc2"].known is None
