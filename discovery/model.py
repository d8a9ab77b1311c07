"""Discovery's frozen shapes, its errors, and the protocols of a catalog source and a registrar.

Made by `discovery.consul` and by the wiring; read everywhere. The one rule: values are compared by content, so an
unchanged catalog equals its predecessor.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol


class DiscoveryError(Exception):
    """Base of everything that discovery raises."""


# How an embedded catalog begins a refusal; Consul's own are about ACLs.
EMBEDDED_REFUSES = "Permission denied by an embedded catalog: "


class SettingsRefused(DiscoveryError):
    """The settings cannot work as given; the message names the variable and the fix."""


class CatalogUnavailable(DiscoveryError):
    """No trustworthy answer: transport failure, 5xx, HTML, a `null` body, a missing index. Retry later."""


class AccessRefused(CatalogUnavailable):
    """The catalog answered 403; the message names the right that is missing. Retry slowly."""


class RegistrationLost(DiscoveryError):
    """The agent no longer knows our registration; register again at once."""


class AgentSlow(CatalogUnavailable):
    """No answer in time; the request may have been carried out all the same."""


class AgentUnreachable(CatalogUnavailable):
    """No connection at all: the Consul agent is stopped or restarting. Cheap to try again."""


class Health(StrEnum):
    """The worst of an instance's checks, as Consul aggregates them."""

    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True, order=True)
class InstanceKey:
    """What identifies an instance; a service ID alone is unique per Consul agent only."""

    datacenter: str
    node: str
    service_id: str


@dataclass(frozen=True, slots=True)
class Instance:
    """One registered instance. `address` is Service.Address, or Node.Address where that is empty.

    `weight`: how many calls it can take in comparison with others, at its present health (Consul, service weights).
    `maintenance`: the operator's reason, empty while it is in none; `health` is that of all other checks. `far`: in
    another datacentre, where calls go when those at home are gone or far slower. `trouble`:
    the name and the output of each check that is as bad as that, empty while it passes; another output is no change of
    content. `created_index`: Consul's index of the entry's making, None where it does not say.
    """

    key: InstanceKey
    address: str
    port: int
    health: Health = Health.PASSING
    meta: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    tags: tuple[str, ...] = ()
    weight: int = 1
    maintenance: str = ""
    far: bool = False
    trouble: str = field(default="", compare=False)
    created_index: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Catalog:
    """A whole snapshot of one service's instances, sorted by key."""

    instances: tuple[Instance, ...] = ()


@dataclass(frozen=True, slots=True)
class Registration:
    """Our entry in the catalog, as we register it. Times in seconds (Consul's floor for `deregister_after_s` is 60)."""

    service_id: str
    service_name: str
    port: int
    address: str = ""  # Empty: consumers use the Consul node's own address.
    meta: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    tags: tuple[str, ...] = ()
    weight: int = 1
    ttl_s: float = 15.0
    heartbeat_s: float = 5.0
    deregister_after_s: float = 600.0
    http_check_url: str | None = None


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """How far the catalog can be trusted now. Times are the event loop's monotonic seconds, None when never.

    `filtered`: Consul left rows out that our ACL token may not see. `backend`: what answered last, `streaming` for the
    agent's own cache; empty where it does not say. `confirmed_at_s`: the last good answer of a server, not of a cache.
    `lists_us`: whether our own entry is in the catalog, None while that is not known; only a server's answer denies it.
    """

    up: bool = False
    last_error: str = ""
    last_answer_at_s: float | None = None
    changes_total: int = 0
    holding_removals: bool = False
    filtered: bool = False
    backend: str = ""
    confirmed_at_s: float | None = None
    lists_us: bool | None = None


@dataclass(frozen=True, slots=True)
class RegistrarStatus:
    """Whether the agent knows us. `registrations_total` counts every registration that was really sent.

    `registered` is the agent's last answer: an outage leaves it, a lost or refused registration clears it.
    `presence_expected`: a watch must not trust an answer without us; true from the first registration on, until we
    leave or are refused. `holder`: the Consul node that we are registered under, empty where that is not known; an
    entry of ours under another one is left over. `rival`: where another process is that registers under our service ID
    with the same agent, empty where none does. `resumed`: the operator's reason of a maintenance that was registered
    again because our entry had gone, until it ends. `unkept`: why the operator's maintenance would not outlive us, or
    is not known from before; empty where neither is so.
    """

    registered: bool = False
    presence_expected: bool = False
    last_error: str = ""
    registrations_total: int = 0
    holder: str = ""
    rival: str = ""
    resumed: str = ""
    unkept: str = ""


def is_listed(source: SourceStatus, registrar: RegistrarStatus) -> bool:
    """Whether the catalog lists us, as far as it is known: our agent has us, and no server has denied it."""
    return registrar.registered and source.lists_us is not False


class MaintenanceRecord(Protocol):
    """Where the operator's maintenance of our entry is kept while there is no entry."""

    async def load(self) -> str | None:
        """The operator's reason; None where we were in no maintenance. Raises OSError: it cannot be read now."""
        ...

    async def save(self, reason: str | None) -> bool:
        """Keep a reason; None: the maintenance has ended. Returns whether it is kept; raises nothing."""
        ...

    @property
    def fault(self) -> str:
        """Why nothing is known of before, or the last word is not kept; empty where neither is so."""
        ...


class _Forgetful:
    """For an entry that ends with its process."""

    fault = ""

    async def load(self) -> str | None:
        return None

    async def save(self, _reason: str | None) -> bool:
        return True


FORGETFUL = _Forgetful()


class CatalogSource(Protocol):
    """Follows one service name."""

    def watch(self) -> AsyncGenerator[Catalog, None]:
        """Yield the catalog at once when it is first known and then after every change of content.

        Cancellation ends it. Catalog failures never do: they show in `status`, and the loop backs off (250 ms doubling
        to 30 s, full jitter).
        """
        ...

    @property
    def status(self) -> SourceStatus:
        """A frozen view of the present state."""
        ...


class Registrar(Protocol):
    """Keeps one registration true."""

    async def keep(self) -> None:
        """Register, send heartbeats, compare with the agent's own list, register again; until cancelled."""
        ...

    def change(self, registration: Registration) -> None:
        """Replace what is registered (same service ID); takes effect at once, from inside `keep`."""
        ...

    def verify(self) -> None:
        """Let `keep` check at once whether the catalog still knows us. A watch calls it when an answer lacks us."""
        ...

    def repair(self) -> None:
        """Let `keep` register again though the agent knows us. A watch calls it when the catalog goes on lacking us."""
        ...

    def maintained(self, reason: str) -> None:
        """Take the operator's reason that our own entry has in the catalog, empty without one. A watch calls it."""
        ...

    @property
    def service_id(self) -> str:
        """The service ID that is kept registered."""
        ...

    async def leave(self) -> None:
        """Deregister once, within 2 s; failure is logged, not raised. Call after `keep` was cancelled."""
        ...

    @property
    def status(self) -> RegistrarStatus:
        """A frozen view of the present state."""
        ...
