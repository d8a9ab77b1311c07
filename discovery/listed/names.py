"""A source over one name of DNS: SRV records, or addresses with a port; asked again when their TTL is over.

For headless Kubernetes services, names of Compose services, Nomad's and Consul's DNS. Made by the wiring; followed by
the mesh. The one rule: an error of DNS takes nothing away, and neither does one answer alone: what lacks more than
half, or the name itself, has to be said again.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from discovery import clock
from discovery.backoff import Backoff
from discovery.listed.shown import Shown
from discovery.listed.targets import host_and_port, instance_at
from discovery.model import Catalog, CatalogUnavailable, Instance, SourceStatus

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver
    from dns.resolver import Answer

log = logging.getLogger(__name__)

_ADDRESSES = (1, 28)  # A and AAAA, by RFC 1035 and RFC 3596.
TTL_MIN_S = 2.0  # Some servers say 0; a question every two seconds is a change seen as soon as anywhere else.
TTL_MAX_S = 60.0  # A peer that was added is found within a minute, whatever its zone says.
# A name without records is often that of a service that is about to start, and has no TTL of its own to go by.
NOTHING_AGAIN_S = 5.0
ANSWER_TIMEOUT_S = 5.0
ASK_AGAIN = Backoff(first_s=1.0, last_s=30.0)
# What lacks the name, or more than half, is believed when it is still so after this: a server that restarts, or a zone
# that is loaded anew, is empty for a moment.
CONFIRM_AFTER_S = 5.0
NO_NAME_AFTER_S = 30.0
RECORDS_MAX = 10_000
# Look-ups of the targets of SRV records at a time, where the answer does not bring their addresses along.
LOOKUPS_MAX = 20


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a name has now; `is_there`: that it exists. `ttl_s`: how long that may be believed."""

    instances: tuple[Instance, ...]
    ttl_s: float
    is_there: bool = True


