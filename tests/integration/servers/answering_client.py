"""The SDK's client with a user behind it who answers what servers ask: the same for all tests of questions."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any, Protocol

from mcp.client import Client

from agent.model import Era

FEATURES = ("elicitation", "sampling", "roots")


class Answering(Protocol):
    """Who answers; each method gets what the SDK's callback of that name does."""

    async def elicited(self, context: Any, params: Any, /) -> Any: ...

    async def sampled(self, context: Any, params: Any, /) -> Any: ...

    async def rooted(self, context: Any, /) -> Any: ...


@asynccontextmanager
async def answering_client(
    url: str, era: Era, human: Answering, features: Collection[str] = FEATURES
) -> AsyncIterator[Client]:
    """A connected client that declares these features."""
    callbacks = {
        "elicitation": ("elicitation_callback", human.elicited),
        "sampling": ("sampling_callback", human.sampled),
        "roots": ("list_roots_callback", human.rooted),
    }
    declared: dict[str, Any] = dict(callbacks[feature] for feature in features)
    async with Client(url, mode="legacy" if era is Era.LEGACY else "auto", **declared) as mcp:
        yield mcp
