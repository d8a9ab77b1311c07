"""Takes our entry out of the catalog, and says what is still there afterwards.

Run by the registration when the node stops. The one rule: only the catalog says whether we have left; the agent's 200
says what the agent itself will try, and an agent that is slow may have done it without an answer in time.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from discovery.backoff import Backoff
from discovery.consul.client import ConsulClient
from discovery.model import AccessRefused, AgentSlow, CatalogUnavailable

# Of the time for leaving: for the name of the Consul node that holds us, and for the answer to deregistering.
HOLDER_TIMEOUT_S = 0.5
DEREGISTER_TIMEOUT_S = 1.0
# How often it is checked whether leaving has arrived in the catalog: it takes the agent a few milliseconds.
_LOOK_AGAIN = Backoff(first_s=0.02, last_s=0.25)
# Without a token of its own the agent could neither deregister us nor report that our check has run out.
_REFUSED = (
    "Consul refuses our ACL token as we leave, so that our entry may stay, passing: "
    "it goes when this node leaves with a valid token, or by /v1/catalog/deregister"
)


class Leaving:
    """One attempt. `accepted`: the agent answered. `holders`: the Consul nodes under which the catalog lists us.

    `last_look`: is given the agent's checks before we deregister, which deletes ours.
    """

    def __init__(
        self,
        client: ConsulClient,
        service_name: str,
        service_id: str,
        check_id: str,
        *,
        last_look: Callable[[Mapping[str, Any]], Awaitable[None]],
    ) -> None:
        self._client, self._last_look = client, last_look
        self._service_name, self._service_id, self._check_id = service_name, service_id, check_id
        self._holder: str | None = None
        self.accepted = False
        self.holders: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Leaving {self._service_id} accepted={self.accepted} holders={self.holders}>"

    async def run(self) -> None:
        """Deregister, and read the catalog until our agent's entry is gone; the caller sets the limit.

        Raises:
            CatalogUnavailable: deregistering failed, or the catalog cannot be read.
        """
        self._holder = await self._held_by()
        try:
            async with asyncio.timeout(DEREGISTER_TIMEOUT_S):
                await self._client.deregister(self._service_id)
            self.accepted = True
        except (AgentSlow, TimeoutError):
            pass  # It may have been done.
        looks = 0
        while self._is_listed(await self._client.holders(self._service_name, self._service_id)):
            looks += 1
            await asyncio.sleep(_LOOK_AGAIN.step_s(looks))

    def _is_listed(self, holders: tuple[str, ...]) -> bool:
        """Whether the entry that the agent has to take back is still there; others under our ID are none of its."""
        self.holders = holders
        return bool(holders) if self._holder is None else self._holder in holders

    async def _held_by(self) -> str | None:
        """The name of our agent's Consul node, empty where the agent does not hold us; None if unknown."""
        try:
            async with asyncio.timeout(HOLDER_TIMEOUT_S):
                checks = await self._client.held_checks()
                if checks is None:
                    return None
                await self._last_look(checks)
        except (CatalogUnavailable, TimeoutError):
            return None
        return str((checks.get(self._check_id) or {}).get("Node") or "")

    def ghosts(self) -> str:
        """What an operator should know of entries that our agent does not hold."""
        return (
            f"deregistered, and the catalog lists us under another Consul node too ({', '.join(self.holders)}): "
            "was its agent renamed or removed, or are several agents behind one address? "
            "An entry that no agent holds goes by /v1/catalog/deregister alone"
        )

    def why_still_there(self, exc: Exception) -> tuple[int, str]:
        """Why the catalog may still list us, and how much that matters, as a log level; `exc` ended the attempt."""
        unread = "the agent took our deregistration; whether it arrived in the catalog cannot be read"
        if isinstance(exc, AccessRefused):
            return logging.WARNING, _REFUSED
        if isinstance(exc, CatalogUnavailable):
            if self.accepted:
                return logging.INFO, unread
            return logging.WARNING, "deregistering failed, the catalog will time us out"
        listed = f"the catalog still lists us (Consul node {', '.join(self.holders)})"
        if not self.accepted:
            later = listed if self.holders else "the catalog will time us out"
            return logging.WARNING, f"the agent has not answered our deregistration, and {later}"
        if self._holder is None and not self.holders:
            return logging.WARNING, unread
        return logging.WARNING, (
            f"the agent took our deregistration and {listed}: "
            "was our old ACL token deleted, or does the agent lack a token of its own (acl.tokens.agent)?"
        )
