"""The life of a link as a table: states, events, and what each event does in each state.

Theory of operation. A link wants to be READY. IDLE means that a dial is due; the link's task dials (DIALING), lists
what the backend offers, and is READY. Probes run while it is up: the second miss in a row makes it SUSPECT (new calls
prefer other replicas), the third ends the session, unless this node hears no others either. Misses while the server is
at work on a call end nothing, then or later: one that does one thing at a time answers nothing meanwhile. A failed dial
or an ended session is BACKOFF; the task waits there for `wait_s`, or until a sighting, and the link is IDLE again.
Failures in a row lengthen the wait; a minute of READY makes a new failure the first one again. A child process that
fails five times in a row is PARKED: it is tried again every few minutes only, or at once after a sighting (a reload, a
changed file); silence does not count for that. A reload is no failure: the link is IDLE as if new. CLOSED is the end.

Links call `advance` alone. The one rule: nothing but `_TABLE` says which state comes next.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, TypeAlias

from agent.model import LinkState
from discovery.backoff import Backoff

if TYPE_CHECKING:
    import random


# Half a second hides a restart; 15 s is the longest that a returned peer goes unnoticed when no catalog announces it
# and it cannot reach us itself: a partition in both directions heals as soon as one in a single direction.
DIALS: Final = Backoff(first_s=0.5, last_s=15.0)
# A server of ours, or a peer that people name: no catalog says when it is back. It is found in 10 s: a dial may have
# sent its last packet 2 s before the server returned, and has to be given up first.
NAMED_DIALS: Final = Backoff(first_s=0.5, last_s=8.0)
# An announced node that hangs goes on without a word of the catalog's; many of them share what follows all the same.
HUNG_DIALS: Final = Backoff(first_s=0.5, last_s=8.0)
# All announced links that are down dial so often together: one in vain costs some milliseconds. Beyond 22 of them each
# waits longer; a node that returns registers anew and is dialled at once all the same, as is what a call waits for.
DIALS_PER_S_MAX: Final = 3
# The same of peers that people name, and of our servers, each apart: a thousand dead peers delay no server of ours.
# Beyond 60 of one kind each waits longer.
NAMED_DIALS_PER_S_MAX: Final = 15
# And no more often just after they were lost: hundreds that die at once would take the loop from calls to the living.
FIRST_DIALS_PER_S_MAX: Final = 60
# A stdio child that keeps exiting costs a process start each time.
CHILD_DIALS: Final = Backoff(first_s=0.5, last_s=60.0)
# One that failed five times needs an operator, or a registry or network to come back, which takes minutes.
PARKED_DIALS: Final = Backoff(first_s=60.0, last_s=300.0)
# A server that answers 429 or 503 may say when to come again; one that says "in a week" is tried all the same.
RETRY_AFTER_MAX_S: Final = 300.0

# With a probe every 5 s and 1 s for its answer, a hung peer is down within 12 s of its last answer
# to a call, and one lost probe changes nothing.
MISSES_SUSPECT: Final = 2
MISSES_DOWN: Final = 3
# A session that lasted this long was stable: the next failure is the first of a new row.
STEADY_AFTER_S: Final = 60.0
# A session that ended sooner than this, four times in a row, is flapping: each time costs every client a changed list.
FLAP_S: Final = 10.0
FLAPS_MIN: Final = 4
# Held down for so long then, whatever the catalog says of it and whatever calls it.
HOLD_DOWN: Final = Backoff(first_s=10.0, last_s=60.0)
# A child that keeps exiting burns CPU and hides its first error below the repeats.
CRASHES_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class LinkStanding:
    """Where a link stands. `is_child`: a stdio process, which may be parked.

    `attempts`: failures in a row; `hangs`: how many of them were silence, which parks no child. `misses`: probes missed
    in a row; `excused`: how many of them do not count, as the server was busy or we did not hear it; `refuses`: whether
    the last one was refused; `unheard`: enough were missed to end it, but for our own silence. `ready_at_s`: when the
    present session became ready, in the event loop's monotonic seconds. `flaps`: sessions in a row that did not last;
    `held_until_s`: no dial before.
    """

    state: LinkState = LinkState.IDLE
    is_child: bool = False
    attempts: int = 0
    hangs: int = 0
    misses: int = 0
    excused: int = 0
    refuses: bool = False
    unheard: bool = False
    ready_at_s: float | None = None
    flaps: int = 0
    held_until_s: float = -math.inf


@dataclass(frozen=True, slots=True)
class DialStarted:
    """The task begins to dial."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The session is up and the offer is known."""


