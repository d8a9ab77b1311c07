"""A Consul without processes: its servers' state, an agent for each node, and the lies that both are known to tell.

Each kind of lie but the partial one is one that real Consul has been seen to tell (docs/reliability.md, "Consul
differs by version"). An `Agent` has the methods of `discovery.consul.client.ConsulClient` that the real watch and
registrar call. The one rule:
a consistent read without an index tells the truth or fails, as Consul promises; everything else may lie.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson

from discovery.consul.client import Answer
from discovery.model import (
    AccessRefused,
    AgentSlow,
    AgentUnreachable,
    CatalogUnavailable,
    RegistrationLost,
)

ANSWER_S = 0.002
SLOW_S = 8.0
USUAL_LIMIT_S = 5.0
# Consul's own anti-entropy: an agent compares all that it holds with the servers about once a minute.
SYNC_EVERY_S = 75.0
# One in so many of the others is in a partial answer.
PARTIAL_OF = 3


class Lie(StrEnum):
    """How an agent answers."""

    NONE = "none"
    AWAY = "away"  # stopped: refuses connections
    LEADERLESS = "leaderless"  # no leader: 500 to all that needs the servers
    FROZEN = "frozen"  # 1.21's cache: waits get the old list and a 200, reads without an index fail
    BLIND = "blind"  # its token lacks node:read: 200 and an empty list
    SHORT_SIGHTED = "short-sighted"  # its token may read our own Consul node alone: 200, and no other row
    UNKNOWN_TOKEN = "unknown token"  # 1.21: waits get a 200 and an empty list, everything else a 403
    BEHIND = "behind"  # a follower that is behind: an older list under an older index
    DOUBLED = "doubled"  # each row twice, in any order
    REORDERED = "reordered"  # the rows in any order
    PARTIAL = "partial"  # a wait gets our own row and some others, as a cache that is not yet filled would answer
    SLOW = "slow"  # answers after 8 s


@dataclass(frozen=True, slots=True)
class Entry:
    """One instance as the servers have it."""

    agent: str
    payload: Mapping[str, Any]
    created: int
    passing: bool
    row: bytes


@dataclass(slots=True)
class Held:
    """One registration as its agent has it. `sent`: what the agent believes that the servers have."""

    payload: Mapping[str, Any]
    token: str | None
    beat_at_s: float
    passing: bool = True
    sent: tuple[Mapping[str, Any], bool] | None = None
    timer: asyncio.TimerHandle | None = None


@dataclass
class Consul:
    """The servers. `news`: called with the service ID and a word at each change of fact: "there", or why it is not."""

    rng: random.Random
    news: Callable[[str, str], None] = lambda _service_id, _what: None
    index: int = 10
    entries: dict[str, Entry] = field(default_factory=dict)
    refused_tokens: set[str] = field(default_factory=set)
    agents: dict[str, "Agent"] = field(default_factory=dict)
    history: list[tuple[int, tuple[bytes, ...]]] = field(default_factory=list)
    waiting: dict[asyncio.Future[None], None] = field(default_factory=dict)  # in order

    def rows(self) -> tuple[bytes, ...]:
        """The rows of all instances, in the order of their IDs."""
        return tuple(entry.row for _, entry in sorted(self.entries.items()))

    def put(self, agent: str, payload: Mapping[str, Any], *, passing: bool) -> None:
        """Take what an agent sends; what is the same as before changes no index."""
        known = self.entries.get(payload["ID"])
        if known is not None and (known.payload, known.passing, known.agent) == (payload, passing, agent):
            return
        self._remember()
        self.index += 1
        created = self.index if known is None else known.created
        row = row_of(agent, payload, created, passing=passing)
        self.entries[payload["ID"]] = Entry(agent, payload, created, passing, row)
        self.news(payload["ID"], "there" if passing else "critical")
        self.wake()

    def remove(self, service_id: str, why: str) -> None:
        """Forget one instance: its agent's word, or an operator's clean-up behind its back."""
        if service_id in self.entries:
            self._remember()
            self.index += 1
            del self.entries[service_id]
            self.news(service_id, why)
            self.wake()

    def restore(self, back: int) -> None:
        """Restore the snapshot of so many changes ago. Waits sleep on, as on 1.21."""
        if not self.history:
            return
        self.index, rows = self.history[max(0, len(self.history) - back)]
        kept = {orjson.loads(row)["Service"]["ID"]: row for row in rows}
        restored: dict[str, Entry] = {}
        for service_id, row in kept.items():
            read = orjson.loads(row)
            passing = read["Checks"][0]["Status"] == "passing"
            payload = read["Service"] | {"Name": "mcp-node"}
            restored[service_id] = Entry(read["Node"]["Node"], payload, read["Service"]["CreateIndex"], passing, row)
        lost, self.entries = self.entries.keys() - restored.keys(), restored
        for service_id in sorted(lost):
            self.news(service_id, "not in the snapshot")
        for service_id, entry in restored.items():
            self.news(service_id, "there" if entry.passing else "critical")

    def wake(self) -> None:
        """Let every wait look again."""
        for future in self.waiting:
            if not future.done():
                future.set_result(None)
        self.waiting.clear()

    async def changed_from(self, index: int, wait_s: float) -> None:
        """Return when the index is a higher one, or after `wait_s`."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + wait_s
        while self.index <= index and loop.time() < until_s:
            future: asyncio.Future[None] = loop.create_future()
            self.waiting[future] = None
            try:
                async with asyncio.timeout_at(until_s):
                    await future
            except TimeoutError:
                return
            finally:
                self.waiting.pop(future, None)

    def _remember(self) -> None:
        self.history.append((self.index, self.rows()))
        del self.history[:-30]


