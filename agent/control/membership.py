"""Runs discovery for the node: which catalog, our registration in it, and every catalog it reports.

Started by the node; hands catalogs to the mesh. The one rule: an explicitly named Consul is the only one ever used;
without one, the node uses the embedded catalog and moves over when a Consul appears on this machine. A node that was in
a Consul before waits for it a while with the cached catalog, as the other nodes of its mesh do.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from agent.control.datacenters import OtherDatacenters
from agent.control.sources import Sources
from agent.errors import ConfigRefused
from agent.late import Late
from agent.state.catalog_cache import CatalogCache
from discovery.consul.advertise import advertised_address, route_ip_to
from discovery.consul.environment import ConsulSettings
from discovery.embedded.server import OPEN_TO_ALL, CatalogGuard, embedded_catalog
from discovery.model import (
    FORGETFUL,
    Catalog,
    CatalogSource,
    CatalogUnavailable,
    MaintenanceRecord,
    Registrar,
    RegistrarStatus,
    Registration,
    SettingsRefused,
    SourceStatus,
)

if TYPE_CHECKING:
    from discovery.consul.session import ConsulConnection

log = logging.getLogger(__name__)

# How often a node on the embedded catalog looks for a Consul on this machine. Less than a watch's `SETTLE_S` (5 s): the
# node that moves first still shows those that move last.
LOOK_FOR_CONSUL_EVERY_S: Final = 3.0
# A catalog that was in use and cannot be any more (its port was taken, its TLS file is gone) is tried again this often.
TRY_AGAIN_S: Final = 5.0
# Without an address nothing can be registered, and a look-up is cheap for the resolver of this machine.
ADDRESS_AGAIN_S: Final = 1.0

# A node that restarts while its Consul is away would be alone in the embedded catalog: the others keep Consul's last
# catalog. Longer than it takes to repair a Consul by a restart; short enough where Consul was given up for good.
WAIT_FOR_CONSUL_S: Final = 300.0


def _session_opener() -> "Callable[[ConsulSettings], AbstractAsyncContextManager[ConsulConnection]]":
    from discovery.consul.session import open_session  # noqa: PLC0415 - Consul's library brings requests along

    return open_session


_OPEN_SESSION: Final = Late(_session_opener)

RouteTo = Callable[[str], Awaitable[str | None]]


@dataclass(frozen=True, slots=True)
class MembershipPlan:
    """The settings of discovery. `mode`: auto, consul, embedded or off. `datacenters`: other ones, of Consul alone."""

    mode: str
    consul: ConsulSettings
    service_name: str
    embedded_port: int
    bind_host: str
    port: int
    advertise_address: str | None
    advertise_port: int | None
    embedded_guard: CatalogGuard = OPEN_TO_ALL
    datacenters: tuple[str, ...] = ()

    def origin(self, url: str) -> str:
        """What a datacentre's kept catalog is of: the Consul agent at `url`, and the service."""
        return f"{url} {self.service_name}"


@dataclass(frozen=True, slots=True)
class MembershipView:
    """Which catalog is used and why, and how far it can be trusted. `others`: the other sources of peers, by name."""

    mode: str = "off"
    reason: str = "discovery is off"
    url: str = ""
    source: SourceStatus = field(default_factory=SourceStatus)
    registrar: RegistrarStatus = field(default_factory=RegistrarStatus)
    others: Mapping[str, tuple[SourceStatus, int]] = field(default_factory=dict)


class _ConsulAppeared(Exception):
    """A Consul answers on this machine now."""


class _ConsulStaysAway(Exception):
    """The Consul that was waited for has not come."""


