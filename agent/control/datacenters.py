"""Follows datacentres beside the home one, for the membership, which knows the connection that leads to them.

The one rule: our own datacentre is no other one, although it is in the list: followed twice, it would show every node
of ours as a far one, too.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from agent.control.sources import Sources
from discovery.model import Catalog, CatalogSource

log = logging.getLogger(__name__)

# Other datacentres are followed after the home catalog's first answer, or after this long without one: it tells which
# datacentre is our own, and one that cannot be read must not hide the others.
HOME_FIRST_S: Final = 5.0


class OtherDatacenters:
    """See the module. One for each connection. `names`: of all that are to be followed, perhaps our own among them."""

    def __init__(self, names: Sequence[str], sources: Sources) -> None:
        self._names, self._sources = names, sources
        self._home_is_known = asyncio.Event()
        self._following: dict[str, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"<OtherDatacenters {sorted(self._following)}>"

    def begin(self, group: asyncio.TaskGroup, make: Callable[..., CatalogSource], url: str) -> None:
        """Follow each in a task of the group. `make(dc=..., known=...)` makes a source; `url`: what its cache is of."""
        for name in self._names:
            following = self._follow(name, partial(make, dc=name), url)
            self._following[name] = group.create_task(following, name=f"catalog watch {name}")

    def take_home(self, catalog: Catalog) -> None:
        """The home catalog: its entries tell which datacentre is ours. Asking the agent would need a right more."""
        for name in {instance.key.datacenter for instance in catalog.instances} & self._following.keys():
            log.warning("our own datacentre is in MESH_DATACENTERS and is left out there", extra={"datacenter": name})
            self._following.pop(name).cancel()
            self._sources.forget(_source_name(name))
        self._home_is_known.set()

    def forget(self) -> None:
        """Another catalog is used now, which has no other ones."""
        for name in self._names:
            self._sources.forget(_source_name(name))

    async def _follow(self, name: str, make: Callable[..., CatalogSource], url: str) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(HOME_FIRST_S):
                await self._home_is_known.wait()
        await self._sources.follow(_source_name(name), make, url)


def _source_name(datacenter: str) -> str:
    """What it is called in the status."""
    return f"datacenter {datacenter}"
