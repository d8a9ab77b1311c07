"""How waits grow while something keeps failing: by a factor each time, from the first to the last. PURE.

Used by the loops of discovery and of the agent alike; each names its figures, with their reasons, where it waits. The
one rule: a wait never exceeds `last_s`, whatever the count of failures.
"""

from dataclasses import dataclass

# 2**64 exceeds every `last_s`; a larger exponent would only overflow the float.
_GROWTHS_MAX = 64


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits in seconds. `first_s`: after the first failure; `last_s`: the longest; `factor`: each against the last."""

    first_s: float
    last_s: float
    factor: float = 2.0

    def step_s(self, failures: int) -> float:
        """The wait after so many failures in a row; none before the first."""
        if failures < 1:
            return 0.0
        return min(self.last_s, self.first_s * self.factor ** min(failures - 1, _GROWTHS_MAX))

    def jittered_s(self, failures: int, draw: float) -> float:
        """Full jitter: anywhere below that wait, so that what failed together does not come back together.

        `draw` is uniform in [0, 1).
        """
        return self.step_s(failures) * draw
