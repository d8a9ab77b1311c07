"""One open connection to a Consul agent (a real one, or the embedded catalog, which speaks the same API).

Opened by the wiring of `agent`, which alone knows whether it is Consul or the embedded catalog. The one rule: sources
and registrars of a connection work only while it is open.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial

from discovery.consul.client import ConsulClient, open_client
from discovery.consul.connect import LeafSource
from discovery.consul.environment import WAIT_S, ConsulSettings
from discovery.consul.registration import ConsulRegistrar
from discovery.consul.watch import ConsulWatch
from discovery.model import (
    FORGETFUL,
    Catalog,
    CatalogSource,
    CatalogUnavailable,
    Instance,
    MaintenanceRecord,
    Registrar,
    Registration,
)


class ConsulConnection:
    """Makes sources and registrars that share one connection pool."""

    def __init__(self, client: ConsulClient, wait_s: float = WAIT_S) -> None:
        self._client = client
        self._wait_s = wait_s

    def source(
        self,
        service_name: str,
        own: Registrar | None = None,
        *,
        known: Catalog | None = None,
        dc: str = "",
        answers: Callable[[Instance], bool] = lambda _one: False,
    ) -> CatalogSource:
        """Follow a service name.

        Args:
            service_name: Consul's service name.
            own: our registrar under the same name; an answer without our registration is not trusted.
            known: the last catalog of an earlier run, shown until Consul answers.
            dc: another datacentre, joined to the agent's own over the WAN.
            answers: whether a link to an instance is up; it then stays while access control may be hiding it.
        """
        watch = partial(ConsulWatch, self._client, service_name, wait_s=self._wait_s)
        return watch(own=own, known=known, dc=dc, answers=answers)

    def registrar(self, registration: Registration, maintenance: MaintenanceRecord = FORGETFUL) -> Registrar:
        """Keep a registration true, once its `keep` runs; `maintenance`: where the operator's outlives this process."""
        return ConsulRegistrar(self._client, registration, maintenance=maintenance)

    def leaf(self, service_name: str) -> LeafSource:
        """Certificates of Consul's own CA for a service."""
        return LeafSource(self._client, service_name)

    async def answers(self, timeout_s: float = 1.0) -> bool:
        """Whether a Consul with a leader is there; False on any failure, within `timeout_s` seconds."""
        try:
            return bool(await self._client.leader(timeout_s))
        except CatalogUnavailable:
            return False


@asynccontextmanager
async def open_session(settings: ConsulSettings) -> AsyncGenerator[ConsulConnection, None]:
    """Open a connection; nothing is sent yet.

    Raises:
        SettingsRefused: the settings cannot work, for example a TLS file is missing.
    """
    async with open_client(settings) as client:
        yield ConsulConnection(client, settings.wait_s)
