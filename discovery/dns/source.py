"""A source over one name of DNS: SRV records, or addresses with a port; asked again when their TTL is over.

For headless Kubernetes services, names of Compose services, Nomad's and Consul's DNS. Made by the wiring; followed by
the mesh. The one rule: an error of DNS takes nothing away, not even of the one kind of records that it is about, and
neither does one answer alone: what lacks more than half, or the name itself, has to be said again.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass

from discovery import clock
from discovery.backoff import Backoff
from discovery.dns.lookup import ADDRESS_KINDS, Found, Lookup, by_kind, has_route
from discovery.model import Catalog, CatalogUnavailable, Instance, SourceStatus
from discovery.shown import Shown
from discovery.targets import host_and_port

log = logging.getLogger(__name__)

# Some servers say 0 (Consul's own does), which would be a question after each answer.
TTL_MIN_S = 2.0
# As the caches of resolvers do it (RFC 8767, section 4): a longer TTL is a slip of the zone's.
TTL_MAX_S = 86_400.0
# A name without records is often that of a service that is about to start, and has no TTL of its own to go by.
NOTHING_AGAIN_S = 5.0
ASK_AGAIN = Backoff(first_s=1.0, last_s=30.0)
# What lacks the name, or more than half, is believed when it is still so after this: a server that restarts, or a zone
# that is loaded anew, is empty for a moment.
CONFIRM_AFTER_S = 5.0
NO_NAME_AFTER_S = 30.0


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a name has now; `is_there`: that it exists. `ttl_s`: how long that may be believed.

    `fault`: of one kind of records, whose last ones are among the instances; `remark`: of one that never had any.
    """

    instances: tuple[Instance, ...]
    ttl_s: float
    is_there: bool = True
    fault: str = ""
    remark: str = ""


