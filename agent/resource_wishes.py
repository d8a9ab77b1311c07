"""A wish to be told of a public URI, the ways to backends that can tell, and which URI is below which.

Kept by `agent.resource_updates`. The one rule: a wish is settled when every way has agreed or refused, and is refused
only when no way is left.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, TypeAlias

from agent.core.route_table import RouteTable
from agent.errors import RpcError

if TYPE_CHECKING:
    from agent.resource_updates import Subscriber

INVALID_PARAMS: Final = -32602
URI_LEN_MAX: Final = 2_048
# An update of something deeper below what is followed is not recognised; each level costs a look.
PARENTS_MAX: Final = 32
# What may follow a URI when another one is below it.
_SEPARATORS: Final = "/?#"

Tables: TypeAlias = Callable[[], RouteTable]
# Whose table resolves it, whether gateways may be asked, and the public URI.
WishKey: TypeAlias = tuple[Tables, bool, str]


class Way:
    """One backend's URI that stands behind wishes. `agreed`: the backend follows it; `refusal`: it does not want to."""

    def __init__(self, backend_key: str, uri: str) -> None:
        self.backend_key = backend_key
        self.uri = uri
        self.agreed = False
        self.refusal: RpcError | None = None
        self.wishes: dict[Wish, None] = {}

    def __repr__(self) -> str:
        return f"<Way {self.backend_key} {'agreed' if self.agreed else 'refused' if self.refusal else 'asked'}>"


class Wish:
    """A public URI that somebody of one endpoint wants to be told of.

    `settled`: every backend behind it has agreed or refused. `granted`: a subscriber was told that it is subscribed.
    """

    def __init__(self, key: WishKey) -> None:
        self.key = key
        self.tables, self.across_gateways, self.uri = key
        self.subscribers: dict[Subscriber, None] = {}
        self.ways: dict[Way, None] = {}
        self.settled = asyncio.Event()
        self.granted = False

    def __repr__(self) -> str:
        return f"<Wish {list(self.ways)} of {len(self.subscribers)}>"

    def look(self) -> None:
        """A way has changed: wake who waits for the backends' word, or let them wait."""
        if all(way.agreed or way.refusal is not None for way in self.ways):
            self.settled.set()
        else:
            self.settled.clear()

    def refusal(self) -> RpcError | None:
        """Why nobody will tell: no backend can be asked, or all have refused, in the first one's words."""
        if not self.ways:
            return RpcError(
                INVALID_PARAMS, f"Unknown resource, or one without updates: {self.uri!r}", {"uri": self.uri}
            )
        refusals = [way.refusal for way in self.ways if way.refusal is not None]
        return refusals[0] if len(refusals) == len(self.ways) else None


def with_parents(uri: str) -> Iterator[str]:
    """The URI itself and those above it, with and without the separator in between."""
    yield uri
    places = [place for place, letter in enumerate(uri[:URI_LEN_MAX]) if letter in _SEPARATORS]
    for place in places[-PARENTS_MAX:]:
        if place + 1 < len(uri):
            yield uri[: place + 1]
        yield uri[:place]
