"""PURE: the calls of the last hour in buckets of ten seconds, and what each backend does now.

`Metrics` adds each call; `agent.page.feed` rolls the bucket and shows what is kept. A duration counts in one of four
steps for each doubling, so a quantile is at most an eighth too high. The one rule: its size depends on the hour and the
backends that there are, never on the calls.
"""

import math
from collections import Counter, deque
from dataclasses import dataclass
from math import frexp
from typing import Final

BUCKET_S: Final = 10.0
BUCKETS_MAX: Final = 360
BACKENDS_MAX: Final = 2_048
_STEPS: Final = 4  # For each doubling.
_ADDED_MAX: Final = 256
_FINE: Final = frozenset({"ok", "tool_error", "cancelled"})  # A tool that failed is its server's answer.


@dataclass(frozen=True, slots=True)
class Bucket:
    """Ten seconds of calls.

    `at_s`: their end, in seconds since the epoch; p50 and p99 in milliseconds, None without calls.
    """

    at_s: float
    calls: int
    errors: int
    p50_ms: float | None
    p99_ms: float | None


@dataclass(slots=True)
class Tally:
    """What one backend did since the last look: calls, those of them that failed, and their seconds together."""

    calls: int = 0
    errors: int = 0
    seconds: float = 0.0


class CallHistory:
    """See the module."""

    def __init__(self) -> None:
        self.buckets: deque[Bucket] = deque(maxlen=BUCKETS_MAX)
        self._steps = Counter[int]()
        self._errors = 0
        self._tallies: dict[str, Tally] = {}
        self._added: list[tuple[str, str, tuple[float, ...]]] = []

    def __repr__(self) -> str:
        return f"<CallHistory {len(self.buckets)} buckets, {len(self._added)} to be counted>"

    def add(self, backend: str, outcome: str, *seconds: float) -> None:
        """Calls have ended, one or more: how long each took."""
        added = self._added
        added.append((backend, outcome, seconds))
        if len(added) >= _ADDED_MAX:
            self._count()

    def roll(self, now_s: float) -> Bucket:
        """End the bucket, at this time since the epoch, and begin the next one."""
        self._count()
        steps, errors = self._steps, self._errors
        self._steps, self._errors = Counter(), 0
        bucket = Bucket(now_s, steps.total(), errors, quantile_ms(steps, 0.5), quantile_ms(steps, 0.99))
        self.buckets.append(bucket)
        return bucket

    def take_tallies(self) -> dict[str, Tally]:
        """What each backend did since this was called last."""
        self._count()
        taken, self._tallies = self._tallies, {}
        return taken

    def _count(self) -> None:
        """Count what was added since this was called last, all at once: that costs a call half as much."""
        steps, tallies = self._steps, self._tallies
        for backend, outcome, seconds in self._added:
            count = len(seconds)
            failed = 0 if outcome in _FINE else count
            for one in seconds:
                mantissa, exponent = frexp(one)  # 0.5 <= mantissa < 1
                steps[exponent * _STEPS + int((mantissa - 0.5) * 2 * _STEPS)] += 1
            self._errors += failed
            tally = tallies.get(backend)
            if tally is None:
                if len(tallies) >= BACKENDS_MAX:
                    continue
                tally = tallies[backend] = Tally()
            tally.calls += count
            tally.errors += failed
            tally.seconds += sum(seconds)
        self._added.clear()


def quantile_ms(steps: Counter[int], share: float) -> float | None:
    """The duration that so many of the calls did not exceed; None without calls."""
    left = math.ceil(share * steps.total())
    for step in sorted(steps):
        left -= steps[step]
        if left <= 0:
            return round(_upper_s(step) * 1000, 3)
    return None


def _upper_s(step: int) -> float:
    exponent, part = divmod(step, _STEPS)
    return math.ldexp(0.5 + (part + 1) / (2 * _STEPS), exponent)