@dataclass(frozen=True, slots=True)
class OpenFailed:
    """The dial, the initialize result or the first listing failed. `short`: for want of what this node has."""

    short: bool = False


@dataclass(frozen=True, slots=True)
class ProbeAnswered:
    """The backend answered a probe."""


class Blame(Enum):
    """Whose a silence is: the other side's, this node's, or too little is known yet (`agent.links.crowd`)."""

    THEIRS = auto()
    OURS = auto()
    OPEN = auto()


@dataclass(frozen=True, slots=True)
class ProbeMissed:
    """No answer to a probe in time. `busy`: the server is at work on a call, which may be all that it does.

    `refused`: it was refused in place of that, which is no silence. `blame`: whose the silence is. `ended`: the other
    side had ended the stream of changes, or what stands between had, so that it is as good as the last of many.
    """

    busy: bool = False
    refused: bool = False
    blame: Blame = Blame.THEIRS
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """The session ended by itself: stream end, reset, exited child. `short`: for want of what this node has."""

    short: bool = False


@dataclass(frozen=True, slots=True)
class Sighted:
    """The catalog or an operator has seen the backend: try now."""


@dataclass(frozen=True, slots=True)
class WaitOver:
    """The back-off has run out."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The session was ended to begin anew. No failure: a new row of attempts begins, and no child is near parking."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The link is no longer wanted."""


LinkEvent: TypeAlias = (
    DialStarted | Opened | OpenFailed | ProbeAnswered | ProbeMissed | Lost | Sighted | WaitOver | Reloaded | Closed
)
_Step: TypeAlias = Callable[[LinkStanding, LinkEvent, float], LinkStanding]


def advance(standing: LinkStanding, event: LinkEvent, now_s: float) -> LinkStanding:
    """The standing after `event`. Never raises; an event without meaning in the present state changes nothing."""
    step = _TABLE[standing.state].get(type(event))
    return standing if step is None else step(standing, event, now_s)


def is_calm(standing: LinkStanding) -> bool:
    """Whether an answered probe changes nothing: it is up, and nothing is missed or counted in a row."""
    return standing.state is LinkState.READY and not (standing.misses or standing.attempts)


def held_down(standing: LinkStanding, now_s: float) -> str:
    """That it is not dialled whatever happens, for how long and why; empty where it may be. Reads on after an error."""
    held_s = standing.held_until_s - now_s
    why = f"as {standing.flaps} connections in a row lasted less than {FLAP_S:g} s"
    return f"; held down for {held_s:.0f} s, {why}" if held_s > 0 else ""


def wait_s(
    standing: LinkStanding,
    rng: "random.Random",
    *,
    retry_soon: bool,
    retry_after_s: float | None = None,
    down: int = 0,
    dials: Backoff = DIALS,
    now_s: float = 0.0,
) -> float:
    """Seconds until a link's next dial; none after a reload, and no fewer than the server asked for.

    Full jitter, but for a parked child, whose waits only grow. Without `retry_soon` (authentication, protocol,
    identity) only an operator can help, so the wait is drawn from the upper half of the longest at once. `dials`: how
    the waits grow, but for a child. `down`: how many links of its kind back off.
    """
    match standing.state:
        case LinkState.IDLE:
            return 0.0
        case LinkState.PARKED:
            return PARKED_DIALS.step_s(standing.attempts - standing.hangs - CRASHES_MAX + 1)
    backoff = CHILD_DIALS if standing.is_child else _dials_of(dials, down)
    if not retry_soon:
        return rng.uniform(backoff.last_s / 2, backoff.last_s)
    asked_s = max(min(retry_after_s or 0.0, RETRY_AFTER_MAX_S), standing.held_until_s - now_s)
    return max(asked_s, backoff.jittered_s(max(1, standing.attempts), rng.random()))


def _dials_of(dials: Backoff, down: int) -> Backoff:
    """With full jitter the mean wait is half the longest."""
    first_s = max(dials.first_s, 2 * down / FIRST_DIALS_PER_S_MAX)
    per_s_max = NAMED_DIALS_PER_S_MAX if dials is NAMED_DIALS else DIALS_PER_S_MAX
    return replace(dials, first_s=first_s, last_s=max(dials.last_s, 2 * down / per_s_max))


def _dials(standing: LinkStanding, _event: LinkEvent, _now_s: float) -> LinkStanding:
    return replace(standing, state=LinkState.DIALING)


def _is_due(standing: LinkStanding, _event: LinkEvent, _now_s: float) -> LinkStanding:
    return replace(standing, state=LinkState.IDLE)


def _begins_anew(standing: LinkStanding, _event: LinkEvent, _now_s: float) -> LinkStanding:
    return LinkStanding(is_child=standing.is_child)


