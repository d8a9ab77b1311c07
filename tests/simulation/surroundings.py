"""What nodes' decisions are about: all nodes as they are, and a Consul that answers in no time, truly or not.

Used by `tests.simulation.decisions`, whose waits are jumps of the clock; `tests.simulation.lying_catalog` is the same
for whole nodes. The one rule: a consistent read without an index tells the truth or fails.
"""

import asyncio
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, cast

from agent.control.candidates import CatalogReader
from agent.model import NodeIdentity, Override, Suppression
from discovery.consul.client import Answer
from discovery.consul.rows import RowReader
from discovery.model import AccessRefused, AgentUnreachable, Catalog, CatalogUnavailable, Instance, RegistrarStatus
from tests.simulation.lying_catalog import PARTIAL_OF, Lie, row_of

if TYPE_CHECKING:
    from tests.simulation.virtual_time import VirtualTimeLoop

# What ends in one of these may not be acknowledged by the servers, and what is sent may not arrive there.
_SILENT = (Lie.AWAY, Lie.LEADERLESS, Lie.FROZEN)
# Access control leaves rows out.
_HIDING = (Lie.BLIND, Lie.SHORT_SIGHTED)
# How far back the index goes when a snapshot is restored: more than all that a run changes, or so little that it is
# soon what it was; then only its own new entry tells a node.
_RESTORED_BACK, _RESTORED_LITTLE = 10_000, 1
# Consul's own anti-entropy: within this an agent has sent again what the servers have lost.
_SYNC_S = 120.0
# So many entries that nodes have read are shared; then again from the first.
SHARED_MAX = 8192


@dataclass(slots=True)
class NodeFacts:
    """One node as it is. `listed`, `passing`: what the servers have of it, which need not be true.

    `shown`: the epoch, port and name that they have; `created`: the index at which they made its entry. `token`: which
    of the mesh's ACL tokens its agent holds its registration by; `has_token`: which one it knows itself. `lost_at_s`:
    when they lost its entry, as news to others; `unlisted_at_s`: since when they do not have it; `lapsed_at_s`: when
    its check was last critical. `server_hangs`: it answers probes and no calls; `stumbles`: all but each third call.
    `ghost`: an entry of its life before, that an agent of another name left behind. `is_plain`: no node but an MCP
    server that people have registered, whose agent alone brings back what the servers lost. `agent_away`: nothing
    registers it now.
    """

    number: int
    alive: bool = True
    listed: bool = True
    passing: bool = True
    epoch: int = 1
    port: int = 8000
    created: int = 1
    caused_at_s: float = 0.0
    lost_at_s: float = 0.0
    unlisted_at_s: float = 0.0
    lapsed_at_s: float = 0.0
    token: int = 0
    has_token: int = 0
    server_hangs: bool = False
    stumbles: bool = False
    ghost: bytes | None = None
    is_plain: bool = False
    agent_away: bool = False
    node_id: str = field(init=False)
    name: str = field(init=False)
    service_id: str = field(init=False)
    address: str = field(init=False)
    shown: tuple[int, int, str] = field(init=False)

    def __post_init__(self) -> None:
        self.node_id, self.name, self.service_id, self.address = _words_of(self.number)
        self.name = self.service_id if self.is_plain else self.name
        self.shown = self.epoch, self.port, self.name

    @property
    def url(self) -> str:
        return _url_of(self.address, self.port)

    def row(self) -> bytes:
        """Its row of the catalog."""
        return _row("agent", self.number, self.shown, self.created, passing=self.passing, is_plain=self.is_plain)

    def ghost_row(self) -> bytes:
        """What an agent of another name has of it, as it is now, and never takes back."""
        former = "a-former" if self.number % 2 else "z-former"  # In the catalog before the other entry, or behind it.
        return _row(former, self.number, (self.epoch, self.port, self.name), self.created, passing=True)


@lru_cache(maxsize=1024)
def _words_of(number: int) -> tuple[str, str, str, str]:
    address = f"10.0.{number // 250}.{number % 250 + 1}"
    return f"id-{number}", f"n{number}", f"n{number}-svc", address


@lru_cache(maxsize=4096)
def _url_of(address: str, port: int) -> str:
    return f"http://{address}:{port}/mcp"


class SharedRows(RowReader):
    """Reads rows as every node does; what one has parsed, the others have as well."""

    def read(self, rows: Iterable[bytes]) -> tuple[Catalog, int]:
        """As `RowReader`."""
        self._known |= {row: _parsed(row) for row in rows if row not in self._known}
        return super().read(rows)


@lru_cache(maxsize=8192)
def _parsed(row: bytes) -> Any:
    reader = RowReader()
    reader.read((row,))
    return reader._known[row]


