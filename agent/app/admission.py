"""Which connections are let in: so many in all and of one address, with a reserve for other nodes and for probes.

Used by `agent.app.first_bytes` for each connection that the kernel has accepted. The one rule: connections never take
the descriptors that the node itself needs, and no single address takes those of all others.
"""

import asyncio
import errno
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, Final, Protocol

from agent import clock

log = logging.getLogger(__name__)

# Of the descriptors of the process: for children, links, files and Consul. A quarter, at least this many.
OWN_DESCRIPTORS_MIN: Final = 64
# More clients than that are a case for more nodes: each costs memory, and one loop serves all.
CONNECTIONS_MAX: Final = 20_000
# How old the count by address may be.
COUNT_EVERY_S: Final = 1.0
# What repeats itself is said so often.
SAID_EVERY_S: Final = 60.0

_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(frozen=True, slots=True)
class Caps:
    """How many connections there may be: in `total`, of `each` address; the last `reserved` are not for strangers."""

    total: int
    each: int
    reserved: int

    def refusal(self, held: int, of_address: int, *, is_known: bool) -> str:
        """Why one more is refused, a word for the metric; empty where it is let in."""
        if held >= self.total:
            return "total"
        if is_known:
            return ""
        if of_address >= self.each:
            return "address"
        return "total" if held >= self.total - self.reserved else ""


def caps_of(descriptors: int) -> Caps:
    """The caps of a process that may have so many descriptors."""
    total = max(8, min(CONNECTIONS_MAX, descriptors - max(OWN_DESCRIPTORS_MIN, descriptors // 4)))
    return Caps(total, each=max(1, total * 3 // 4), reserved=max(1, total // 16))


class Connections(Protocol):
    """The connections that are let in already."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def addresses(self) -> Iterable[str]:
        """The address of each."""
        ...


class Admission:
    """See the module. `known`: the addresses of other nodes; `refused` counts, by reason."""

    def __init__(
        self,
        caps: Caps,
        held: Connections,
        known: Callable[[], Iterable[str]] = tuple,
        refused: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        self.caps = caps
        self._held = held
        self._known = known
        self._refused = refused
        self._by_place: Counter[str] = Counter()
        self._nodes: frozenset[str] = frozenset()
        self._counted_s = -COUNT_EVERY_S
        self._said_s = -SAID_EVERY_S
        self._unsaid = 0

    def __repr__(self) -> str:
        return f"<Admission {len(self._held)} of {self.caps.total}>"

    def admits(self, address: str) -> bool:
        """Whether one more connection, from this address, is let in."""
        return not self.refusal(address)

    def refusal(self, address: str) -> str:
        """Why one more connection from this address is not let in, a word for the metric; empty where it is."""
        held = len(self._held)
        if held < self.caps.each:
            return ""  # Nor can any address have more.
        of_place, exact = self._count(place_of(address)), exact_of(address)
        reason = self.caps.refusal(held, of_place, is_known=exact in self._nodes or _is_loopback(exact))
        if reason:
            self._refused(reason)
            self._say(address, reason)
        else:
            self._by_place[place_of(address)] += 1
        return reason

    def _count(self, place: str) -> int:
        now_s = clock.now_s()
        if self._counted_s + COUNT_EVERY_S <= now_s:
            self._by_place, self._counted_s = Counter(map(place_of, self._held.addresses())), now_s
            self._nodes = frozenset(map(exact_of, self._known()))
        return self._by_place[place]

    def _say(self, address: str, reason: str) -> None:
        self._unsaid += 1
        now_s = clock.now_s()
        if self._said_s + SAID_EVERY_S <= now_s:
            extra = {"address": address, "reason": reason, "refused": self._unsaid, "held": len(self._held)}
            log.warning("connections refused: there are too many", extra={**extra, "limit": self.caps.total})
            self._said_s, self._unsaid = now_s, 0


class RareErrors:
    """An event loop's exception handler: that the system has no more descriptors is said once in `SAID_EVERY_S`."""

    def __init__(self) -> None:
        self._said_s = -SAID_EVERY_S

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """As `loop.set_exception_handler` wants."""
        failure = context.get("exception")
        if not (isinstance(failure, OSError) and failure.errno in _OUT_OF_RESOURCES and "socket" in context):
            loop.default_exception_handler(context)
            return
        now_s = clock.now_s()
        if self._said_s + SAID_EVERY_S <= now_s:
            self._said_s = now_s
            log.error("no connection can be accepted", extra={"reason": failure.strerror})


@lru_cache(maxsize=4_096)
def exact_of(address: str) -> str:
    """The address in one form: IPv4 as such also where the socket is of IPv6, and without a zone."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return str(getattr(found, "ipv4_mapped", None) or found)


@lru_cache(maxsize=4_096)
def place_of(address: str) -> str:
    """What counts as one address: of IPv6 a network of 64 bits, all of whose addresses a host may have."""
    exact = exact_of(address)
    try:
        found = ip_address(exact)
    except ValueError:
        return exact
    return str(ip_network((found, 64), strict=False)) if isinstance(found, IPv6Address) else exact


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
