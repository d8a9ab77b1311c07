"""Whether the offer of an open door has to be read again, and who says so.

Used by a link's session. List changes, lost streams and failed listings are always reason to read it; the catalog's
word is one only while it names another digest than that of the offer which was read last. The one rule: that is judged
when a listing would begin, for a node tells its links of a change before the catalog does.
"""

from agent.core.digest import exported_digest
from agent.links.flag import Flag
from agent.model import Offer


class Relisting(Flag):
    """Raised while somebody wants a listing."""

    __slots__ = ("_certain", "_offer", "_sighting")

    def __init__(self) -> None:
        super().__init__()
        self._certain = False
        self._offer = Offer()
        self._sighting = ""

    def set(self) -> None:
        """Want a listing, whatever is known."""
        self._certain = True
        super().set()

    def clear(self) -> None:
        """Forget who wanted one."""
        self._certain = False
        super().clear()

    def sighted(self, sighting: str) -> None:
        """Want one unless `sighting`, the words of the catalog, has the digest of what is known by then."""
        self._sighting = sighting
        super().set()

    def taken(self, offer: Offer) -> None:
        """The offer was read."""
        self._offer = offer

    async def due(self) -> None:
        """Return when a listing is wanted, which is asked for anew from now on."""
        while True:
            await self.wait()
            certain = self._certain
            self.clear()
            if certain or exported_digest(self._offer) not in self._sighting.split():
                return