class SharedEntries(CatalogReader):
    """The same of the peers that instances are."""

    _shared: ClassVar[dict[tuple[int, Any], tuple[Instance, Any]]] = {}

    def read(self, catalog: Catalog, own_node_id: str) -> tuple[Any, ...]:
        """As `CatalogReader`."""
        keys = [one.key for one in catalog.instances if one.meta.get("node_id") == own_node_id]
        self._own_places = places = frozenset([(key.datacenter, key.node) for key in keys])
        shared = self._shared
        if len(shared) > SHARED_MAX:
            shared.clear()
        self._known = {id(one): known for one in catalog.instances if (known := shared.get((id(one), places)))}
        read = super().read(catalog, own_node_id)
        shared |= {(number, places): known for number, known in self._known.items()}
        return read


@lru_cache(maxsize=4096)
def _row(
    agent: str, number: int, shown: tuple[int, int, str], created: int, *, passing: bool, is_plain: bool = False
) -> bytes:
    (epoch, port, name), (node_id, _, service_id, address) = shown, _words_of(number)
    meta = {} if is_plain else {"node_id": node_id, "name": name, "epoch": str(epoch)}
    payload = {"ID": service_id, "Port": port, "Address": address, "Meta": meta}
    return row_of(agent, payload, created, passing=passing)


@dataclass
class Facts:
    """Everything that is so, whatever a node believes. `cut`: pairs (from, to) of numbers whose packets are lost.

    `lossy`: the numbers of those of whose packets one is lost now and then. `token`: the one ACL token of the mesh that
    the servers still know; `says_empty`: whether they answer a wait with another one by 200 and an empty list, as 1.21,
    or by 403, as 1.8. `lost`: whose entries they lost, and since when. `restored_at_s`: when a snapshot was.
    """

    nodes: list[NodeFacts]
    rng: random.Random
    now_s: float = 0.0
    cut: set[tuple[int, int]] = field(default_factory=set)
    lossy: set[int] = field(default_factory=set)
    index: int = 1_000_000
    before: list[tuple[int, tuple[bytes, ...]]] = field(default_factory=list)
    token: int = 0
    says_empty: bool = True
    lost: dict[int, float] = field(default_factory=dict)
    restored_at_s: float = 0.0
    _rows: tuple[bytes, ...] | None = None
    _at: dict[str, NodeFacts] = field(default_factory=dict)

    def rows(self) -> tuple[bytes, ...]:
        """What the servers have."""
        if self._rows is None:
            ghosts = tuple(one.ghost for one in self.nodes if one.ghost is not None)
            self._rows = tuple(one.row() for one in self.nodes if one.listed) + ghosts
        return self._rows

    def change(self) -> None:
        """Something in the catalog is about to change."""
        self.before.append((self.index, self.rows()))
        del self.before[:-30]
        self.index += 1
        self._rows = None

    def at(self, url: str) -> NodeFacts:
        """The node that is, or was, at a URL."""
        if (one := self._at.get(url)) is None:
            parts = url[len("http://10.0.") :].partition(":")[0].split(".")
            one = self._at[url] = self.nodes[250 * int(parts[0]) + int(parts[1]) - 1]
        return one

    def is_at(self, url: str) -> bool:
        """Whether it still is there."""
        return self.at(url).url == url

    def carries(self, source: int, to: int) -> bool:
        """Whether packets arrive."""
        return (source, to) not in self.cut

    # What happens to the servers

    def lose(self, some: list[NodeFacts]) -> None:
        """A script deregisters some behind their agents' backs; that is how a plain server leaves."""
        for one in some:
            one.caused_at_s = self.now_s if one.is_plain else one.caused_at_s
        self._lose(some)

    def wipe(self, some: list[NodeFacts]) -> None:
        """Their agents lose what they held, which the servers hear."""
        self._lose(some)

    def _lose(self, some: list[NodeFacts]) -> None:
        self.change()
        for one in some:
            self._unlist(one)
            self.lost.setdefault(one.number, self.now_s)

    def restore(self, lacks: list[NodeFacts], *, is_recent: bool = False) -> None:
        """Restore a snapshot from before these registered."""
        self._lose(lacks)
        self.before.pop()
        self.restored_at_s = self.now_s
        self.index = self.index - _RESTORED_LITTLE if is_recent else self.before[0][0] - _RESTORED_BACK

    def sync(self) -> None:
        """Agents send what the servers have lost for long."""
        for number, since_s in list(self.lost.items()):
            one = self.nodes[number]
            if not one.alive:
                del self.lost[number]
            elif self.now_s - since_s >= _SYNC_S:
                self.register(one)

    # What nodes and their agents tell the servers

    def takes(self, one: NodeFacts) -> bool:
        """Whether it can register."""
        return one.has_token == self.token and not one.agent_away

    def register(self, one: NodeFacts) -> None:
        """A living node registers with the token that it knows; the servers take none that was deleted."""
        if one.agent_away:
            return
        one.token, entry = one.has_token, (one.epoch, one.port, one.name)
        if one.token == self.token and not (one.listed and one.passing and one.shown == entry):
            self.change()
            one.created = one.created if one.listed else self.index
            one.listed, one.passing, one.shown = True, True, entry
            self.lost.pop(one.number, None)

    def lapse(self, one: NodeFacts) -> None:
        """A node's agent finds its check critical: a ghost stays where the token of its registration is deleted."""
        if one.token == self.token and one.passing:
            self.change()
            one.passing, one.lapsed_at_s = False, self.now_s

    def deregister(self, one: NodeFacts) -> None:
        """A node leaves, as above; one that has read a new token has registered with it."""
        if one.token == self.token and one.listed:
            self.change()
            self._unlist(one)

    def _unlist(self, one: NodeFacts) -> None:
        if one.listed:
            one.listed, one.lost_at_s, one.unlisted_at_s = False, self.now_s, self.now_s


