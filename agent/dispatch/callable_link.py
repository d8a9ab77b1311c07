"""What dispatch, and what tells servers of clients, needs of a link.

Met by `agent.links.link` and, in a worker, by `agent.workers.links`. The one rule: nothing else of a link is used.
"""

from typing import Protocol

from agent.client.protocol import Request, ResultTaker
from agent.model import BackendSpec, Json, LinkView


class CallableLink(Protocol):
    """What dispatch needs of a link."""

    @property
    def spec(self) -> BackendSpec:
        """What the link is configured to be."""
        ...

    @property
    def view(self) -> LinkView:
        """Its present state."""
        ...

    @property
    def heard_at_s(self) -> float:
        """When it had the last answer to a probe, in loop time."""
        ...

    def called(self) -> None:
        """A call waits for it: it dials now, if it waits to dial."""
        ...

    async def request(self, request: Request) -> Json:
        """Send over the open client. Raises what `McpClient.request` raises, `CallNotSent` when no client is open."""
        ...

    def start(self, request: Request, taker: ResultTaker) -> bool:
        """Send over the open client without waiting, as `StartsRequests.start_request`."""
        ...

    async def read_as_caller(self, affinity: str) -> None:
        """Read what is offered in the session of one caller, where it has one. Never raises `MeshError`."""
        ...