class DnsSource:
    """A `CatalogSource` over one name: `_service._proto.domain` for SRV, else `host:port`. One consumer at a time.

    `servers`: `address` or `address:port` of the name servers; those of the system where there are none. `known`: the
    last catalog of an earlier run, shown until the name is looked up, and then what that is compared with. `reaches`:
    whether this machine has a route to an address.

    Raises:
        ValueError: the name is neither of them.
    """

    def __init__(
        self,
        name: str,
        servers: Sequence[str] = (),
        known: Catalog | None = None,
        *,
        reaches: Callable[[str], bool] = has_route,
    ) -> None:
        self._is_srv = name.startswith("_")
        host, port = (name, 0) if self._is_srv else host_and_port(name)
        self._name = name
        self._lookup = Lookup(name, host, port, servers)
        self._reaches = reaches
        self._shown = Shown(known)
        self._last = by_kind(known.instances if known is not None and not self._is_srv else ())
        self._doubted_since_s: float | None = None
        self._failures = 0

    def __repr__(self) -> str:
        return f"<DnsSource {self._name} fault={self._shown.fault!r}>"

    @property
    def status(self) -> SourceStatus:
        """A frozen view of the present state."""
        return self._shown.status(holding_removals=self._doubted_since_s is not None)

    async def watch(self) -> AsyncGenerator[Catalog, None]:
        """Yield the catalog when it is first known and after every change, until cancelled (`CatalogSource`)."""
        if self._shown.catalog is not None:
            yield self._shown.catalog
        while True:
            _end_if_cancelled()
            try:
                answer = await self._ask()
            except CatalogUnavailable as exc:
                await asyncio.sleep(self._failed(str(exc)))
                continue
            except Exception as exc:
                log.exception("a name of DNS could not be looked up, in an unforeseen way")
                await asyncio.sleep(self._failed(str(exc)))
                continue
            _end_if_cancelled()
            now_s = clock.now_s()
            if self._believed(answer, now_s):
                self._note(answer, now_s)
                if (catalog := self._shown.take(Catalog(answer.instances), is_known=answer.is_there)) is not None:
                    yield catalog
            wait_s = answer.ttl_s if self._doubted_since_s is None else min(answer.ttl_s, CONFIRM_AFTER_S)
            await asyncio.sleep(min(wait_s, self._again_s()) if answer.fault or answer.remark else wait_s)

    def _believed(self, answer: _Answer, now_s: float) -> bool:
        shown = self._shown.catalog or Catalog()
        before = frozenset(one.key for one in shown.instances)
        left = before & {one.key for one in answer.instances}
        if 2 * len(left) >= len(before) and (answer.is_there or not before):
            self._doubted_since_s = None
            return True
        if self._doubted_since_s is None:
            self._doubted_since_s = now_s
            log.warning("most records of a name are gone, which is to be confirmed", extra={"dns_name": self._name})
        is_over = now_s - self._doubted_since_s >= (CONFIRM_AFTER_S if answer.is_there else NO_NAME_AFTER_S)
        self._doubted_since_s = None if is_over else self._doubted_since_s
        return is_over

    def _note(self, answer: _Answer, now_s: float) -> None:
        """An answer that is believed."""
        fault = answer.fault or ("" if answer.is_there else f"{self._name}: there is no such name")
        if answer.fault:
            self._warn_of(fault)
        if not answer.fault and not answer.remark:
            self._failures = 0
        self._shown.fault, self._shown.remark, self._shown.answered_at_s = fault, answer.remark, now_s

    def _failed(self, reason: str) -> float:
        self._warn_of(reason)
        self._shown.fault = reason
        return self._again_s()

    def _warn_of(self, reason: str) -> None:
        if reason != self._shown.fault:
            log.warning("a name of DNS cannot be looked up, what it said stays", extra={"reason": reason})

    def _again_s(self) -> float:
        self._failures += 1
        return ASK_AGAIN.step_s(self._failures) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter

    async def _ask(self) -> _Answer:
        """Raises CatalogUnavailable: nothing was learned."""
        if self._is_srv:
            found = await self._lookup.services((self._shown.catalog or Catalog()).instances)
            if found.fault:
                raise CatalogUnavailable(f"{self._name}: {found.fault}")
            return _Answer(found.instances, _kept_s([found]), found.is_there)
        async with asyncio.TaskGroup() as group:
            tasks = {
                kind: group.create_task(self._lookup.addresses(kind), name=f"look up {kind} of {self._name}")
                for kind in ADDRESS_KINDS
            }
        both = {kind: task.result() for kind, task in tasks.items()}
        # A look at the table of routes for each of a thousand addresses takes 20 ms.
        return await asyncio.to_thread(self._joined, both)

    def _joined(self, found: Mapping[str, Found]) -> _Answer:
        """Both kinds of addresses. They may be of the same nodes or of others, which shows when they are dialled.

        Raises CatalogUnavailable: nothing was learned of either.
        """
        faults = [f"{self._name}, {kind} records: {one.fault}" for kind, one in found.items() if one.fault]
        if len(faults) == len(found):
            raise CatalogUnavailable("; ".join(faults))
        last = self._last
        self._last = {kind: last[kind] if one.fault else one.instances for kind, one in found.items()}
        kept = any(self._last[kind] for kind, one in found.items() if one.fault)
        said = [one for one in found.values() if not one.fault]
        # A server that never has an answer for one kind (some have none for AAAA) costs nothing, if the other is there.
        is_idle = not kept and any(one.instances for one in said)
        instances = self._with_a_route()
        return _Answer(
            tuple(sorted(instances, key=lambda one: one.key)),
            _kept_s(said),
            kept or any(one.is_there for one in said),
            fault="" if is_idle else "; ".join(faults),
            remark="; ".join(faults) if is_idle else "",
        )

    def _with_a_route(self) -> list[Instance]:
        """The addresses of both kinds; those without a route to them are left out, if others have one.

        So a machine without IPv6 shows no second, dead peer for each node that has both (RFC 6724, rule 1).
        """
        one, other = self._last.values()
        instances = [*one, *other]
        if not one or not other:
            return instances
        return [found for found in instances if self._reaches(found.address)] or instances


def _kept_s(found: Sequence[Found]) -> float:
    """How long answers may be believed: their least TTL, and not long where there is nothing."""
    ttls_s = [one.ttl_s for one in found if one.ttl_s is not None]
    return max(TTL_MIN_S, min([TTL_MAX_S if ttls_s else NOTHING_AGAIN_S, *ttls_s]))


def _end_if_cancelled() -> None:
    """The library waits with `asyncio.wait_for`, which before Python 3.12 loses a cancellation that meets an answer."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
