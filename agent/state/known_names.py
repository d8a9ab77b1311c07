"""The names of other nodes' and peers' things on disk, so that a restart of this node makes none of them unknown.

Read at start, before any peer is linked; taken with each new route table once the start is over. Own servers need no
file: every name below a server that was never listed is away (`agent.routing.away`). The one rule: it is a convenience,
so a file that cannot be used is ignored with a warning, and a disk that refuses is logged once.
"""

import asyncio
import hashlib
import logging
from collections.abc import Iterable, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

import orjson

from agent.routing.away import AWAY_MAX, KINDS
from agent.routing.table import Replica, Route, RouteKind, RouteTable
from agent.state.durable_file import write_durably
from agent.state.saved_file import Unusable, read_saved
from agent.state.saved_shape import list_of, object_of, one_of, optional_text, text, whole_number

log = logging.getLogger(__name__)

FILE_NAME: Final = "names.json"
SCHEMA: Final = 1
# Names change in bursts while nodes come and go; what a crash loses are those of the last seconds.
WRITE_PAUSE_S: Final = 5.0
FILE_BYTES_MAX: Final = 64 * 1024 * 1024

Names = Mapping[tuple[RouteKind, str], Route]

_SAVED_REPLICA: Final = object_of(
    {
        "backend_key": text,
        "remote_name": text,
        "node_id": optional_text,
        "hops": whole_number,
        "namespace": text,
        "node_name": text,
    }
)
_SAVED_NAME: Final = object_of(
    {
        "kind": one_of(*(kind.value for kind in KINDS)),
        "name": text,
        "owner": text,
        "namespace": text,
        "replicas": list_of(_SAVED_REPLICA),
    }
)
_SAVED: Final = object_of({"schema": one_of(SCHEMA), "names": list_of(_SAVED_NAME)})


class KnownNames:
    """The file. `take` is called in the loop; `keep` is the only writer."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._waiting: RouteTable | None = None
        self._wake = asyncio.Event()
        self._written = b""  # A digest: it would be a kilobyte for each name.
        self._refused = False

    def __repr__(self) -> str:
        return f"<KnownNames {self._path.name} waiting={self._waiting is not None}>"

    def load(self, now_s: float) -> Names:
        """The names of before as away since `now_s`, in monotonic seconds; none where there is no file to read."""
        try:
            saved = read_saved(self._path, _SAVED, FILE_BYTES_MAX)
        except Unusable as exc:
            log.warning("the names of before are ignored", extra={"path": str(self._path), "reason": str(exc)})
            return {}
        if saved is None:
            return {}
        return {(route.kind, route.public_name): route for route in (_read(entry, now_s) for entry in saved["names"])}

    def take(self, table: RouteTable) -> None:
        """Keep the names of a table; they are written soon. A node that has only begun keeps those of before."""
        if not table.starting:
            self._waiting = table
            self._wake.set()

    async def keep(self) -> None:
        """Write the names of the last table taken, at most once in `WRITE_PAUSE_S`, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._waiting is not None:
                try:
                    self._written = await asyncio.to_thread(_write, self._path, self._taken(), self._written)
                    self._refused = False
                except OSError as exc:
                    level = logging.DEBUG if self._refused else logging.WARNING
                    log.log(level, "known names cannot be kept on disk", extra={"reason": exc.strerror or str(exc)})
                    self._refused = True
            await asyncio.sleep(WRITE_PAUSE_S)

    def _taken(self) -> RouteTable:
        """The last table, which is not held here while this waits: the ones that follow share little with it."""
        table, self._waiting = self._waiting, None
        assert table is not None, "it was looked at"
        return table


def _write(path: Path, table: RouteTable, written: bytes) -> bytes:
    """Returns a digest of what the file has now; `written`: that of before."""
    names = (entry for route in _routes(table) if (entry := _saved(route)) is not None)
    content = orjson.dumps({"schema": SCHEMA, "names": list(islice(names, AWAY_MAX))})
    digest = hashlib.blake2b(content).digest()
    if digest != written:
        write_durably(path, content)
    return digest


def _routes(table: RouteTable) -> Iterable[Route]:
    return chain(*(table.of_kind(kind).values() for kind in KINDS), table.away.values())


def _saved(route: Route) -> dict[str, Any] | None:
    """None for what only servers of our own have."""
    replicas = [
        {
            "backend_key": replica.backend_key,
            "remote_name": replica.remote_name,
            "node_id": replica.node_id,
            "hops": replica.hops,
            "namespace": replica.namespace,
            "node_name": replica.node_name,
        }
        for replica in route.replicas
        if replica.hops > 0
    ]
    if not replicas:
        return None
    return {
        "kind": route.kind.value,
        "name": route.public_name,
        "owner": route.owner,
        "namespace": route.namespace,
        "replicas": replicas,
    }


def _read(entry: dict[str, Any], now_s: float) -> Route:
    replicas = tuple(Replica(ours=False, **saved) for saved in entry["replicas"])
    return Route(
        RouteKind(entry["kind"]),
        entry["name"],
        {},
        "",
        replicas,
        listed=False,
        owner=entry["owner"],
        namespace=entry["namespace"],
        away_since_s=now_s,
    )
