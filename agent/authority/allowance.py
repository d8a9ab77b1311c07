"""How many calls a token may make: a bucket for so many a second, and a count of those under way.

One for each token with limits, kept by its caller (`agent.authority.caller`) for as long as its limits stay. The one
rule: a call that is not let in changes nothing, and hears when to come again.
"""

from typing import Final

# A call under way may end at any moment.
_WHILE_BUSY_S: Final = 1.0


class Allowance:
    """Written by the event loop alone. Times are seconds of one steady clock."""

    __slots__ = ("_at_s", "_left", "calls_per_s", "concurrent_calls", "under_way")

    def __init__(self, calls_per_s: float | None, concurrent_calls: int | None) -> None:
        self.calls_per_s = calls_per_s
        self.concurrent_calls = concurrent_calls
        self.under_way = 0
        self._left = self._most
        self._at_s: float | None = None

    def __repr__(self) -> str:
        return f"<Allowance {self.calls_per_s}/s, {self.under_way} of {self.concurrent_calls} under way>"

    @property
    def _most(self) -> float:
        """What may come at once after a while of silence: as much as in a second, and one call always."""
        return max(1.0, self.calls_per_s or 0.0)

    def begin(self, now_s: float) -> float:
        """Let a call begin, and return 0; or return the seconds after which one may."""
        if self.concurrent_calls is not None and self.under_way >= self.concurrent_calls:
            return _WHILE_BUSY_S
        if self.calls_per_s is not None:
            since_s = 0.0 if self._at_s is None else max(0.0, now_s - self._at_s)
            self._left = min(self._most, self._left + since_s * self.calls_per_s)
            self._at_s = now_s
            if self._left < 1.0:
                return (1.0 - self._left) / self.calls_per_s
            self._left -= 1.0
        self.under_way += 1
        return 0.0

    def end(self) -> None:
        """A call that had begun is over."""
        self.under_way -= 1