class DnsSource:
    """A `CatalogSource` over one name: `_service._proto.domain` for SRV, else `host:port`. One consumer at a time.

    `servers`: `address` or `address:port` of the name servers; those of the system where there are none. `known`: the
    last catalog of an earlier run, shown until the name is looked up, and then what that is compared with.

    Raises:
        ValueError: the name is neither of them.
    """

    def __init__(self, name: str, servers: Sequence[str] = (), known: Catalog | None = None) -> None:
        self._is_srv = name.startswith("_")
        self._host, self._port = (name, 0) if self._is_srv else host_and_port(name)
        self._name = name
        self._servers = tuple(servers)
        self._resolver: Resolver | None = None
        self._shown = Shown(known)
        self._known_addresses: dict[str, str] = {}
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
                self._failures = 0
                self._shown.fault = "" if answer.is_there else f"{self._name}: there is no such name"
                self._shown.answered_at_s = now_s
                if (catalog := self._shown.take(Catalog(answer.instances), is_known=answer.is_there)) is not None:
                    yield catalog
            wait_s = answer.ttl_s if self._doubted_since_s is None else min(answer.ttl_s, CONFIRM_AFTER_S)
            await asyncio.sleep(wait_s)

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

    def _failed(self, reason: str) -> float:
        self._failures += 1
        if reason != self._shown.fault:
            log.warning("a name of DNS cannot be looked up, what it said stays", extra={"reason": reason})
        self._shown.fault = reason
        return ASK_AGAIN.step_s(self._failures) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter

    async def _ask(self) -> _Answer:
        """Raises CatalogUnavailable."""
        import dns.exception  # noqa: PLC0415 - few nodes need it, and it is slow to import
        import dns.resolver  # noqa: PLC0415 - as above

        found: list[Instance] = []
        ttl_s, is_there = TTL_MAX_S, False
        for kind in ["SRV"] if self._is_srv else ["A", "AAAA"]:
            try:
                answer = await self._resolved(self._host, kind)
            except dns.resolver.NXDOMAIN:
                continue
            except dns.resolver.NoAnswer:
                is_there = True
                continue
            except (dns.exception.DNSException, OSError) as exc:
                raise CatalogUnavailable(f"{self._name}: {' '.join(str(exc).split())[:200]}") from exc
            is_there, ttl_s = True, min(ttl_s, float(answer.rrset.ttl if answer.rrset else 0))
            records = list(answer)[:RECORDS_MAX]
            addresses = await self._addresses(answer, records) if self._is_srv and self._servers else {}
            found += [self._instance(record, addresses) for record in records]
            if found:
                break  # One node has one link: the addresses of the other kind are the same nodes'.
        ttl_s = ttl_s if found else min(ttl_s, NOTHING_AGAIN_S)
        instances = {one.key: one for one in found}
        return _Answer(tuple(instances[key] for key in sorted(instances)), max(TTL_MIN_S, ttl_s), is_there)

    async def _addresses(self, answer: "Answer", records: Iterable[Any]) -> dict[str, str]:
        """An address by target of SRV records, from the servers that were set: others may not know those names.

        So it is with Consul's DNS. What they do not know keeps its last address, or is a name.
        """
        import dns.exception  # noqa: PLC0415 - few nodes need it, and it is slow to import

        targets = {str(record.target) for record in records}
        rows = (rrset for rrset in answer.response.additional if rrset.rdtype in _ADDRESSES)
        found = {str(rrset.name): str(rrset[0].address) for rrset in sorted(rows, key=lambda one: -one.rdtype)}
        at_once = asyncio.Semaphore(LOOKUPS_MAX)

        async def look_up(target: str) -> None:
            for kind in ("A", "AAAA"):
                with suppress(dns.exception.DNSException, OSError):
                    async with at_once:
                        answered = await self._resolved(target, kind)
                    found[target] = str(answered[0].address)
                    return

        async with asyncio.TaskGroup() as group:
            for target in targets - found.keys():
                group.create_task(look_up(target), name=f"look up {target}")
        known = {**self._known_addresses, **found}
        self._known_addresses = {target: known[target] for target in targets & known.keys()}
        return self._known_addresses

    async def _resolved(self, name: str, kind: str) -> "Answer":
        """Over TCP from servers that were set, for Consul's leaves most records out of a datagram and does not say so.

        Raises exceptions of the library.
        """
        import dns.resolver  # noqa: PLC0415 - as above

        resolver = self._made_resolver()
        if self._servers:
            with suppress(dns.resolver.NoNameservers, dns.resolver.LifetimeTimeout):
                return await resolver.resolve(name, kind, lifetime=ANSWER_TIMEOUT_S, search=True, tcp=True)
        return await resolver.resolve(name, kind, lifetime=ANSWER_TIMEOUT_S, search=True)

    def _instance(self, record: Any, addresses: Mapping[str, str]) -> Instance:
        if not self._is_srv:
            return instance_at(self._name, record.address, self._port)
        target = str(record.target)
        one = instance_at(self._name, target, record.port, address=addresses.get(target, ""))
        if target in addresses or self._shown.catalog is None:
            return one
        # The last address, where this is the first look-up after a start.
        return next((before for before in self._shown.catalog.instances if before.key == one.key), one)

    def _made_resolver(self) -> "Resolver":
        if self._resolver is None:
            from dns.asyncresolver import Resolver  # noqa: PLC0415 - as above
            from dns.nameserver import Do53Nameserver  # noqa: PLC0415 - as above

            self._resolver = Resolver(configure=not self._servers)
            if self._servers:
                self._resolver.nameservers = [Do53Nameserver(*_address_and_port(server)) for server in self._servers]
        return self._resolver


def _end_if_cancelled() -> None:
    """The library waits with `asyncio.wait_for`, which before Python 3.12 loses a cancellation that meets an answer."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _address_and_port(server: str) -> tuple[str, int]:
    address, _, port = server.partition(":") if server.count(":") == 1 else (server, "", "53")
    return address, int(port)
