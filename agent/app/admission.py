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
from ipaddress import ip_address
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
        if held >= self.total or (held >= self.total - self.reserved and not is_known):
            return "total"
        return "address" if of_address >= self.each and not is_known else ""


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
        self._by_address: Counter[str] = Counter()
        self._nodes: frozenset[str] = frozenset()
        self._counted_s = -COUNT_EVERY_S
        self._said_s = -SAID_EVERY_S
        self._unsaid = 0

    def __repr__(self) -> str:
        return f"<Admission {len(self._held)} of {self.caps.total}>"

    def admits(self, address: str) -> bool:
        """Whether one more connection, from this address, is let in."""
        held = len(self._held)
        if held < self.caps.each:
            return True  # Nor can any address have more.
        of_address = self._count(address)
        reason = self.caps.refusal(held, of_address, is_known=address in self._nodes or _is_loopback(address))
        if not reason:
            self._by_address[address] += 1
            return True
        self._refused(reason)
        self._say(address, reason)
        return False

    def _count(self, address: str) -> int:
        now_s = clock.now_s()
        if self._counted_s + COUNT_EVERY_S <= now_s:
            self._by_address, self._counted_s = Counter(self._held.addresses()), now_s
            self._nodes = frozenset(self._known())
        return self._by_address[address]

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


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