def row_of(agent: str, payload: Mapping[str, Any], created: int, *, passing: bool) -> bytes:
    """One row of `/v1/health/service/<name>`."""
    node = {"Node": agent, "Address": "10.9.9.9", "Datacenter": "dc1"}
    service = {key: payload.get(key) for key in ("ID", "Port", "Address", "Meta", "Tags")} | {"CreateIndex": created}
    check = {"CheckID": "c", "Name": "mesh node", "Status": "passing" if passing else "critical", "Output": ""}
    return orjson.dumps({"Node": node, "Service": service, "Checks": [check]})


@dataclass
class Agent:
    """One Consul agent, and in one the client that a node has to it. `lie`: how it answers now.

    `token`: what the node sends; `token_rotates`: it comes from a file; `hid_at_s`: when it last hid others' rows.
    `misused`: how it was asked for what it does not have. Long because it is a whole client.
    """

    consul: Consul
    name: str
    lie: Lie = Lie.NONE
    token: str | None = "t0"
    token_rotates: bool = True
    is_embedded: bool = False
    held: dict[str, Held] = field(default_factory=dict)
    queries: int = 0
    registrations: int = 0
    last: Answer | None = None
    hid_at_s: float = 0.0
    answered_index: int = 0
    misused: str = ""
    _sync: asyncio.TimerHandle | None = None

    def __post_init__(self) -> None:
        self.consul.agents[self.name] = self

    # What the watch and the registrar call

    async def health(
        self, _name: str, *, index: int = 0, wait_s: float = 0.0, consistent: bool = False, dc: str = ""
    ) -> Answer:
        """One health query."""
        assert not dc
        if index > self.answered_index:
            self.misused = f"a wait at index {index} after an answer of {self.answered_index}"
        answer = await self._asked(index, wait_s, consistent=consistent)
        self.answered_index = answer.index
        return answer

    async def _asked(self, index: int, wait_s: float, *, consistent: bool) -> Answer:
        self.queries += 1
        await self._answer_s(wait_s)
        refused = self.token in self.consul.refused_tokens
        if refused or self.lie is Lie.UNKNOWN_TOKEN:
            if not index:
                raise AccessRefused("403, ACL not found")
            await asyncio.sleep(min(wait_s, 1.0))
            return Answer(1, ())
        if self.lie is Lie.LEADERLESS or (self.lie is Lie.FROZEN and not index):
            raise CatalogUnavailable("500, no cluster leader")
        if self.lie is Lie.FROZEN and self.last is not None:
            await asyncio.sleep(wait_s)
            return Answer(index, self.last.rows, backend="streaming")
        if index and self.lie is not Lie.BEHIND:
            await self.consul.changed_from(index, wait_s)
            await self._answer_s(0.0)
        return self._answer(consistent=consistent, waited=bool(index))

    async def register(self, payload: Mapping[str, Any]) -> None:
        """`PUT /v1/agent/service/register`; the agent sends on what differs from what it believes."""
        late = await self._operation(payload["ID"])
        self.registrations += 1
        now_s = asyncio.get_running_loop().time()
        known = self.held.get(payload["ID"])
        held = Held(payload, self.token, now_s, sent=None if known is None else known.sent)
        if known is not None:
            held.passing = known.passing
            _cancel(known.timer)
        self.held[payload["ID"]] = held
        self._send(held)
        self._arm(held)
        if late:
            raise AgentSlow("no answer in time")

    async def pass_check(self, check_id: str) -> None:
        """`PUT /v1/agent/check/pass`."""
        service_id = check_id.removeprefix("service:")
        late = await self._operation(service_id)
        held = self.held.get(service_id)
        if held is None:
            raise RegistrationLost("404, unknown check")
        held.beat_at_s = asyncio.get_running_loop().time()
        if not held.passing:
            held.passing = True
            self._send(held)
            self._arm(held)
        if late:
            raise AgentSlow("no answer in time")

    async def agent_services(self) -> Mapping[str, Any]:
        """`GET /v1/agent/services`."""
        if await self._operation(""):
            raise AgentSlow("no answer in time")
        return {service_id: {"Service": held.payload["Name"], **held.payload} for service_id, held in self.held.items()}

    async def held_check(self, check_id: str) -> Mapping[str, Any]:
        """One of `GET /v1/agent/checks`."""
        if await self._operation(""):
            raise AgentSlow("no answer in time")
        if (held := self.held.get(check_id.removeprefix("service:"))) is None:
            return {}
        status = {True: "passing", False: "critical"}[held.passing]
        return {"Node": self.name, "Status": status, "Notes": held.payload["Check"].get("Notes", "")}

    async def held_checks(self) -> Mapping[str, Any]:
        """`GET /v1/agent/checks`."""
        return {f"service:{service_id}": await self.held_check(f"service:{service_id}") for service_id in self.held}

    async def is_member(self, _check_id: str) -> bool:
        """Whether the agent is in its cluster."""
        await self._operation("")
        return True

    async def is_leaving(self, _node: str) -> bool:
        """Whether the agent is leaving its cluster."""
        await self._operation("")
        return False

    async def holders(self, _service_name: str, service_id: str) -> tuple[str, ...]:
        """The Consul nodes under which the catalog lists the instance."""
        await self._operation("")
        if self.lie in (Lie.LEADERLESS, Lie.FROZEN):
            raise CatalogUnavailable("500, no cluster leader")
        entry = self.consul.entries.get(service_id)
        return () if entry is None else (entry.agent,)

    async def deregister(self, service_id: str) -> None:
        """`PUT /v1/agent/service/deregister`; done with the token of the registration."""
        await self._operation(service_id)
        held = self.held.pop(service_id, None)
        if held is not None:
            _cancel(held.timer)
            if held.token not in self.consul.refused_tokens and self._reaches_servers:
                self.consul.remove(service_id, "left")

    # What faults do

    def wipe(self) -> None:
        """Restart without its state: all that it held is gone from the catalog as well."""
        for service_id, held in self.held.items():
            _cancel(held.timer)
            self.consul.remove(service_id, "its agent was wiped")
        self.held.clear()

    def sync(self) -> None:
        """Send all that it holds, as its anti-entropy does now and then."""
        for held in self.held.values():
            held.sent = None
            self._send(held)

    def keep_syncing(self) -> None:
        """Sync every `SYNC_EVERY_S`, until `close`."""
        self.sync()
        self._sync = asyncio.get_running_loop().call_later(SYNC_EVERY_S, self.keep_syncing)

    def close(self) -> None:
        """End its timers."""
        _cancel(self._sync)
        for held in self.held.values():
            _cancel(held.timer)

    # Within

    @property
    def is_well(self) -> bool:
        """Whether it tells the truth, and takes the token that its node has now."""
        return self.lie is Lie.NONE and self.token not in self.consul.refused_tokens

    @property
    def _reaches_servers(self) -> bool:
        return self.lie not in (Lie.AWAY, Lie.LEADERLESS, Lie.FROZEN)

    def _answer(self, *, consistent: bool, waited: bool) -> Answer:
        index, rows = self.consul.index, self.consul.rows()
        match self.lie:
            case Lie.BLIND:
                return Answer(index, (), filtered=True, backend="blocking-query")
            case Lie.SHORT_SIGHTED:
                self.hid_at_s = asyncio.get_running_loop().time()
                seen = tuple(entry.row for entry in self.consul.entries.values() if entry.agent == self.name)
                return Answer(index, seen, filtered=True, backend="blocking-query")
            case Lie.BEHIND if self.consul.history and not consistent:
                index, rows = self.consul.history[-1]
            case Lie.PARTIAL if waited:
                ours = tuple([one.row for one in self.consul.entries.values() if one.agent == self.name])
                others = tuple([row for row in rows if row not in ours])
                return Answer(index, ours + others[: len(others) // PARTIAL_OF], backend="blocking-query")
            case Lie.DOUBLED | Lie.REORDERED:
                shuffled = [*rows] * (2 if self.lie is Lie.DOUBLED else 1)
                self.consul.rng.shuffle(shuffled)
                rows = tuple(shuffled)
        self.last = Answer(index, rows, backend="blocking-query")
        return self.last

    async def _answer_s(self, more_s: float) -> None:
        """The time of an answer; raises where there is none."""
        if self.lie is Lie.AWAY:
            raise AgentUnreachable("connection refused")
        if self.lie is Lie.SLOW and more_s + USUAL_LIMIT_S < SLOW_S:
            await asyncio.sleep(USUAL_LIMIT_S)
            raise AgentSlow("no answer in time")
        await asyncio.sleep(SLOW_S if self.lie is Lie.SLOW else ANSWER_S)

    async def _operation(self, _service_id: str) -> bool:
        """A request to the agent itself; whether its answer comes too late, though it is carried out."""
        if self.lie is Lie.AWAY:
            raise AgentUnreachable("connection refused")
        if self.token in self.consul.refused_tokens or self.lie is Lie.UNKNOWN_TOKEN:
            await asyncio.sleep(ANSWER_S)
            raise AccessRefused("403, ACL not found")
        await asyncio.sleep(USUAL_LIMIT_S if self.lie is Lie.SLOW else ANSWER_S)
        return self.lie is Lie.SLOW

    def _send(self, held: Held) -> None:
        state = (held.payload, held.passing)
        if held.sent != state and self._reaches_servers and held.token not in self.consul.refused_tokens:
            held.sent = state
            self.consul.put(self.name, held.payload, passing=held.passing)

    def _arm(self, held: Held) -> None:
        """Let the check of its TTL be critical once no heartbeat has come for so long."""
        _cancel(held.timer)
        ttl_s = float(held.payload["Check"]["TTL"].removesuffix("s"))
        loop = asyncio.get_running_loop()

        def look() -> None:
            if self.held.get(held.payload["ID"]) is not held or not held.passing:
                return
            if loop.time() >= held.beat_at_s + ttl_s:
                held.passing = False
                self._send(held)
            else:
                held.timer = loop.call_at(held.beat_at_s + ttl_s, look)

        held.timer = loop.call_at(held.beat_at_s + ttl_s, look)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