class Membership:
    """See the module. Sole writer of its view; `on_catalog` is called in the node's loop. `others`: datacentres.

    `cache` and `maintenance` are for Consul alone: the embedded catalog and all of its nodes end with this machine.
    """

    def __init__(
        self,
        plan: MembershipPlan,
        registration: Registration,
        on_catalog: Callable[[Catalog], None],
        cache: CatalogCache | None = None,
        *,
        maintenance: MaintenanceRecord = FORGETFUL,
        others: Sources | None = None,
        route_to: RouteTo = route_ip_to,
        wait_for_consul_s: float = WAIT_FOR_CONSUL_S,
    ) -> None:
        self._plan = plan
        self._wait_for_consul_s, self._may_wait, self._waits = wait_for_consul_s, True, False
        self._route_to = route_to
        self._registration = registration
        self._on_catalog = on_catalog
        self._others = others or Sources(on_catalog)
        self._cache, self._maintenance = cache, maintenance
        self._shown: Catalog | None = None
        self._abroad = OtherDatacenters((), self._others)
        self._mode, self._reason, self._url = "off", "discovery is off", ""
        self._source: CatalogSource | None = None
        self._registrar: Registrar | None = None

    def __repr__(self) -> str:
        return f"<Membership {self._mode} {self._reason}>"

    @property
    def view(self) -> MembershipView:
        """A frozen snapshot."""
        return MembershipView(
            self._mode,
            self._reason,
            self._url,
            self._source.status if self._source else SourceStatus(),
            self._registrar.status if self._registrar else RegistrarStatus(),
            self._others.statuses(),
        )

    def describe_ourselves(self, **meta: str) -> None:
        """Change entries of our Meta; registered again at once."""
        self._registration = replace(self._registration, meta={**self._registration.meta, **meta})
        if self._registrar is not None:
            self._registrar.change(self._registration)

    async def run(self) -> None:
        """Follow the catalog and keep us registered until cancelled; then deregister.

        Raises `ConfigRefused` when settings make it impossible from the start.
        """
        while self._plan.mode != "off":
            try:
                await self._use_one()
            except (ConfigRefused, SettingsRefused) as exc:
                if self._source is None:
                    raise ConfigRefused(str(exc)) from exc
                log.warning("discovery cannot go on and is tried again", extra={"reason": str(exc)})
                await asyncio.sleep(TRY_AGAIN_S)

    async def _use_one(self) -> None:
        if await self._use_consul():
            await self._follow(self._plan.consul, look_for_consul=False)
            return
        async with embedded_catalog(self._plan.embedded_port, guard=self._plan.embedded_guard) as settings:
            await self._follow(settings, look_for_consul=self._plan.mode == "auto")

    async def _use_consul(self) -> bool:
        """Decide which catalog, and say why."""
        plan = self._plan
        if plan.mode == "embedded":
            self._say("embedded", f"MESH_DISCOVERY=embedded: one machine only, port {plan.embedded_port}")
            return False
        if plan.consul.explicit:
            self._say("consul", "CONSUL_HTTP_ADDR names it")
            return True
        if plan.mode == "consul":
            self._say("consul", f"MESH_DISCOVERY=consul, and CONSUL_HTTP_ADDR is not set: {plan.consul.url}")
            return True
        async with (await _OPEN_SESSION.get())(plan.consul) as session:
            answers = await session.answers()
        if answers:
            self._say("consul", f"a Consul answers at {plan.consul.url}")
        elif self._may_wait and await self._was_in_consul():
            self._waits = True
            self._say("consul", f"a Consul answered at {plan.consul.url} before, and has a while to come back")
        else:
            self._say("embedded", f"no CONSUL_HTTP_ADDR, and no Consul at {plan.consul.url}: one machine only")
        # A Consul that was in use before is waited for once, at the start; later `_look_for_consul` finds it.
        self._may_wait = False
        return self._mode == "consul"

    async def _was_in_consul(self) -> bool:
        cache, plan = self._cache, self._plan
        return cache is not None and await cache.load(plan.consul.url, plan.service_name) is not None

    def _say(self, mode: str, reason: str) -> None:
        if (mode, reason) != (self._mode, self._reason):
            log.info("discovery chosen", extra={"mode": mode, "reason": reason})
        self._mode, self._reason = mode, reason

    async def _follow(self, settings: ConsulSettings, *, look_for_consul: bool) -> None:
        """Stay with one catalog; returns when another is to be used."""
        self._url = settings.url
        async with (await _OPEN_SESSION.get())(settings) as session:
            try:
                address = await own_address(self._plan, settings, self._route_to)
            except CatalogUnavailable as exc:
                log.warning("not registered before our own address is known", extra={"reason": str(exc)})
                address = None
            self._registration = replace(self._registration, address=address or "")
            record = self._maintenance if self._mode == "consul" else FORGETFUL
            self._registrar = session.registrar(self._registration, record)
            known = await self._known(settings.url)
            source_of = partial(session.source, self._plan.service_name, answers=self._others.answers)
            self._source = source_of(self._registrar, known=known)
            abroad = self._plan.datacenters if self._mode == "consul" else ()
            self._abroad = OtherDatacenters(abroad, self._others)
            cache = self._cache if self._mode == "consul" else None
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._keep_registered(self._registrar, settings, address), name="registration")
                    group.create_task(self._read(self._source, known, cache), name="catalog watch")
                    if cache is not None:
                        group.create_task(cache.keep(), name="catalog cache")
                    self._abroad.begin(group, source_of, self._plan.origin(settings.url))
                    if look_for_consul:
                        # Awaited here, not a child: see the session of a link on what Python before 3.13 leaves behind.
                        await self._look_for_consul()
                    if self._waits:
                        await self._wait_for_consul(self._source)
            except* _ConsulAppeared:
                log.info("a Consul appeared on this machine, moving over")
            except* _ConsulStaysAway:
                log.warning("the Consul of before stays away, going on without it", extra={"url": settings.url})
                if cache is not None:
                    await cache.forget()  # The next start need not wait for it.
            finally:
                await self._registrar.leave()
        self._abroad.forget()

    async def _known(self, url: str) -> Catalog | None:
        """The catalog to show until the new one answers, and to compare its first answers with.

        After a move it is the last one of the other source, for not all nodes move at once.
        """
        if self._shown is not None or self._cache is None or self._mode != "consul":
            return self._shown
        return await self._cache.load(url, self._plan.service_name)

    async def _read(self, source: CatalogSource, known: Catalog | None, cache: CatalogCache | None) -> None:
        # Closed in the task that used it; left to the collector, a generator warns.
        async with aclosing(source.watch()) as catalogs:
            async for catalog in catalogs:
                self._shown = catalog
                self._abroad.take_home(catalog)
                self._on_catalog(catalog)
                if cache is not None and catalog is not known:
                    cache.take(self._url, self._plan.service_name, catalog)

    async def _look_for_consul(self) -> None:
        async with (await _OPEN_SESSION.get())(self._plan.consul) as session:
            while not await session.answers():  # noqa: ASYNC110 - nothing here could set an event
                await asyncio.sleep(LOOK_FOR_CONSUL_EVERY_S)
        raise _ConsulAppeared

    async def _wait_for_consul(self, source: CatalogSource) -> None:
        log.warning("waiting for the Consul of before", extra={"url": self._url, "limit_s": self._wait_for_consul_s})
        self._waits = False
        with suppress(TimeoutError):
            async with asyncio.timeout(self._wait_for_consul_s):
                while not source.status.up:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(LOOK_FOR_CONSUL_EVERY_S)
        if not source.status.up:
            raise _ConsulStaysAway

    async def _keep_registered(self, registrar: Registrar, settings: ConsulSettings, address: str | None) -> None:
        if address is None:
            self._registration = replace(self._registration, address=await self._address_when_known(settings))
            registrar.change(self._registration)
        await registrar.keep()

    async def _address_when_known(self, settings: ConsulSettings) -> str:
        """Try until Consul's name resolves. A refusal is logged and may yet change: the node is in use."""
        warned = False
        while True:
            await asyncio.sleep(ADDRESS_AGAIN_S)
            try:
                return await own_address(self._plan, settings, self._route_to)
            except CatalogUnavailable as exc:
                log.debug("our own address is still unknown", extra={"reason": str(exc)})
            except ConfigRefused as exc:
                log.log(logging.DEBUG if warned else logging.WARNING, "not registered", extra={"reason": str(exc)})
                warned = True


async def own_address(plan: MembershipPlan, settings: ConsulSettings, route_to: RouteTo = route_ip_to) -> str:
    """The address to register ("" means the Consul node's own).

    Raises `ConfigRefused` with the fix, `CatalogUnavailable` when that depends on a name that does not resolve now.
    """
    host = urlsplit(settings.url).hostname
    try:
        return advertised_address(
            explicit=plan.advertise_address,
            bind_host=plan.bind_host,
            consul_url=settings.url,
            route_ip=await route_to(host) if host and not plan.advertise_address else None,
        )
    except SettingsRefused as exc:
        raise ConfigRefused(str(exc)) from exc
