"""An operator's word that comes while the agent is asked, or while a registration is under way, is never missed."""

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import pytest

from discovery.consul.maintenance import KeptMaintenance
from discovery.model import CatalogUnavailable

if TYPE_CHECKING:
    from discovery.consul.client import ConsulClient

OURS, MAINTENANCE = "service:own", "_service_maintenance:own"
REASON = "new disks"


class Agent:
    """Holds our entry, and its maintenance while there is one. `meanwhile` happens after it has made its answer."""

    def __init__(self) -> None:
        self.checks: dict[str, Any] = {}
        self.meanwhile: Callable[[], None] = lambda: None

    def maintain(self, reason: str) -> None:
        self.checks |= {OURS: {}, MAINTENANCE: {"Notes": reason}}

    def end(self) -> None:
        del self.checks[MAINTENANCE]

    async def held_checks(self) -> Mapping[str, Any]:
        checks, meanwhile, self.meanwhile = dict(self.checks), self.meanwhile, lambda: None
        meanwhile()
        return checks


class Disk:
    """A `MaintenanceRecord`; `refuses` to be read, `hangs` when it is written to: `begun` says that it is."""

    fault, hangs = "", False

    def __init__(self, reason: str | None, *, refuses: bool = False) -> None:
        self.reason, self.refuses = reason, refuses
        self.begun = asyncio.Event()

    async def load(self) -> str | None:
        if self.refuses:
            raise OSError
        return self.reason

    async def save(self, reason: str | None) -> bool:
        self.begun.set()
        if self.hangs:
            await asyncio.Event().wait()
        self.reason = reason
        return True


def kept_of(agent: Agent, disk: Disk) -> KeptMaintenance:
    return KeptMaintenance(cast("ConsulClient", agent), "own", OURS, disk)


async def test_an_end_that_comes_while_the_agents_answer_is_on_its_way_is_asked_for_again() -> None:
    agent, disk = Agent(), Disk(None)
    kept = kept_of(agent, disk)
    agent.maintain(REASON)
    kept.shown(REASON)

    def ends() -> None:
        agent.end()
        kept.shown("")

    agent.meanwhile = ends
    await kept.ask()
    assert (disk.reason, kept.is_to_be_asked) == (REASON, True)
    await kept.ask()
    assert (disk.reason, kept.is_to_be_asked) == (None, False)


async def test_an_end_that_comes_before_the_registration_with_the_maintenance_has_returned_is_kept() -> None:
    agent, disk = Agent(), Disk(REASON, refuses=True)
    kept = kept_of(agent, disk)
    assert await kept.check_to_register(renewed=True) is None
    agent.checks[OURS] = {}
    disk.refuses = False
    assert await kept.ask()
    check = await kept.check_to_register(renewed=True)
    assert check is not None
    agent.maintain(check["Notes"])
    kept.shown(REASON)
    agent.end()
    kept.shown("")
    kept.registered()
    assert kept.is_to_be_asked
    assert not await kept.ask()
    assert (disk.reason, kept.resumed) == (None, "")


async def test_an_end_is_kept_though_the_catalog_never_showed_the_maintenance_that_was_taken_up_again() -> None:
    agent, disk = Agent(), Disk(REASON)
    kept = kept_of(agent, disk)
    kept.shown("")
    check = await kept.check_to_register(renewed=False)
    assert check is not None
    agent.maintain(check["Notes"])
    kept.registered()
    await kept.ask()
    agent.end()
    assert kept.shown("")
    await kept.ask()
    assert (disk.reason, kept.is_to_be_asked) == (None, False)
    assert not kept.shown("")


async def test_a_word_whose_writing_the_nodes_stop_cut_short_is_written_as_it_leaves() -> None:
    agent, disk = Agent(), Disk(None)
    kept = kept_of(agent, disk)
    agent.maintain(REASON)
    kept.shown(REASON)
    disk.hangs = True
    asking = asyncio.create_task(kept.ask())
    await disk.begun.wait()
    asking.cancel()
    await asyncio.wait([asking])
    assert (asking.cancelled(), disk.reason) == (True, None)
    disk.hangs = False
    await kept.take(await agent.held_checks())
    assert disk.reason == REASON


async def test_maintenance_that_the_catalog_never_shows_is_asked_for_once_and_then_at_each_comparison() -> None:
    agent, disk = Agent(), Disk(None)
    kept = kept_of(agent, disk)
    for reason in (REASON, "newer disks"):
        agent.maintain(reason)
        kept.compared()
        await kept.ask()
        assert kept.shown("")
        await kept.ask()
        assert [kept.shown("") for _ in range(3)] == [False] * 3
        assert (disk.reason, kept.is_to_be_asked) == (reason, False)
    agent.end()
    kept.compared()
    assert kept.is_to_be_asked
    await kept.ask()
    assert disk.reason is None
    assert not kept.shown("")
    kept.compared()
    assert not kept.is_to_be_asked


async def test_an_agent_that_does_not_answer_is_asked_again_also_for_a_registration() -> None:
    agent, disk = Agent(), Disk(None)
    kept = kept_of(agent, disk)
    agent.maintain(REASON)
    kept.shown(REASON)

    def fails() -> None:
        raise CatalogUnavailable("no answer")

    for asked in (kept.ask, lambda: kept.check_to_register(renewed=True)):
        agent.meanwhile = fails
        with pytest.raises(CatalogUnavailable):
            await asked()
        assert kept.is_to_be_asked
    await kept.ask()
    assert disk.reason == REASON