@dataclass(slots=True)
class OwnEntry:
    """A `Registrar` as a watch sees it."""

    facts: Facts
    own: NodeFacts
    status: RegistrarStatus = field(default_factory=lambda: RegistrarStatus(registered=True, presence_expected=True))

    @property
    def service_id(self) -> str:
        return self.own.service_id

    def verify(self) -> None:
        """The agent's list has us."""

    def repair(self) -> None:
        """Register again, with other Notes."""
        self.facts.register(self.own)

    def maintained(self, reason: str) -> None:
        """There is no maintenance here."""


@dataclass
class Servers:
    """Consul for one node, in no time: a wait is a jump of the clock. `hid_at_s`: when it last hid others' rows.

    `answered_index`: that of its last answer; `misused`: how it was asked for what it does not have.
    """

    facts: Facts
    own: NodeFacts
    lie: Lie = Lie.NONE
    last: Answer = field(default_factory=lambda: Answer(1, ()))
    hid_at_s: float = 0.0
    answered_index: int = 0
    misused: str = ""
    token_rotates: bool = True
    is_embedded: bool = False

    @property
    def token(self) -> str:
        """What the node sends."""
        return f"t{self.own.has_token}"

    async def health(
        self, _name: str, *, index: int = 0, wait_s: float = 0.0, consistent: bool = False, **_dc: str
    ) -> Answer:
        """As `ConsulClient.health`."""
        if index > self.answered_index:
            # It would sleep over all that is new until the index is there again.
            self.misused = f"a wait at index {index} after an answer of {self.answered_index}"
        answer = self._answer(index, wait_s, consistent=consistent)
        self.answered_index = answer.index
        return answer

    def _answer(self, index: int, wait_s: float, *, consistent: bool) -> Answer:
        loop, facts, lie = cast("VirtualTimeLoop", asyncio.get_running_loop()), self.facts, self.lie
        loop.jump(0.002)
        if lie not in _SILENT and self.own.has_token != facts.token:
            lie = Lie.UNKNOWN_TOKEN
        self._refuse(lie, waits=bool(index))
        if lie in (Lie.UNKNOWN_TOKEN, Lie.FROZEN):
            loop.jump(wait_s)
            return Answer(1, ()) if lie is Lie.UNKNOWN_TOKEN else Answer(index, self.last.rows, backend="streaming")
        if lie is Lie.BEHIND and facts.before and not consistent:
            loop.jump(wait_s if index else 0.0)
            return Answer(*facts.before[-1])
        loop.jump(wait_s if index >= facts.index else 0.0)
        if lie in _HIDING:
            self.hid_at_s = loop.time() if lie is Lie.SHORT_SIGHTED else self.hid_at_s
            return Answer(
                facts.index, (self.own.row(),) * (self.own.listed and lie is Lie.SHORT_SIGHTED), filtered=True
            )
        if lie in (Lie.DOUBLED, Lie.REORDERED):
            rows = [*facts.rows()] * (2 if lie is Lie.DOUBLED else 1)
            facts.rng.shuffle(rows)
            return Answer(facts.index, tuple(rows))
        if lie is Lie.PARTIAL and index:
            others = tuple([one.row() for one in facts.nodes if one.listed and one is not self.own])
            return Answer(facts.index, (self.own.row(),) * self.own.listed + others[: len(others) // PARTIAL_OF])
        self.last = Answer(facts.index, facts.rows())
        return self.last

    def _refuse(self, lie: Lie, *, waits: bool) -> None:
        """Raise what takes the place of an answer, if anything does."""
        if lie is Lie.AWAY:
            raise AgentUnreachable("refused")
        if lie is Lie.UNKNOWN_TOKEN and not (waits and self.facts.says_empty):
            raise AccessRefused("403")
        if lie is Lie.LEADERLESS or (lie is Lie.FROZEN and not waits):
            raise CatalogUnavailable("500")


@dataclass(slots=True)
class Store:
    """What operators said. `hidden`: node ID -> what a node was called that they removed once it had proven itself.

    It stays away wherever it is, and whatever it calls itself.
    """

    overrides: tuple[Override, ...] = ()
    suppressions: tuple[Suppression, ...] = ()
    hidden: dict[str, str] = field(default_factory=dict)


def identity_of(one: NodeFacts) -> NodeIdentity:
    """Who a node is."""
    return NodeIdentity(one.node_id, one.name)
