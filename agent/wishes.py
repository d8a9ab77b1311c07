"""A wish to be told of something by its public name, and the ways to backends that can tell.

What is wished for is a resource, by its URI, or a task, by its ID. Kept by `agent.subscriptions`. The one rule: a wish
is settled when every way has agreed or refused, and is refused only when no way is left.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

from agent.core.route_table import RouteTable
from agent.errors import RpcError

if TYPE_CHECKING:
    from agent.subscriptions import Subscriber

INVALID_PARAMS: Final = -32602

Tables: TypeAlias = Callable[[], RouteTable]
# Whose table resolves it, whether gateways may be asked, and the public name.
WishKey: TypeAlias = tuple[Tables, bool, str]
# What subscribers are told.
News = TypeVar("News")


class Way(Generic[News]):
    """One backend's name that stands behind wishes.

    `agreed`: the backend follows it; `refusal`: it does not want to; `over`: nothing more can come of it. `owed`: who
    wants it may have missed something, and it is to be asked for.
    """

    def __init__(self, backend_key: str, name: str) -> None:
        self.backend_key = backend_key
        self.name = name
        self.agreed = False
        self.over = False
        self.owed = False
        self.refusal: RpcError | None = None
        self.wishes: dict[Wish[News], None] = {}

    def __repr__(self) -> str:
        return f"<Way {self.backend_key} {'agreed' if self.agreed else 'refused' if self.refusal else 'asked'}>"


class Wish(Generic[News]):
    """A public name of which somebody of one endpoint wants to be told.

    `settled`: every backend behind it has agreed or refused. `granted`: a subscriber was told that it is subscribed.
    """

    def __init__(self, key: WishKey) -> None:
        self.key = key
        self.tables, self.across_gateways, self.name = key
        self.subscribers: dict[Subscriber[News], None] = {}
        self.ways: dict[Way[News], None] = {}
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

    def refusal(self, nobody: RpcError) -> RpcError | None:
        """Why nobody will tell: no backend can be asked (`nobody`), or all have refused, in the first one's words."""
        if not self.ways:
            return nobody
        refusals = [way.refusal for way in self.ways if way.refusal is not None]
        return refusals[0] if len(refusals) == len(self.ways) else None
