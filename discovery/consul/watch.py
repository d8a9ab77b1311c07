"""The watch loop: follows one service name with blocking queries and yields whole catalogs.

Opened by `discovery.consul.session`; consumed by the mesh. Each turn is: pause, query, weigh, show. `blocking_query`
decides what to believe and `rows` reads them; here are the state between turns and the actions. The one rule: no answer
or failure of Consul ends the watch or empties the catalog by itself.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from discovery import clock
from discovery.consul import blocking_query
from discovery.consul.blocking_query import (
    CONFIRM_EVERY_S,
    HIDDEN_AGAIN_S,
    REPAIR_AGAIN,
    RESTORED_S,
    SETTLE_S,
    Trust,
    Verdict,
    is_canary,
    next_index,
    pause_s,
    proves_absence,
    vanished_from,
    weigh,
)
from discovery.consul.client import Answer, ConsulClient
from discovery.consul.environment import POLL_S, WAIT_S
from discovery.consul.forgotten import LOOKS_OF_LEAVING, Forgotten
from discovery.consul.rows import RowReader
from discovery.model import (
    AccessRefused,
    AgentUnreachable,
    Catalog,
    CatalogUnavailable,
    Instance,
    InstanceKey,
    Registrar,
    SourceStatus,
)

log = logging.getLogger(__name__)

CACHE = "streaming"  # What an agent says of an answer of its own cache.
QUICK_RETURN_S = 0.25  # A query that returns sooner and without news did not wait.
_WAIT_MIN_S = 0.05
# The wait after a first distrusted answer, an agent's time to reach its servers; at a second one we register again.
_DISTRUST_WAIT_S = 0.5
_DISTRUSTS_OF_LOSS = 2
# Reading takes 3 ms for each thousand rows, most of them known: from so many on a thread does it.
_LONG_ANSWER = 500
_FILTERED = "rows were left out that our ACL token may not see, it lacks node:read or service:read"
_CACHE_ALONE = "the servers' last answer lacked our own registration; only the cache of Consul's agent has it since"
_REPEAT_LEVELS = {1: logging.DEBUG, 2: logging.WARNING}
# With its node each embedded catalog ends, and the next one begins empty: that is the ordinary course.
_REPEAT_LEVELS_EMBEDDED = {1: logging.DEBUG, 2: logging.INFO}


@dataclass(frozen=True, slots=True)
class _Query:
    index: int = 0
    wait_s: float = 0.0
    consistent: bool = False


class ConsulWatch:
    """A `CatalogSource` over Consul's HTTP API. One consumer at a time; the state is written by `watch` alone.

    Long because each answer and each failure changes one state, which says whether the catalog is believed.
    """

    def __init__(
        self,
        client: ConsulClient,
        service_name: str,
        *,
        own: Registrar | None = None,
        known: Catalog | None = None,
        wait_s: float = WAIT_S,
        settle_s: float = SETTLE_S,
        dc: str = "",
        answers: Callable[[Instance], bool] = lambda _one: False,
    ) -> None:
        """`dc`: another datacentre's catalog is followed; then `own` is None, for we are not in it.

        `answers`: whether a link to an instance is up.
        """
        self._client = client
        self._service_name = service_name
        self._own = own
        self._wait_s = wait_s
        self._settle_s = settle_s
        self._shown = None if known is None else _others(known, own)
        self._elsewhere = {"dc": dc} if dc else {}
        self._answers = answers
        self._reader = RowReader(far=bool(dc))
        self._suspects: frozenset[InstanceKey] = frozenset()
        self._forgotten = Forgotten()
        self._index = 0
        self._last_index = 0  # The last answer's, over outages too.
        self._restored_until_s = 0.0
        self._own_created: int | None = None
        self._confirm = False
        self._idle_returns = 0
        self._settle_until_s: float | None = None
        self._updated_at_s: float | None = None
        self._down_since_s: float | None = None
        self._failures = 0
        self._distrusts = 0
        self._failure: type[BaseException] | None = None
        self._up = False
        self._last_error = ""
        self._answered_at_s: float | None = None
        self._changes_total = 0
        self._filtered = False
        self._backend = ""
        self._read_plain_at_s: float | None = None
        self._confirmed_at_s: float | None = None
        self._lists_us: bool | None = None
        self._doubt_again_at_s: float | None = (
            None  # While no server has said anything better than a distrusted answer.
        )
        self._repairs = 0
        self._repair_at_s = 0.0
        self._hidden_until_s = 0.0

    def __repr__(self) -> str:
        count = len(self._shown.instances) if self._shown else 0
        return f"<ConsulWatch {self._service_name} up={self._up} instances={count} index={self._index}>"

    @property
    def status(self) -> SourceStatus:
        """A frozen view of the present state."""
        return SourceStatus(
            up=self._up,
            last_error=self._last_error,
            last_answer_at_s=self._answered_at_s,
            changes_total=self._changes_total,
            holding_removals=bool(self._suspects),
            filtered=self._filtered,
            backend=self._backend,
            confirmed_at_s=self._confirmed_at_s,
            lists_us=self._lists_us,
        )

    async def watch(self) -> AsyncGenerator[Catalog, None]:
        """Yield the catalog when it is first known and after every change, until cancelled (`CatalogSource`)."""
        if self._shown is not None:
            self._settle_until_s = clock.now_s() + self._settle_s
            yield self._shown
        while True:
            update = await self._turn()
            if update is not None:
                yield update

    async def _turn(self) -> Catalog | None:
        """Query once; return the catalog when the shown one has changed."""
        pause = pause_s(now_s=clock.now_s(), last_update_at_s=self._updated_at_s, idle_returns=self._idle_returns)
        if pause > 0:
            await asyncio.sleep(pause)
        queried_at_s = clock.now_s()
        query = self._next_query(queried_at_s)
        # Read before the query: an answer from before our registration is no reason for distrust.
        expected = self._presence_expected
        try:
            answer = await self._client.health(
                self._service_name,
                index=query.index,
                wait_s=query.wait_s,
                consistent=query.consistent,
                **self._elsewhere,
            )
            catalog, broken_rows = await self._read(answer.rows)
        except CatalogUnavailable as exc:
            await self._rest(self._failed(exc, clock.now_s()))
            return None
        except Exception as exc:
            log.exception("the catalog watch failed in an unforeseen way")
            await self._rest(self._failed(exc, clock.now_s()))
            return None
        if broken_rows:
            log.debug("catalog rows left out", extra={"broken_rows": broken_rows})
        now_s = clock.now_s()
        self._note_answer(answer.index, now_s)
        ours = self._ours(catalog)
        self._note_loss(ours, now_s)
        # A wait may have begun before the registration's answer, and may have shown us before that.
        expected = expected or (self._presence_expected and self._shows_us)
        self._backend = answer.backend
        if not query.index:
            self._read_plain_at_s = now_s
            self._note_filter(filtered=answer.filtered)
        is_of_server = not query.index or answer.backend != CACHE
        if self._own is not None and (is_of_server or ours is not None):
            self._lists_us = ours is not None
        if self._own is not None and ours is not None:
            self._own.maintained(ours.maintenance)
        canary = self._own.service_id if expected and self._own is not None else None
        missing = self._missing(catalog)
        linked = [one for one in missing if self._answers(one)]
        nodes = [one for one in linked if one.meta.get("node_id")]
        restored = now_s < self._restored_until_s
        verdict = weigh(
            self._shown,
            catalog,
            canary=canary,
            holder=self._own.status.holder if self._own is not None else "",
            settling=self._settle_until_s is not None and now_s < self._settle_until_s,
            suspects=self._suspects,
            confirming=query.consistent,
            restored=restored,
            answering=self._answering(linked, catalog, answer, canary=canary, waited=bool(query.index)),
            forgotten=self._forgotten.of(catalog, nodes, now_s),
            linked=frozenset(one.key for one in linked),
        )
        self._note_forgotten(verdict, now_s, restored=restored)
        if is_of_server and verdict.trust not in (Trust.DISTRUSTED, Trust.HIDDEN):
            self._confirmed_at_s, self._doubt_again_at_s = now_s, None
        elif not query.index and not self._distrusts and self._doubt_again_at_s is not None:
            self._doubt_again_at_s = now_s + HIDDEN_AGAIN_S
        self._note_trust(verdict, now_s)
        return self._show(verdict, quick=now_s - queried_at_s < QUICK_RETURN_S, now_s=now_s)

    async def _read(self, rows: Sequence[bytes]) -> tuple[Catalog, int]:
        if len(rows) < _LONG_ANSWER:
            return self._reader.read(rows)
        return await asyncio.to_thread(self._reader.read, rows)

    def _missing(self, answer: Catalog) -> Sequence[Instance]:
        """What the answer lacks of the shown catalog."""
        if self._shown is None or not (vanished := vanished_from(self._shown, answer)):
            return ()
        return [one for one in self._shown.instances if one.key in vanished]

    def _answering(
        self, linked: Sequence[Instance], catalog: Catalog, answer: Answer, *, canary: str | None, waited: bool
    ) -> frozenset[InstanceKey]:
        """The instances that the answer lacks and whose links are up, where it does not prove that they left."""
        tells = bool(answer.backend) and self._client.token is not None
        filtered = answer.filtered or self._filtered
        proven = proves_absence(catalog, canary=canary, filtered=filtered, tells=tells, waited=waited)
        return frozenset() if proven else frozenset(one.key for one in linked)

    @property
    def _presence_expected(self) -> bool:
        return self._own is not None and self._own.status.presence_expected

    @property
    def _shows_us(self) -> bool:
        return self._shown is not None and self._ours(self._shown) is not None

    def _ours(self, catalog: Catalog) -> Instance | None:
        """Our own entry."""
        if self._own is None:
            return None
        service_id, holder = self._own.service_id, self._own.status.holder
        return next((one for one in catalog.instances if is_canary(one, service_id, holder)), None)

    def _next_query(self, now_s: float) -> _Query:
        if self._confirm:
            return _Query(consistent=True)
        if self._distrusts == 1:
            return _Query(self._index, min(self._wait_s, _DISTRUST_WAIT_S))
        if self._distrusts:
            unread = self._read_plain_at_s is None or now_s >= self._read_plain_at_s + HIDDEN_AGAIN_S
            return _Query() if unread else self._wait_until(self._repair_at_s, now_s)
        held_until_s = 0.0
        if self._suspects:
            settle_until_s = self._settle_until_s or 0.0
            held_until_s = max(self._restored_until_s, self._hidden_until_s, self._forgotten.look_again_at_s)
            held_until_s = settle_until_s if now_s < settle_until_s else held_until_s
            if now_s >= held_until_s:
                return _Query(consistent=True)
        if self._read_plain_at_s is not None and now_s >= self._read_plain_at_s + CONFIRM_EVERY_S:
            return _Query()
        if self._doubt_again_at_s is not None:
            # A better answer of the agent's cache proves no server.
            if now_s >= self._doubt_again_at_s:
                return _Query()
            held_until_s = min(held_until_s or self._doubt_again_at_s, self._doubt_again_at_s)
        return self._wait_until(held_until_s, now_s) if held_until_s else _Query(self._index, self._wait_s)

    def _wait_until(self, due_s: float, now_s: float) -> _Query:
        return _Query(self._index, max(_WAIT_MIN_S, min(self._wait_s, due_s - now_s)))

    def _note_answer(self, answered_index: int, now_s: float) -> None:
        """Advance the index; a restored state and the end of an outage begin a time of settling."""
        index = next_index(self._index, answered_index)
        went_back = answered_index < self._last_index
        if went_back:
            # It may be no restore: newer agents have two indexes for a name that was never registered. Nothing is lost.
            level = logging.DEBUG if now_s < self._restored_until_s else logging.INFO
            log.log(level, "the catalog's index went back", extra={"index": answered_index})
            self._restored_until_s = now_s + RESTORED_S
        if index == 0 or went_back or self._down_since_s is not None:
            self._settle_until_s = now_s + self._settle_s
        self._index, self._last_index = index, answered_index
        self._recovered(now_s)

    def _note_loss(self, ours: Instance | None, now_s: float) -> None:
        """Our own entry is missing, or was made anew: others may be lost with it, and not back yet.

        Their registrations make the index rise again, so that it need not have gone back for us.
        """
        created = None if ours is None else ours.created_index
        if self._own_created not in (None, created):
            self._restored_until_s = now_s + RESTORED_S
        self._own_created = created if created is not None else self._own_created

    def _note_filter(self, *, filtered: bool) -> None:
        """Consul says whether access control left rows out; in answers without an index alone."""
        if filtered and not self._filtered:
            log.warning(
                "consul leaves out rows that our ACL token may not see: does it lack node:read or service:read?",
                extra=self._elsewhere,
            )
        self._filtered = filtered

    def _show(self, verdict: Verdict, *, quick: bool, now_s: float) -> Catalog | None:
        """Keep the catalog to show from now on; return it if it changed."""
        self._confirm = verdict.trust is Trust.CONFIRM
        self._suspects = verdict.suspects
        changed = verdict.catalog != self._shown
        self._idle_returns = self._idle_returns + 1 if quick and not changed else 0
        if not changed:
            return None
        self._shown = verdict.catalog
        self._updated_at_s = now_s
        self._changes_total += 1
        return self._shown

    def _note_trust(self, verdict: Verdict, now_s: float) -> None:
        if verdict.trust is Trust.DISTRUSTED:
            self._distrust(now_s)
            return
        if verdict.trust is Trust.HIDDEN:
            self._note_hidden(verdict, now_s)
            return
        if verdict.trust is Trust.CONFIRM and self._hidden_until_s:
            return  # It is to be seen whether they are still hidden.
        self._hidden_until_s = 0.0
        if verdict.suspects and not self._suspects:
            # A confirming read takes milliseconds, and a node that leaves is gone at the next look; settling may last.
            is_short = verdict.trust is Trust.CONFIRM or self._forgotten.look_again_at_s
            level = logging.DEBUG if is_short else logging.WARNING
            log.log(level, "holding removals until they are confirmed", extra={"instances": len(verdict.suspects)})
        fault = _FILTERED if self._filtered and verdict.suspects else ""
        fault = fault or ("" if self._doubt_again_at_s is None else _CACHE_ALONE)
        if not self._up and not fault:
            log.info("the catalog is followed", extra={"service": self._service_name})
        self._distrusts = self._repairs = 0
        self._repair_at_s = 0.0
        self._up, self._last_error, self._answered_at_s = not fault, fault, now_s

    def _note_forgotten(self, verdict: Verdict, now_s: float, *, restored: bool) -> None:
        if verdict.trust in (Trust.CONFIRM, Trust.DISTRUSTED):
            return
        some = verdict.trust is Trust.DOUBTED and not restored
        if self._forgotten.looked(now_s, some=some) == LOOKS_OF_LEAVING:
            count = len(verdict.suspects)
            log.warning("the catalog lacks nodes that answer, their links stay", extra={"instances": count})

    def _note_hidden(self, verdict: Verdict, now_s: float) -> None:
        """Instances that answer are missing, and may only be hidden from us: their links stay, and we say why."""
        self._up = False
        self._last_error = "the answer lacks instances that still answer, so they stay: " + (
            _FILTERED
            if self._filtered
            else "were they deregistered while they run?"
            if self._client.is_embedded
            else "does the ACL token lack node:read or service:read, or were they deregistered while they run?"
        )
        level = logging.DEBUG if self._hidden_until_s else logging.WARNING
        log.log(level, self._last_error, extra={"instances": len(verdict.suspects), **self._elsewhere})
        self._distrusts = 0
        self._hidden_until_s = now_s + HIDDEN_AGAIN_S

    def _distrust(self, now_s: float) -> None:
        """Our own registration is missing: nothing counts, and the registrar has to check, or to register again."""
        assert self._own is not None
        self._distrusts += 1
        self._doubt_again_at_s = now_s if self._doubt_again_at_s is None else self._doubt_again_at_s
        self._settle_until_s = now_s + self._settle_s
        self._up = False
        self._last_error = "the answer lacks our own registration and is not trusted: " + (
            "rows were left out that our ACL token may not see, it lacks node:read or service:read"
            if self._filtered
            else "the embedded catalog has started anew, or has lost it"
            if self._client.is_embedded
            else "is it lost, or does the ACL token lack node:read or service:read?"
        )
        # Once is ordinary: the agent's own list reaches the servers some milliseconds later.
        levels = _REPEAT_LEVELS_EMBEDDED if self._client.is_embedded else _REPEAT_LEVELS
        log.log(levels.get(self._distrusts, logging.DEBUG), self._last_error)
        if self._distrusts < _DISTRUSTS_OF_LOSS:
            self._own.verify()
        elif now_s >= self._repair_at_s:
            self._repairs += 1
            self._repair_at_s = now_s + REPAIR_AGAIN.step_s(self._repairs)
            self._own.repair()

    def _recovered(self, now_s: float) -> None:
        if self._down_since_s is None:
            return
        log.info("consul answers again", extra={"downtime_s": round(now_s - self._down_since_s, 3)})
        self._down_since_s, self._failures, self._failure = None, 0, None
        if self._own is not None:
            self._own.verify()  # A restarted agent may have lost our registration.

    def _failed(self, exc: Exception, now_s: float) -> float:
        """Note a failure and return the delay before the next try."""
        if self._down_since_s is None:
            self._down_since_s = now_s
        first_of_kind = type(exc) is not self._failure
        # Another kind of failure is news (an agent that is back but has no leader yet): steps start small again.
        self._failures = 1 if first_of_kind else self._failures + 1
        self._failure = type(exc)
        self._up, self._last_error = False, str(exc)
        # The old index hides what happened meanwhile for a whole wait: read once without it.
        self._index, self._confirm, self._distrusts = 0, False, 0
        level = logging.WARNING if first_of_kind else logging.DEBUG
        log.log(level, "consul gives no catalog", extra={"reason": str(exc), "attempt": self._failures})
        draw = random.random()  # noqa: S311 - jitter, no secret
        if isinstance(exc, AccessRefused):
            return blocking_query.ASK_AGAIN.last_s * draw
        unreachable = isinstance(exc, AgentUnreachable)
        backoff = blocking_query.backoff_of(unreachable=unreachable, outage_s=now_s - self._down_since_s)
        return backoff.jittered_s(self._failures, draw)

    async def _rest(self, delay_s: float) -> None:
        """Wait, but no longer than until a refused token is replaced."""
        if self._failure is not AccessRefused or not self._client.token_rotates:
            await asyncio.sleep(delay_s)
            return
        refused = self._client.token
        while delay_s > 0 and self._client.token == refused:
            await asyncio.sleep(min(delay_s, POLL_S))
            delay_s -= POLL_S


def _others(known: Catalog, own: Registrar | None) -> Catalog:
    """Without our entry of an earlier run, which we took back ourselves, or make anew: it says nothing of others."""
    if own is None:
        return known
    return Catalog(tuple(one for one in known.instances if one.key.service_id != own.service_id))