def _is_ready(standing: LinkStanding, _event: LinkEvent, now_s: float) -> LinkStanding:
    return replace(standing, state=LinkState.READY, misses=0, ready_at_s=now_s)


def _is_alive(standing: LinkStanding, _event: LinkEvent, now_s: float) -> LinkStanding:
    if is_calm(standing):
        return standing  # As nearly always.
    return replace(_row(standing, now_s), state=LinkState.READY, misses=0, excused=0, unheard=False)


def _misses(standing: LinkStanding, event: LinkEvent, now_s: float) -> LinkStanding:
    misses, excused, unheard = standing.misses + 1, standing.excused, standing.unheard
    assert isinstance(event, ProbeMissed), "as the table has it"
    if event.busy:
        misses = excused = min(misses, MISSES_SUSPECT)
    elif event.ended or misses - excused >= MISSES_DOWN:
        misses = max(misses, excused + MISSES_DOWN)
        match event.blame:
            case Blame.THEIRS:
                return _fails(standing, event, now_s)
            case Blame.OURS:
                misses, excused, unheard = MISSES_SUSPECT, MISSES_SUSPECT, True
            case Blame.OPEN:  # The next one tells more.
                misses -= 1
    state = LinkState.SUSPECT if misses >= MISSES_SUSPECT else LinkState.READY
    refuses = event.refused
    return replace(standing, state=state, misses=misses, excused=excused, refuses=refuses, unheard=unheard)


def _fails(standing: LinkStanding, event: LinkEvent, now_s: float) -> LinkStanding:
    row = _row(standing, now_s)
    hung = isinstance(event, ProbeMissed)
    # A lack of our own is no failure of the other side's, so it neither grows the waits nor parks a child.
    is_short = isinstance(event, OpenFailed | Lost) and event.short
    attempts, hangs = row.attempts + (not is_short), row.hangs + hung
    parks = standing.is_child and not hung and not is_short and attempts - hangs >= CRASHES_MAX
    state = LinkState.PARKED if parks else LinkState.BACKOFF
    row = _flapped(row, now_s)
    return _over(replace(row, state=state, attempts=attempts, hangs=hangs))


def _flapped(row: LinkStanding, now_s: float) -> LinkStanding:
    """The row with this loss counted, where there was something to lose. Children are parked, which is more."""
    if row.ready_at_s is None or row.is_child:
        return row
    flaps = row.flaps + 1 if now_s - row.ready_at_s < FLAP_S else 0
    held_s = HOLD_DOWN.step_s(flaps - FLAPS_MIN + 1)
    return replace(row, flaps=flaps, held_until_s=now_s + held_s if held_s else row.held_until_s)


def _closes(standing: LinkStanding, _event: LinkEvent, _now_s: float) -> LinkStanding:
    return _over(replace(standing, state=LinkState.CLOSED))


def _over(standing: LinkStanding) -> LinkStanding:
    return replace(standing, misses=0, excused=0, unheard=False, ready_at_s=None)


def _row(standing: LinkStanding, now_s: float) -> LinkStanding:
    """The standing with the failures that still count as in a row."""
    is_steady = standing.ready_at_s is not None and now_s - standing.ready_at_s >= STEADY_AFTER_S
    return replace(standing, attempts=0, hangs=0) if is_steady else standing


# What is not listed stays as it is.
_TABLE: Final[Mapping[LinkState, Mapping[type[LinkEvent], _Step]]] = {
    LinkState.IDLE: {DialStarted: _dials, Reloaded: _begins_anew, Closed: _closes},
    LinkState.DIALING: {
        Opened: _is_ready,
        OpenFailed: _fails,
        Lost: _fails,
        Reloaded: _begins_anew,
        Closed: _closes,
    },
    LinkState.READY: {
        ProbeAnswered: _is_alive,
        ProbeMissed: _misses,
        Lost: _fails,
        Reloaded: _begins_anew,
        Closed: _closes,
    },
    LinkState.SUSPECT: {
        ProbeAnswered: _is_alive,
        ProbeMissed: _misses,
        Lost: _fails,
        Reloaded: _begins_anew,
        Closed: _closes,
    },
    LinkState.BACKOFF: {
        DialStarted: _dials,
        Sighted: _is_due,
        WaitOver: _is_due,
        Reloaded: _begins_anew,
        Closed: _closes,
    },
    LinkState.PARKED: {
        DialStarted: _dials,
        Sighted: _begins_anew,
        WaitOver: _is_due,
        Reloaded: _begins_anew,
        Closed: _closes,
    },
    LinkState.CLOSED: {},
}
