"""What all links of a node know together: how many are down, and whether it is this node that cannot hear.

Shared by the records of one node's links (`agent.links.record`), which report every step. The one rule: silence of most
others at once is taken for ours, but not for long, and a refused connection is no silence.
"""

from dataclasses import dataclass
from typing import Final

from agent.links.state import LinkStanding
from agent.model import LinkState

# Fewer others may well be silent together; with so many, three of them are more than half.
OTHERS_MIN: Final = 5
# A node's probes find a hung peer in 12 s; while it doubts itself it takes eight times as long (Lifeguard's factor).
SELF_DOUBT_MAX_S: Final = 96.0


@dataclass(slots=True)
class Crowd:
    """See the module. `up`: links that are probed; `silent`: those of them that missed a probe.

    `down`: links that back off and whose return a catalog announces; `named_down`: the others, without children.
    """

    down: int = 0
    named_down: int = 0
    up: int = 0
    silent: int = 0
    _most_silent_since_s: float | None = None

    def note(self, before: LinkStanding, after: LinkStanding, now_s: float, *, is_named: bool = False) -> None:
        """Take one step of one link. `is_named`: no catalog announces it, or did so when it went down."""
        if after.is_child:
            return
        more = (after.state is LinkState.BACKOFF) - (before.state is LinkState.BACKOFF)
        if is_named:
            self.named_down += more
        else:
            self.down += more
        self.up += _is_up(after) - _is_up(before)
        self.silent += _is_silent(after) - _is_silent(before)
        most = self.up >= OTHERS_MIN and 2 * self.silent > self.up
        if not most:
            self._most_silent_since_s = None
        elif self._most_silent_since_s is None:
            self._most_silent_since_s = now_s

    def doubts_itself(self, now_s: float) -> bool:
        """Whether no silence is believed now."""
        since_s = self._most_silent_since_s
        return since_s is not None and now_s - since_s < SELF_DOUBT_MAX_S


def _is_up(standing: LinkStanding) -> bool:
    return standing.state in (LinkState.READY, LinkState.SUSPECT)


def _is_silent(standing: LinkStanding) -> bool:
    return _is_up(standing) and standing.misses > 0
