"""The last good catalog of each source on disk, so that a node can start while Consul or a name server is away.

Read and written by membership and by `agent.control.sources`, in the node's state folder. The one rule: it is a
convenience, so nothing about it may keep a node from starting or running: a file that cannot be used is ignored with a
warning and written anew, and a disk that refuses is logged once.
"""

import asyncio
import hashlib
import logging
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

import orjson

from agent.state.durable_file import write_durably
from agent.state.saved_file import Unusable, read_saved
from agent.state.saved_shape import list_of, object_of, one_of, text, texts_by_name, whole_number
from discovery.model import Catalog, Health, Instance, InstanceKey

log = logging.getLogger(__name__)

FILE_NAME: Final = "catalog.json"
SCHEMA: Final = 1
# Health flaps and rolling restarts come in bursts; a start needs the catalog of today, not of this second.
WRITE_PAUSE_S: Final = 1.0
FILE_BYTES_MAX: Final = 64 * 1024 * 1024  # 10,000 instances with every entry of Meta that Consul allows are smaller.


_SAVED_INSTANCE: Final = object_of(
    {
        "datacenter": text,
        "node": text,
        "service_id": text,
        "address": text,
        "port": whole_number,
        "health": one_of(*(health.value for health in Health)),
        "meta": texts_by_name,
        "tags": list_of(text),
        "weight": whole_number,
        "maintenance": text,
    },
    optional=frozenset({"weight", "maintenance"}),  # Missing in files of earlier versions.
)
_SAVED: Final = object_of(
    {"schema": one_of(SCHEMA), "url": text, "service": text, "instances": list_of(_SAVED_INSTANCE)}
)


_Taken: TypeAlias = tuple[str, str, Catalog]  # The URL, the name of the service, what it has.


class CatalogCache:
    """The file. `take` is called in the loop; `keep` is the only writer. `source`: empty for the home catalog."""

    def __init__(self, folder: Path, source: str = "") -> None:
        self._path = folder / (file_name_of(source) if source else FILE_NAME)
        self._waiting: _Taken | None = None
        self._writing: _Taken | None = None
        self._wake = asyncio.Event()
        self._disk = threading.Lock()  # A cancelled `keep` does not end the thread that writes for it.
        self._refused = False

    def __repr__(self) -> str:
        return f"<CatalogCache {self._path.name} waiting={self._waiting is not None}>"

    async def load(self, url: str, service_name: str) -> Catalog | None:
        """The last catalog of that service from that URL; None when there is none, or it cannot be read."""
        return await asyncio.get_running_loop().run_in_executor(None, _read, self._path, url, service_name)

    def take(self, url: str, service_name: str, catalog: Catalog) -> None:
        """Keep a catalog; it is written soon."""
        self._waiting = url, service_name, catalog
        self._wake.set()

    async def forget(self) -> None:
        """Delete the file: that catalog is no longer used."""
        self._waiting = self._writing = None
        with suppress(OSError):
            await asyncio.get_running_loop().run_in_executor(None, self._delete)

    async def keep(self) -> None:
        """Write the last catalog taken, at most once in `WRITE_PAUSE_S`, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._writing, self._waiting = self._waiting, None
            if self._writing is not None:
                try:
                    await loop.run_in_executor(None, self._write, self._writing)
                    self._refused = False
                except OSError as exc:
                    level = logging.DEBUG if self._refused else logging.WARNING
                    log.log(level, "the catalog cannot be kept on disk", extra={"reason": exc.strerror or str(exc)})
                    self._refused = True
            await asyncio.sleep(WRITE_PAUSE_S)

    def _write(self, taken: _Taken) -> None:
        """Runs in a thread: 5,000 instances take 40 ms to be written out, too long for the loop. Raises OSError."""
        with self._disk:
            if taken is self._writing:  # It has not been forgotten meanwhile.
                write_durably(self._path, _dump(*taken))

    def _delete(self) -> None:
        with self._disk:
            self._path.unlink(missing_ok=True)


def file_name_of(source: str) -> str:
    """The file of a source beside the home catalog, whose name may have any characters."""
    return f"catalog-{hashlib.sha256(source.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}.json"


def _dump(url: str, service_name: str, catalog: Catalog) -> bytes:
    instances = [
        {
            "datacenter": instance.key.datacenter,
            "node": instance.key.node,
            "service_id": instance.key.service_id,
            "address": instance.address,
            "port": instance.port,
            "health": instance.health.value,
            "meta": dict(instance.meta),
            "tags": list(instance.tags),
            "weight": instance.weight,
            "maintenance": instance.maintenance,
        }
        for instance in catalog.instances
    ]
    saved = {"schema": SCHEMA, "url": url, "service": service_name, "instances": instances}
    return orjson.dumps(saved, option=orjson.OPT_APPEND_NEWLINE)


def _read(path: Path, url: str, service_name: str) -> Catalog | None:
    try:
        saved = read_saved(path, _SAVED, FILE_BYTES_MAX)
    except Unusable as exc:
        log.warning("the cached catalog is ignored", extra={"path": str(path), "reason": str(exc)})
        return None
    if saved is None or (saved["url"], saved["service"]) != (url, service_name):
        return None
    instances = (
        Instance(
            InstanceKey(entry["datacenter"], entry["node"], entry["service_id"]),
            entry["address"],
            entry["port"],
            Health(entry["health"]),
            entry["meta"],
            tuple(entry["tags"]),
            entry.get("weight", 1),
            entry.get("maintenance", ""),
        )
        for entry in saved["instances"]
    )
    return Catalog(tuple(sorted(instances, key=lambda instance: instance.key)))
