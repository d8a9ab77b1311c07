"""The catalogs of several sources, merged into one for the mesh: the home catalog, other datacentres, files, DNS.

Fed by the membership and by the wiring; the mesh sees one catalog, in which instances of one node become one peer
(`agent.control.selection`). Each one's last catalog is kept on disk, for a start while it cannot be read. The one rule:
no source ever takes away what another one says.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Final

from agent.state.catalog_cache import CatalogCache
from discovery.model import Catalog, CatalogSource, Instance, SourceStatus

# The catalog that this node is registered in.
HOME: Final = "home"


class Sources:
    """See the module. `on_catalog` gets the merged catalog after every change of one; called in the node's loop.

    `folder`: where catalogs are kept, but for the home catalog, which its membership keeps. `answers`: whether a link
    to an instance is up.
    """

    def __init__(
        self,
        on_catalog: Callable[[Catalog], None],
        folder: Path | None = None,
        answers: Callable[[Instance], bool] = lambda _one: False,
    ) -> None:
        self._on_catalog, self._folder, self.answers = on_catalog, folder, answers
        self._catalogs: dict[str, Catalog] = {}
        self._followed: dict[str, CatalogSource] = {}

    def __repr__(self) -> str:
        return f"<Sources { ({name: len(catalog.instances) for name, catalog in self._catalogs.items()}) }>"

    def take_home(self, catalog: Catalog) -> None:
        """A new snapshot of the home catalog."""
        self.take(HOME, catalog)

    def take(self, name: str, catalog: Catalog) -> None:
        """A new snapshot of one source."""
        self._catalogs[name] = catalog
        self._on_catalog(self._merged())

    def forget(self, name: str) -> None:
        """A source is no longer used, and what it said does not count."""
        if self._catalogs.pop(name, None) is not None:
            self._on_catalog(self._merged())

    async def follow(self, name: str, make: Callable[..., CatalogSource], url: str = "") -> None:
        """Take every snapshot of a source until cancelled; its last one stays.

        `make(known=...)` makes the source with its last catalog of an earlier run, of the same `url`, or None.
        """
        cache = None if self._folder is None else CatalogCache(self._folder, name)
        known = None if cache is None else await cache.load(url, name)
        source = self._followed[name] = make(known=known)
        try:
            async with asyncio.TaskGroup() as group:
                if cache is not None:
                    group.create_task(cache.keep(), name=f"catalog cache {name}")
                # Closed in the task that used it; left to the collector, a generator warns.
                async with aclosing(source.watch()) as catalogs:
                    async for catalog in catalogs:
                        self.take(name, catalog)
                        if cache is not None and catalog is not known:
                            cache.take(url, name, catalog)
        finally:
            del self._followed[name]

    def statuses(self) -> Mapping[str, tuple[SourceStatus, int]]:
        """Of each source beside the home catalog: its status, and how many instances it has."""
        return {
            name: (source.status, len(self._catalogs.get(name, Catalog()).instances))
            for name, source in sorted(self._followed.items())
        }

    def _merged(self) -> Catalog:
        filled = [catalog for catalog in self._catalogs.values() if catalog.instances]
        if len(filled) == 1:
            return filled[0]
        return Catalog(tuple(instance for catalog in filled for instance in catalog.instances))
