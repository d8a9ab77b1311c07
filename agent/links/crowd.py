"""What all links of a node know together: how many are down, and whether it is this node that cannot hear.

Shared by the records of one node's links (`agent.links.record`), which report every step. A link that is about to end
for its silence is judged by those that were asked since that silence began: most of them heard, and it is the other
side that is gone; most of them silent, too, and it is this node. So the first one of many that fall silent at once is
judged as the last. A server on this machine tells whether the machine has time, and nothing of the network, so what is
elsewhere is judged by its like alone. The one rule: silence of most others is taken for ours, but not for long, and a
refused connection is no silence.
"""

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, Protocol

from agent.links.state import Blame, LinkStanding
from agent.model import LinkState

# One link alone is silent together with no other. Nothing else at hand tells whose its silence is: our agent of Consul
# and most servers of ours are on this machine, and are heard whatever the network does; and what the peer sends us
# arrives, or does not, whichever of us two is cut off.
TOGETHER_MIN: Final = 2
# How the error of a call goes on that finds a link kept so, behind its name.
UNHEARD: Final = "does not answer, nor do most others, so that it may be this node that does not hear"
# So few may all be between two probes when one falls silent. Of more, enough are asked before that one is judged.
ASKED_MAX: Final = 10
# By then every link was probed, and has answered or is silent. What has done neither, as a gateway that takes a quarter
# of a minute for any answer, tells nothing.
ALL_ASKED_S: Final = 8.0
# A node's probes find a hung peer in 12 s; while it doubts itself it takes eight times as long (Lifeguard's factor).
SELF_DOUBT_MAX_S: Final = 96.0


class Kind(Enum):
    """What a link leads to; links of one kind that are down share one limit of dials."""

    ANNOUNCED = auto()  # A catalog says when it is back.
    NAMED = auto()  # A peer that people name.
    OWN = auto()  # A server of this node.


@dataclass(frozen=True, slots=True)
class Silence:
    """Since when one link has been silent; `heard`: how many answers all links together had had by then."""

    since_s: float
    heard: int


NO_SILENCE: Final = Silence(0.0, 0)


class Asked(Protocol):
    """A link that is up."""

    def ask(self) -> None:
        """Probe the other side now, unless it is being probed."""
        ...


@dataclass(slots=True)
class Counts:
    """`up`: links that are probed, and may answer now; `silent`: those of them that missed a probe.

    `heard`: answers to probes, of all of them together.
    """

    up: int = 0
    silent: int = 0
    heard: int = 0


@dataclass(slots=True)
class Crowd:
    """See the module. `all`: without children; `afar`: those of them that do not lead to a server on this machine.

    `down`: how many links of each kind back off, without children. `links`: those that can be asked at once.
    """

    down: Counter[Kind] = field(default_factory=Counter)
    all: Counts = field(default_factory=Counts)
    afar: Counts = field(default_factory=Counts)
    links: dict[Asked, None] = field(default_factory=dict)

    def judges(self, *, here: bool) -> Counts:
        """Those by which a link is judged that leads to a server on this machine, or does not."""
        return self.all if here else self.afar

    def note(self, before: LinkStanding, after: LinkStanding, kind: Kind, *, here: bool = False) -> None:
        """Take one step of one link. `kind`: as it was when it went down."""
        if after.is_child:
            return
        self.down[kind] += (after.state is LinkState.BACKOFF) - (before.state is LinkState.BACKOFF)
        for counts in (self.all,) if here else (self.all, self.afar):
            counts.up += _may_answer(after) - _may_answer(before)
            counts.silent += _is_silent(after) - _is_silent(before)

    def hear(self, *, here: bool) -> None:
        """A probe was answered."""
        self.all.heard += 1
        self.afar.heard += not here

    def silence(self, now_s: float, *, here: bool = False) -> Silence:
        """One link has missed its first probe now."""
        return Silence(now_s, self.judges(here=here).heard)

    def ask(self) -> None:
        """Ask all of a few, as one has fallen silent: with the first answers it is known whose silence that is."""
        if len(self.links) <= ASKED_MAX:
            for link in tuple(self.links):
                link.ask()

    def blame(self, silence: Silence, heard: int, now_s: float, *, unheard: bool = False, here: bool = False) -> Blame:
        """Whose the silence of a link is that has missed probe after probe; `heard`: as it was when the last went out.

        What was heard later tells nothing: that probe may have been the last that was lost. `unheard`: the silence was
        ours before, so that others may just be heard again.
        """
        lasts_s = now_s - silence.since_s
        if lasts_s >= SELF_DOUBT_MAX_S:
            return Blame.THEIRS
        counts = self.judges(here=here)
        blame = judged(counts.up, counts.silent, heard - silence.heard)
        is_over = blame is Blame.OPEN and lasts_s >= ALL_ASKED_S and not unheard
        return Blame.THEIRS if is_over else blame


def judged(up: int, silent: int, answers: int) -> Blame:
    """Of `up` links, `silent` miss their probes; all together gave so many `answers` since the silence in question.

    Each link is asked every few seconds, and a silent one counts as soon as it misses, so those that were asked so far
    tell what all would say. Their silence is ours for certain when it is that of most.
    """
    if up < TOGETHER_MIN:
        return Blame.THEIRS
    heard = min(answers, up - silent)
    if silent <= heard:
        return Blame.THEIRS
    return Blame.OURS if 2 * silent > up else Blame.OPEN


def _is_up(standing: LinkStanding) -> bool:
    return standing.state in (LinkState.READY, LinkState.SUSPECT)


def _may_answer(standing: LinkStanding) -> bool:
    """A server that is at work on a call says nothing meanwhile, of us neither."""
    return _is_up(standing) and (standing.unheard or not 0 < standing.misses == standing.excused)


def _is_silent(standing: LinkStanding) -> bool:
    return _may_answer(standing) and standing.misses > 0 and not standing.refuses
