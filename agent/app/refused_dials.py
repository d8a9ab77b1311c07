"""Records in the audit which nodes and servers a link refused to use: a forbidden address, an unproven identity.

Wraps the dial of the wiring's links, once for all of them. The one rule: a refusal that repeats with every attempt is
one record.
"""

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

from agent.errors import DialRefused, IdentityRefused
from agent.links.dial import Dial, OpenClient
from agent.model import BackendSpec, NodeIdentity

# Links whose last refusal is remembered; with one more all are forgotten, and recorded once again.
REMEMBERED_MAX: Final = 2_048
# Writes a record of the audit: the act, who did it, and fields (`agent.audit.trail`).
Note = Callable[..., None]


def audited(dial: Dial, note: Note) -> Dial:
    """The same dial, whose refusals `note` records."""
    known: dict[str, str] = {}

    async def dialled(stack: AsyncExitStack, spec: BackendSpec, own: NodeIdentity) -> OpenClient:
        try:
            client = await dial(stack, spec, own)
        except (DialRefused, IdentityRefused) as exc:
            if known.get(spec.key) != str(exc):
                if len(known) >= REMEMBERED_MAX:
                    known.clear()
                known[spec.key] = str(exc)
                note("dial.refused", "node", backend=spec.key, kind=type(exc).__name__, why=str(exc))
            raise
        known.pop(spec.key, None)
        return client

    return dialled
