"""What one node's decisions are about: the other nodes as they are, and a Consul that answers in no time, truly or not.

Used by `tests.simulation.decisions`, whose waits are jumps of the clock; `tests.simulation.lying_catalog` is the same
for whole nodes. The one rule: a consistent read without an index tells the truth or fails.
"""

import asyncio
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, cast

from agent.model import NodeIdentity, Override, Suppression
from discovery.consul.client import Answer
from discovery.model import AccessRefused, AgentUnreachable, CatalogUnavailable, RegistrarStatus
from tests.simulation.lying_catalog import Lie, row_of

if TYPE_CHECKING:
    from tests.simulation.virtual_time import VirtualTimeLoop

OWN = NodeIdentity("id-own", "own")
OWN_ID = "own-idown"


@dataclass(slots=True)
class Other:
    """Another node as it is. `listed`: the servers have its entry, else `lost_at_s`; `reachable`: packets arrive."""

    number: int
    alive: bool = True
    reachable: bool = True
    listed: bool = True
    passing: bool = True
    epoch: int = 1
    port: int = 8000
    caused_at_s: float = 0.0
    lost_at_s: float = 0.0

    @property
    def node_id(self) -> str:
        return f"id-{self.number}"

    @property
    def name(self) -> str:
        return f"n{self.number}"

    @property
    def url(self) -> str:
        return f"http://10.0.0.{self.number + 1}:{self.port}/mcp"

    def row(self) -> bytes:
        """Its row of the catalog."""
        return _row(self.number, self.epoch, self.port, passing=self.passing)


@lru_cache(maxsize=4096)
def _row(number: int, epoch: int, port: int, *, passing: bool) -> bytes:
    meta = {"node_id": f"id-{number}", "name": f"n{number}", "epoch": str(epoch)}
    payload = {"ID": f"n{number}-svc", "Port": port, "Address": f"10.0.0.{number + 1}", "Meta": meta}
    return row_of("agent", payload, 1, passing=passing)


@dataclass(slots=True)
class Own:
    """A `Registrar` as a watch sees it."""

    listed: bool = True
    service_id: str = OWN_ID
    status: RegistrarStatus = field(default_factory=lambda: RegistrarStatus(registered=True, presence_expected=True))

    def verify(self) -> None:
        """The agent's list has us."""

    def repair(self) -> None:
        """Register again, with other Notes."""
        self.listed = True


_OWN_ROW = row_of(
    "agent", {"ID": OWN_ID, "Port": 1, "Address": "10.1.1.1", "Meta": {"node_id": OWN.node_id}}, 1, passing=True
)


@dataclass
class Servers:
    """Consul for one client, in no time: a wait is a jump of the clock. `token` never changes."""

    others: list[Other]
    own: Own
    lie: Lie = Lie.NONE
    index: int = 10
    before: list[tuple[int, tuple[bytes, ...]]] = field(default_factory=list)
    seen: int = -1
    last: Answer = field(default_factory=lambda: Answer(1, ()))
    token: str | None = None
    token_rotates: bool = False

    def rows(self) -> tuple[bytes, ...]:
        """The truth."""
        return (*(one.row() for one in self.others if one.listed), *((_OWN_ROW,) if self.own.listed else ()))

    def changed(self) -> None:
        """Something is about to change."""
        self.before.append((self.index, self.rows()))
        self.index += 1

    async def health(
        self, _name: str, *, index: int = 0, wait_s: float = 0.0, consistent: bool = False, **_dc: str
    ) -> Answer:
        """As `ConsulClient.health`."""
        loop = cast("VirtualTimeLoop", asyncio.get_running_loop())
        loop.jump(0.002)
        match self.lie:
            case Lie.AWAY:
                raise AgentUnreachable("refused")
            case Lie.UNKNOWN_TOKEN if not index:
                raise AccessRefused("403")
            case Lie.UNKNOWN_TOKEN:
                loop.jump(wait_s)
                return Answer(1, ())
            case Lie.LEADERLESS:
                raise CatalogUnavailable("500")
            case Lie.FROZEN if not index:
                raise CatalogUnavailable("500")
            case Lie.FROZEN:
                loop.jump(wait_s)
                return Answer(index, self.last.rows, backend="streaming")
            case Lie.BLIND:
                loop.jump(wait_s if index == self.index else 0.0)
                return Answer(self.index, (), filtered=True)
            case Lie.BEHIND if self.before and not consistent:
                loop.jump(wait_s if index else 0.0)
                return Answer(*self.before[-1])
            case Lie.DOUBLED:
                loop.jump(wait_s if index == self.index else 0.0)
                return Answer(self.index, self.rows()[::-1] * 2)
            case _:
                loop.jump(wait_s if index == self.index else 0.0)
        self.last = Answer(self.index, self.rows())
        return self.last


@dataclass(slots=True)
class Store:
    """What operators said."""

    overrides: tuple[Override, ...] = ()
    suppressions: tuple[Suppression, ...] = ()
