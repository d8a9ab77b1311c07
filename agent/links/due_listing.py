"""Whether a server's lists are to be read again: a change counts always, the catalog's word if it names another offer.

Used by `agent.links.offer_keeper`. The one rule: what was wanted before a listing began is answered by it.
"""

from collections.abc import Callable

from agent.client.event import Event
from agent.model import Offer
from agent.routing.digest import exported_digest


class Relisting(Event):
    """Set while a listing is wanted; `on_wanted` is called when it becomes so."""

    __slots__ = ("_certain", "_offer", "_sighting", "on_wanted")

    def __init__(self, on_wanted: Callable[[], None]) -> None:
        super().__init__()
        self.on_wanted = on_wanted
        self._certain = False
        self._offer = Offer()
        self._sighting = ""

    def set(self) -> None:
        """Want a listing, whatever is known."""
        self._certain = True
        super().set()
        self.on_wanted()

    def clear(self) -> None:
        """Forget that a listing was wanted."""
        self._certain = False
        super().clear()

    def sighted(self, sighting: str) -> None:
        """Want one unless `sighting`, the words of the catalog, has the digest of what is known by then."""
        self._sighting = sighting
        super().set()
        self.on_wanted()

    def taken(self, offer: Offer) -> None:
        """The offer was read."""
        self._offer = offer

    def is_due(self) -> bool:
        """Whether a listing is wanted, which is asked for anew from now on."""
        if not self.is_set():
            return False
        certain = self._certain
        self.clear()
        return certain or exported_digest(self._offer) not in self._sighting.split()
