"""The two protocols that `agent` sees of discovery. Implemented by `consul_watch` and `consul_registration`.

The one rule: a source yields whole catalogs and never raises because the catalog is away; it keeps the last good one
and says so in its status.
"""

from collections.abc import AsyncGenerator
from typing import Protocol

from discovery.model import Catalog, RegistrarStatus, Registration, SourceStatus


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
        """Ask `keep` to look at once whether the catalog still knows us. A watch calls it when an answer lacks us."""
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
