"""What a name server says of one kind of records of a name, as instances; which name servers are asked, and how.

Called by `discovery.dns.source`. The one rule: what the name does not have and what could not be learned are never the
same answer.
"""

import asyncio
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from discovery.model import Instance
from discovery.targets import instance_at

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver
    from dns.resolver import Answer

ANSWER_TIMEOUT_S = 5.0
RECORDS_MAX = 10_000
# Look-ups of the targets of SRV records at a time, where the answer does not bring their addresses along.
LOOKUPS_MAX = 20
# Docker's own resolver, in each container of a network of Compose. It says 600 s of all names, knows each container at
# once, and is on this machine: that TTL would hide a new replica for ten minutes, and a question costs it nothing.
DOCKER_RESOLVER = "127.0.0.11"
DOCKER_TTL_S = 10.0
# Kinds of addresses, and their numbers by RFC 1035 and RFC 3596.
ADDRESS_KINDS = ("A", "AAAA")
_ADDRESSES = (1, 28)
_FAULT_CHARS_MAX = 200


@dataclass(frozen=True, slots=True)
class Found:
    """What one kind of records says. `ttl_s`: how long that may be believed, None without records.

    `is_there`: the name exists, with or without such records. `fault`: why nothing was learned, or empty.
    """

    instances: tuple[Instance, ...] = ()
    ttl_s: float | None = None
    is_there: bool = False
    fault: str = ""


class Lookup:
    """Asks for one name. `servers`: `address` or `address:port`; those of the system where there are none."""

    def __init__(self, name: str, host: str, port: int, servers: Sequence[str] = ()) -> None:
        self._name, self._host, self._port = name, host, port
        self._servers = tuple(servers)
        self._resolver: Resolver | None = None
        self._known_addresses: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<Lookup {self._name} servers={self._servers}>"

    async def addresses(self, kind: str) -> Found:
        """The instances at the name's addresses of a kind, A or AAAA, with its port."""
        answer = await self._records(kind)
        if isinstance(answer, Found):
            return answer
        found = [instance_at(self._name, record.address, self._port) for record in list(answer)[:RECORDS_MAX]]
        return Found(_sorted(found), _ttl_of(answer), is_there=True)

    async def services(self, shown: Iterable[Instance]) -> Found:
        """The instances of the name's SRV records. `shown`: those of before, whose addresses serve for lost ones."""
        answer = await self._records("SRV")
        if isinstance(answer, Found):
            return answer
        # A target of "." says that there is decidedly no such service (RFC 2782).
        records = [one for one in list(answer)[:RECORDS_MAX] if str(one.target) != "."]
        ttl_s = _ttl_of(answer)
        addresses: dict[str, str] = {}
        if self._servers:
            addresses, address_ttl_s = await self._addresses(answer, records)
            ttl_s = min(ttl_s, address_ttl_s)
        before = {one.key: one for one in shown}
        found = []
        for record in records:
            target = str(record.target)
            one = instance_at(self._name, target, record.port, address=addresses.get(target, ""))
            # The last address, where this is the first look-up after a start.
            found.append(one if target in addresses else before.get(one.key, one))
        return Found(_sorted(found), ttl_s, is_there=True)

    async def _records(self, kind: str) -> "Answer | Found":
        import dns.exception  # noqa: PLC0415 - few nodes need it, and it is slow to import
        import dns.resolver  # noqa: PLC0415 - as above

        try:
            return await self._resolved(self._host, kind)
        except dns.resolver.NXDOMAIN:
            return Found()
        except dns.resolver.NoAnswer:
            return Found(is_there=True)
        except (dns.exception.DNSException, OSError) as exc:
            return Found(fault=" ".join(str(exc).split())[:_FAULT_CHARS_MAX] or type(exc).__name__)

    async def _addresses(self, answer: "Answer", records: Iterable[Any]) -> tuple[dict[str, str], float]:
        """An address by target of SRV records, from the servers that were set: others may not know those names.

        So it is with Consul's DNS. What they do not know keeps its last address, or is a name. And how long they hold.
        """
        import dns.exception  # noqa: PLC0415 - few nodes need it, and it is slow to import
        import dns.resolver  # noqa: PLC0415 - as above

        targets = {str(record.target) for record in records}
        rows = [
            rrset for rrset in answer.response.additional if rrset.rdtype in _ADDRESSES and str(rrset.name) in targets
        ]
        found = {str(rrset.name): str(rrset[0].address) for rrset in sorted(rows, key=lambda one: -one.rdtype)}
        ttls_s = [float(rrset.ttl) for rrset in rows]
        at_once = asyncio.Semaphore(LOOKUPS_MAX)

        async def look_up(target: str) -> None:
            for kind in ADDRESS_KINDS:
                try:
                    async with at_once:
                        answered = await self._resolved(target, kind)
                except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
                    continue
                except (dns.exception.DNSException, OSError):
                    if target in self._known_addresses:
                        return  # Which is better than one of the other kind, for the time of an error.
                    continue
                found[target] = str(answered[0].address)
                ttls_s.append(_ttl_of(answered))
                return

        async with asyncio.TaskGroup() as group:
            for target in targets - found.keys():
                group.create_task(look_up(target), name=f"look up {target}")
        known = {**self._known_addresses, **found}
        self._known_addresses = {target: known[target] for target in targets & known.keys()}
        return self._known_addresses, min(ttls_s, default=float("inf"))

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

    def _made_resolver(self) -> "Resolver":
        if self._resolver is None:
            from dns.asyncresolver import Resolver  # noqa: PLC0415 - as above
            from dns.nameserver import Do53Nameserver  # noqa: PLC0415 - as above

            self._resolver = Resolver(configure=not self._servers)
            if self._servers:
                self._resolver.nameservers = [Do53Nameserver(*_address_and_port(server)) for server in self._servers]
        return self._resolver


def has_route(address: str) -> bool:
    """Whether this machine has a way to an address, by its table of routes; nothing is sent."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
    except OSError:
        return False
    return True


def by_kind(instances: Iterable[Instance]) -> Mapping[str, tuple[Instance, ...]]:
    """Instances of a name's addresses, by the kind of the record that each came from."""
    kinds: dict[str, list[Instance]] = {kind: [] for kind in ADDRESS_KINDS}
    for one in instances:
        kinds["AAAA" if ":" in one.address else "A"].append(one)
    return {kind: tuple(found) for kind, found in kinds.items()}


def _sorted(found: Iterable[Instance]) -> tuple[Instance, ...]:
    instances = {one.key: one for one in found}
    return tuple(instances[key] for key in sorted(instances))


def _ttl_of(answer: "Answer") -> float:
    ttl_s = float(answer.rrset.ttl if answer.rrset else 0)
    return min(ttl_s, DOCKER_TTL_S) if answer.nameserver == DOCKER_RESOLVER else ttl_s


def _address_and_port(server: str) -> tuple[str, int]:
    address, _, port = server.partition(":") if server.count(":") == 1 else (server, "", "53")
    return address, int(port)
