"""What the servers of backends offer in the sessions of single callers, where that is not what they offer all.

Links note here which callers have sessions of their own with a server, and put here what they read there; the endpoints
look it up by the caller's affinity. The one rule: an offer is never guessed, it was read in that very session, and it
goes when the session, its caller or its backend has gone.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from agent.client.connect import McpClient
from agent.client.protocol import Request
from agent.client.server_info import ServerInfo
from agent.links.listing import OfferReader
from agent.model import AFFINITY_META_KEY, CLIENT_METHOD, ClientEvent, Json, Offer

# As many as an endpoint has sessions at once, by far; of more, the one that was used longest ago is forgotten.
CALLERS_MAX: Final = 10_000

# In the answer to `ClientEvent.LISTS`.
OWN_LISTS: Final = "ownLists"
# In the same: whether any caller has lists of its own at that node.
ANY_OWN_LISTS: Final = "anyOwnLists"

# Of a caller that has what all have; always this very object, which says at once that nothing has changed.
NO_OFFERS: Final[Mapping[str, Offer]] = MappingProxyType({})


@dataclass(slots=True)
class _Caller:
    """`unread`: the backends where the caller has a session, and whether it may offer something else since last read.

    `offers`: by backend, never changed in place.
    """

    unread: dict[str, bool] = field(default_factory=dict)
    offers: Mapping[str, Offer] = field(default_factory=lambda: NO_OFFERS)


class SessionOffers:
    """See the module. Sole writer: the event loop, through the methods."""

    def __init__(self) -> None:
        self._callers: OrderedDict[str, _Caller] = OrderedDict()

    def __repr__(self) -> str:
        own = sum(bool(caller.offers) for caller in self._callers.values())
        return f"<SessionOffers {len(self._callers)} callers, {own} with offers of their own>"

    def __bool__(self) -> bool:
        """Whether any caller has a session of its own anywhere."""
        return bool(self._callers)

    def of(self, affinity: str) -> Mapping[str, Offer]:
        """By backend key; empty where this caller has what all have. The very same object until it changes."""
        caller = self._callers.get(affinity)
        return NO_OFFERS if caller is None else caller.offers

    def has_session(self, backend_key: str, affinity: str) -> bool:
        """Whether the caller has a session of its own there."""
        caller = self._callers.get(affinity)
        return caller is not None and backend_key in caller.unread

    def unread(self, affinity: str) -> list[str]:
        """The backends whose lists have to be read for this caller before it is shown any."""
        caller = self._callers.get(affinity)
        return [] if caller is None else [key for key, is_unread in caller.unread.items() if is_unread]

    def opened(self, backend_key: str, affinity: str) -> None:
        """The caller has got a session of its own there."""
        caller = self._callers.setdefault(affinity, _Caller())
        caller.unread[backend_key] = True
        self._callers.move_to_end(affinity)
        if len(self._callers) > CALLERS_MAX:
            self._callers.popitem(last=False)

    def used(self, backend_key: str, affinity: str) -> None:
        """A call there has ended, or a change was announced: what the session offers may be something else now."""
        if (caller := self._callers.get(affinity)) is not None and backend_key in caller.unread:
            caller.unread[backend_key] = True

    def put(self, backend_key: str, affinity: str, offer: Offer | None) -> None:
        """Take what was read in a caller's session; None: it is what all have."""
        caller = self._callers.get(affinity)
        if caller is None or backend_key not in caller.unread:
            return
        caller.unread[backend_key] = False
        if caller.offers.get(backend_key) != offer:
            others = {key: known for key, known in caller.offers.items() if key != backend_key}
            caller.offers = MappingProxyType(others if offer is None else {**others, backend_key: offer})

    def closed(self, backend_key: str, affinity: str) -> None:
        """The caller's session there has ended, and what it offered with it."""
        self.put(backend_key, affinity, None)
        if (caller := self._callers.get(affinity)) is not None:
            caller.unread.pop(backend_key, None)
            if not caller.unread:
                del self._callers[affinity]

    def forget_caller(self, affinity: str) -> None:
        """The caller has gone."""
        self._callers.pop(affinity, None)

    def forget_backend(self, backend_key: str) -> None:
        """The backend was lost, and all sessions with it."""
        for affinity in [one for one, caller in self._callers.items() if backend_key in caller.unread]:
            self.closed(backend_key, affinity)


class SessionOffersOfBackend:
    """The same for the link of one backend."""

    __slots__ = ("_backend_key", "_offers")

    def __init__(self, offers: SessionOffers, backend_key: str) -> None:
        self._offers = offers
        self._backend_key = backend_key

    def __repr__(self) -> str:
        return f"<SessionOffersOfBackend {self._backend_key}>"

    def opened(self, affinity: str) -> None:
        """As `SessionOffers.opened`."""
        self._offers.opened(self._backend_key, affinity)

    def used(self, affinity: str) -> None:
        """As `SessionOffers.used`."""
        self._offers.used(self._backend_key, affinity)

    def put(self, affinity: str, offer: Offer | None) -> None:
        """As `SessionOffers.put`."""
        self._offers.put(self._backend_key, affinity, offer)

    def closed(self, affinity: str) -> None:
        """As `SessionOffers.closed`."""
        self._offers.closed(self._backend_key, affinity)


class _AsCaller:
    """A client whose lists are those of one caller's session."""

    def __init__(self, client: McpClient, affinity: str) -> None:
        self._client = client
        self._affinity = affinity
        self._meta: Json = {} if client.server_info.mesh is None else {AFFINITY_META_KEY: affinity}

    def __repr__(self) -> str:
        return f"{self._client!r} in a caller's session"

    @property
    def server_info(self) -> ServerInfo:
        """As `McpClient.server_info`."""
        return self._client.server_info

    async def request(self, request: Request) -> Json:
        """As `McpClient.request`."""
        params = request.params or {}
        if self._meta:
            params = {**params, "_meta": {**(params.get("_meta") or {}), **self._meta}}
        return await self._client.request(replace(request, params=params, affinity=self._affinity))


async def read_as(client: McpClient, affinity: str, *, timeout_s: float) -> Offer | None:
    """What a server offers in the session of that caller; None: what it offers all. Raises what the client raises.

    Another node says first whether any of its servers offers this caller something else: its lists may be long.
    """
    if client.server_info.mesh is not None:
        asked: Json = {"event": ClientEvent.LISTS.value, "_meta": {AFFINITY_META_KEY: affinity}}
        answer = await client.request(Request.within(CLIENT_METHOD, asked, timeout_s=timeout_s))
        if answer.get(OWN_LISTS) is not True:
            return None
    return await OfferReader(_AsCaller(client, affinity)).read(timeout_s=timeout_s)
