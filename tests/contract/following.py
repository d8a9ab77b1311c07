"""What the contract tests watch with: a follower that collects catalogs, and waits that end as soon as they can.

Used by the tests of this folder. The one rule: nothing waits for a time to pass, only for something to become true,
within a bound: that of a promise of the product, or one that only ends a test that would wait for ever.
"""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Coroutine
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson

from discovery.consul.client import ConsulClient
from discovery.model import Catalog, CatalogSource, CatalogUnavailable
from tests.waiting import UNREPAIRED_S, promised_within

BOUND_S = UNREPAIRED_S
# What a busy machine may add to a promise of the product.
MACHINE_S = 3.0
POLL_S = 0.01
_numbers = itertools.count(1)


class Follower:
    """Consumes a source and remembers every catalog that it yielded, with the loop's time of it."""

    def __init__(self, source: CatalogSource) -> None:
        self.source = source
        self.catalogs: list[Catalog] = []
        self.times_s: list[float] = []
        self._news = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Follower saw {[ids(catalog) for catalog in self.catalogs]} {self.source.status}>"

    async def run(self) -> None:
        """Consume until cancelled."""
        async for catalog in self.source.watch():
            self.catalogs.append(catalog)
            self.times_s.append(asyncio.get_running_loop().time())
            self._news.set()

    async def until(self, condition: Callable[[Catalog], bool], *, within_s: float = BOUND_S) -> Catalog:
        """Wait until the latest catalog fulfils the condition; return it. The machine gets its `MACHINE_S` on top."""
        try:
            async with promised_within(within_s + MACHINE_S):
                while not (self.catalogs and condition(self.catalogs[-1])):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"not within {within_s} s: {self!r}") from None
        return self.catalogs[-1]

    async def until_ids(self, *service_ids: str, within_s: float = BOUND_S) -> Catalog:
        """Wait until exactly these service IDs are shown."""
        return await self.until(lambda catalog: ids(catalog) == set(service_ids), within_s=within_s)


@asynccontextmanager
async def running(*coroutines: Coroutine[Any, Any, None]) -> AsyncGenerator[None, None]:
    """Run coroutines beside the body and cancel them at its end; the body's own exception comes out unwrapped."""
    failure: Exception | None = None
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(coroutine, name=f"beside the test {number}")
            for number, coroutine in enumerate(coroutines)
        ]
        try:
            yield
        except Exception as exc:  # noqa: BLE001 - raised again below, outside of the group, which would wrap it
            failure = exc
        finally:
            for task in tasks:
                task.cancel()
    if failure is not None:
        raise failure


async def until(condition: Callable[[], bool], *, within_s: float = BOUND_S, what: str = "condition") -> None:
    """Look again and again until the condition holds, for things without an announcement; `MACHINE_S` as above."""
    try:
        async with promised_within(within_s + MACHINE_S):
            while not condition():
                await next_look()
    except TimeoutError:
        raise AssertionError(f"{what} not within {within_s} s") from None


async def until_catalog_holds(client: ConsulClient, service_name: str, wanted: AbstractSet[str]) -> None:
    """Ask the catalog itself, without waiting queries, until it holds all of these service IDs."""
    found: set[str] = set()
    try:
        async with asyncio.timeout(BOUND_S):
            while not wanted <= found:
                await next_look()
                with suppress(CatalogUnavailable):
                    found = {orjson.loads(row)["Service"]["ID"] for row in (await client.health(service_name)).rows}
    except TimeoutError:
        raise AssertionError(f"only {found} of {wanted} within {BOUND_S} s") from None


async def next_look() -> None:
    """Let a moment pass between two looks at something that does not announce its changes."""
    moment = asyncio.Event()
    asyncio.get_running_loop().call_later(POLL_S, moment.set)
    await moment.wait()


def ids(catalog: Catalog) -> set[str]:
    """The service IDs of a catalog."""
    return {instance.key.service_id for instance in catalog.instances}


def meta_of(catalog: Catalog, service_id: str) -> dict[str, str]:
    """The metadata of one instance; empty when it is not there."""
    return next((dict(one.meta) for one in catalog.instances if one.key.service_id == service_id), {})


def health_of(catalog: Catalog, service_id: str) -> str:
    """The health of one instance; empty when it is not there."""
    return next((one.health.value for one in catalog.instances if one.key.service_id == service_id), "")


def fresh_name() -> str:
    """A service name that no other test uses; the real Consul is shared."""
    return f"mesh-test-{next(_numbers)}"
