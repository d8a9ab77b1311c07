"""Delays requests that are refused for their token, a bounded number at a time, and says which are worth a warning.

Used by `agent.rest.security`. The one rule: a valid token never passes here.
"""

import asyncio
from collections import Counter, OrderedDict
from typing import Final

# A wrong token is answered late, which costs a guesser time and us one timer; with 256 bits a token is safe anyway.
FAILURE_DELAY_S: Final = 0.25
FAILURES_WAITING_PER_CLIENT_MAX: Final = 8
FAILURES_WAITING_MAX: Final = 256
WARN_AGAIN_AFTER_S: Final = 60.0


class FailureBrake:
    """Delays refused requests, a bounded number at a time; valid ones never pass through it."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._waiting: Counter[str] = Counter()
        self._warned_at_s: OrderedDict[str, float] = OrderedDict()

    def __repr__(self) -> str:
        return f"<FailureBrake waiting={self._waiting.total()} clients={len(self._waiting)}>"

    async def hold(self, client: str) -> bool:
        """Wait the delay; False at once where the client, or all together, have too many waiting already."""
        if self._waiting[client] >= FAILURES_WAITING_PER_CLIENT_MAX or self._waiting.total() >= FAILURES_WAITING_MAX:
            return False
        self._waiting[client] += 1
        try:
            await asyncio.sleep(self._delay_s)
        finally:
            self._waiting[client] -= 1
            if not self._waiting[client]:
                del self._waiting[client]
        return True

    def is_news(self, client: str, now_s: float) -> bool:
        """Whether this client's failure is worth a warning: the first one, then one a minute."""
        last_s = self._warned_at_s.get(client)
        if last_s is not None and now_s - last_s < WARN_AGAIN_AFTER_S:
            return False
        self._warned_at_s[client] = now_s
        self._warned_at_s.move_to_end(client)
        if len(self._warned_at_s) > FAILURES_WAITING_MAX:
            self._warned_at_s.popitem(last=False)
        return True
