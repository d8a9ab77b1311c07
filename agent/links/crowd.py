"""What all links of a node know together: how many are down, and whether it is this node that cannot hear.

Shared by the records of one node's links (`agent.links.record`), which report every step. A link that is about to end
for its silence is judged by those that were asked since that silence began: most of them heard, and it is the other
side that is gone; most of them silent, too, and it is this node. So the first one of many that fall silent at once is
judged as the last. The one rule: silence of most others is taken for ours, but not for long, and a refused connection
is no silence.
"""

from dataclasses import dataclass
from typing import Final

from agent.links.state import Blame, LinkStanding
from agent.model import LinkState

# Fewer others may well be silent together; with so many, three of them are more than half.
OTHERS_MIN: Final = 5
# A node's probes find a hung peer in 12 s; while it doubts itself it takes eight times as long (Lifeguard's factor).
SELF_DOUBT_MAX_S: Final = 96.0


@dataclass(frozen=True, slots=True)
class Silence:
    """Since when one link has been silent; `heard`: how many answers all links together had had by then."""

    since_s: float
    heard: int


NO_SILENCE: Final = Silence(0.0, 0)


@dataclass(slots=True)
class Crowd:
    """See the module. `up`: links that are probed; `silent`: those of them that missed a probe.

    `down`: links that back off and whose return a catalog announces; `named_down`: the others, without children.
    `heard`: answers to probes, of all links together.
    """

    down: int = 0
    named_down: int = 0
    up: int = 0
    silent: int = 0
    heard: int = 0

    def note(self, before: LinkStanding, after: LinkStanding, *, is_named: bool = False) -> None:
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

    def silence(self, now_s: float) -> Silence:
        """One link has missed its first probe now."""
        return Silence(now_s, self.heard)

    def blame(self, silence: Silence, heard: int, now_s: float) -> Blame:
        """Whose the silence of a link is that has missed probe after probe; `heard`: as it was when the last went out.

        What was heard later tells nothing: that probe may have been the last that was lost.
        """
        if now_s - silence.since_s >= SELF_DOUBT_MAX_S:
            return Blame.THEIRS
        return judged(self.up, self.silent, heard - silence.heard)


def judged(up: int, silent: int, answers: int) -> Blame:
    """Of `up` links, `silent` miss their probes; all together gave so many `answers` since the silence in question.

    Each link is asked every few seconds, and a silent one counts as soon as it misses, so those that were asked so far
    tell what all would say. Their silence is ours for certain when it is that of most.
    """
    if up < OTHERS_MIN:
        return Blame.THEIRS
    heard = min(answers, up - silent)
    if silent <= heard:
        return Blame.THEIRS
    return Blame.OURS if 2 * silent > up else Blame.OPEN


def _is_up(standing: LinkStanding) -> bool:
    return standing.state in (LinkState.READY, LinkState.SUSPECT)


def _is_silent(standing: LinkStanding) -> bool:
    return _is_up(standing) and standing.misses > 0 and not standing.refuses
