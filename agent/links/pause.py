"""The wait between two dials of a link, and what cuts it short: a sighting, a reload, a call, or a server that is back.

Owned by `agent.links.link`, which sleeps here. A server that refuses connections, or that a proxy says is away, is
knocked at meanwhile (`agent.client.http.returned`), at once where it is called: a knock costs a tenth of a dial, so
that hundreds that are away together are each found as soon as one. The one rule: a server that asks for a pause as it
has too much to do (429) gets it from all; how long one says that it will be away (503) binds no call.
"""

import math
import random
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

from agent import clock
from agent.client.event import Event, within
from agent.client.http.returned import tells_by_a_knock
from agent.client.knocks import KNOCK_EVERY_S, Calls
from agent.errors import LinkFailed, MeshError, Unreachable
from agent.links.crowd import Kind
from agent.links.dial import Knock
from agent.links.state import NAMED_DIALS_PER_S_MAX
from agent.model import BackendSpec

# A call that finds a link down makes it dial or knock now, but calls in a row do not without a pause ...
CALLED_EVERY_S: Final = 1.0
# ... and hardly hurry what only an operator can mend: a refused token, a program that keeps exiting.
CALLED_IN_VAIN_EVERY_S: Final = 30.0
# A peer that probes us does so every 5 s: a way that is open again in one direction or in both is found in 15 s.
REACHED_EVERY_S: Final = 5.0
# How long a link may take to notice what a call has noticed: that its server is gone.
MISSED_FOR_S: Final = 1.0
# All of one kind that are called and down are knocked at or dialled so often together: 300 of them every 1.2 s.
CALLED_PER_S_MAX: Final = 250
# And those that are not called, and that no catalog announces, each after half of this or more: it is found in 10 s ...
RETURN_KNOCK_EVERY_S: Final = 8.0
# ... where no more than 300 of one kind are down.
UNCALLED_PER_S_MAX: Final = 50
# A knock that means nothing has many hand-written servers close its connection, for which a proxy says what it says of
# one that is away: so many of a kind are dialled all the same, as many as people's peers without calls.
UNTOLD_PER_S_MAX: Final = NAMED_DIALS_PER_S_MAX

_UNAVAILABLE: Final = 503


@dataclass(frozen=True, slots=True)
class Haste:
    """How a wait may be cut short after a dial that failed. `called_every_s`: by calls, no more often than this.

    `by_knock`: by a knock first, else by a dial. `uncalled`: also without calls.
    """

    called_every_s: float = CALLED_EVERY_S
    by_knock: bool = False
    uncalled: bool = False


def retry_soon(failure: BaseException | None) -> bool:
    """Whether another dial may help before an operator acts."""
    return bool(getattr(failure, "retry_soon", True))


def haste_after(failure: MeshError, kind: Kind, *, misled: bool) -> Haste:
    """PURE. `misled`: a knock was answered just before, and the dial failed so all the same: a gateway's answer.

    RFC 9110 (section 10.2.3) has 503 and `Retry-After` say how long a service is expected to be away, which a crashed
    server's maintenance page does not know: it binds what this node does of itself, where an MCP server says so, and
    nothing where a proxy does. 429 is about us (RFC 6585, section 4), and binds calls, too.
    """
    may_be_away = retry_soon(failure) or (isinstance(failure, LinkFailed) and failure.may_be_away)
    asks_s = failure.retry_after_s if isinstance(failure, Unreachable) else None
    if asks_s and failure.http_status != _UNAVAILABLE:
        return Haste(math.inf)
    return Haste(
        CALLED_EVERY_S if may_be_away else CALLED_IN_VAIN_EVERY_S,
        by_knock=tells_by_a_knock(failure) and not misled,
        uncalled=kind is not Kind.ANNOUNCED and not failure.short and not (asks_s and failure.in_own_words),
    )


@dataclass(slots=True)
class Turns:
    """So many a second, in the order in which they were asked for. Sole writer: the event loop."""

    per_s_max: float
    _free_at_s: float = -math.inf

    def wait_s(self, now_s: float) -> float:
        """Seconds until the turn of one more."""
        at_s = max(now_s, self._free_at_s)
        self._free_at_s = at_s + 1 / self.per_s_max
        return at_s - now_s

    def takes(self, now_s: float) -> bool:
        """Whether there is a turn at this moment, which is taken then."""
        return self._free_at_s <= now_s and self.wait_s(now_s) <= 0


@dataclass(frozen=True, slots=True)
class Pacing:
    """What the pauses of all links of a node share, by kind, as a thousand dead peers delay no server of ours."""

    called: defaultdict[Kind, Turns] = field(default_factory=lambda: defaultdict(lambda: Turns(CALLED_PER_S_MAX)))
    uncalled: defaultdict[Kind, Turns] = field(default_factory=lambda: defaultdict(lambda: Turns(UNCALLED_PER_S_MAX)))
    untold: defaultdict[Kind, Turns] = field(default_factory=lambda: defaultdict(lambda: Turns(UNTOLD_PER_S_MAX)))


class Pause:
    """See the module. Sole writer: its link; `sight`, `reached`, `called` and `cut` only signal.

    `knock`: None where nothing is knocked at, and nothing done without a call. `calls`: of the present dial.
    """

    __slots__ = (
        "_by_call",
        "_called_at_s",
        "_cut_short",
        "_haste",
        "_knock",
        "_knocked_back",
        "_missed_at_s",
        "_pacing",
        "_refused",
        "_rng",
        "calls",
    )

    def __init__(self, knock: Knock | None, pacing: Pacing, rng: random.Random) -> None:
        self._knock = knock
        self._pacing = pacing
        self._rng = rng
        self._haste = Haste()
        self._refused = False
        self._knocked_back = False  # A knock was answered, and nothing has been linked since.
        self._called_at_s = -CALLED_IN_VAIN_EVERY_S
        self._missed_at_s = -MISSED_FOR_S
        self._cut_short = Event()
        self._by_call = False  # It was a call alone that has set that.
        self.calls = Calls()

    def __repr__(self) -> str:
        return f"<Pause {self._haste} {self._cut_short!r}>"

    def over(self) -> None:
        """A dial begins, or is well: what was signalled until now is served by it."""
        self._cut_short.clear()

    def linked(self) -> None:
        """The link is up."""
        self.over()
        self._knocked_back, self._haste = False, Haste()

    def failed(self, failure: MeshError, kind: Kind) -> None:
        """A dial failed, or the client was lost."""
        self._haste = haste_after(failure, kind, misled=self._knocked_back and tells_by_a_knock(failure))
        self._refused = failure.refused  # Not the failure, whose traceback leads here: a circle.

    def cut(self) -> None:
        """Dial now."""
        self._by_call = False
        self._cut_short.set()

    @property
    def is_due(self) -> bool:
        """Whether the last call, or word of the other side, is so long ago that such a word is reason to dial."""
        return clock.now_s() - self._called_at_s >= max(REACHED_EVERY_S, self._haste.called_every_s)

    def reached(self) -> None:
        """The other side has reached us, and is due: dial now."""
        self._called_at_s = clock.now_s()
        self.cut()

    def called(self, *, parked: bool) -> None:
        """A call waits: look now, not more often than `Haste` has it."""
        now_s = clock.now_s()
        self.calls.note(now_s)
        if now_s - self._called_at_s < (CALLED_IN_VAIN_EVERY_S if parked else self._haste.called_every_s):
            return
        self._called_at_s = now_s
        if not self._cut_short.is_set():
            self._by_call = True
            self._cut_short.set()

    def missed(self) -> None:
        """A call came while the link was up or dialled."""
        self._missed_at_s = clock.now_s()
        self.calls.note(self._missed_at_s)

    def was_missed(self) -> bool:
        """Whether a call came a moment before; returned once."""
        missed_at_s, self._missed_at_s = self._missed_at_s, -MISSED_FOR_S
        return clock.now_s() - missed_at_s < MISSED_FOR_S

    async def cut_short(self, spec: BackendSpec, kind: Kind, *, looks: bool) -> None:
        """Return as soon as a dial is due before the wait is over; the caller bounds the time.

        `looks`: whether it may be looked for of itself, with and without calls; else each dial is a call's own.
        """
        looks = looks and self._knock is not None
        uncalled = looks and self._haste.uncalled
        while True:
            is_called = looks and self._is_called
            if is_called:
                await within(self._cut_short, KNOCK_EVERY_S)
            elif uncalled:
                await within(self._cut_short, self._rng.uniform(RETURN_KNOCK_EVERY_S / 2, RETURN_KNOCK_EVERY_S))
            else:
                await self._cut_short.wait()
            if self._cut_short.is_set():
                if not self._by_call:
                    return
                is_called, self._by_call = True, False
                self._cut_short.clear()
            turns = self._pacing.called if is_called else self._pacing.uncalled
            if (wait_s := turns[kind].wait_s(clock.now_s())) > 0:
                await within(self._cut_short, wait_s)
            if is_called:
                self._called_at_s = clock.now_s()  # Which serves the calls until now.
            if await self._may_be_back(spec, kind):
                return

    @property
    def _is_called(self) -> bool:
        """Whether it is worth while to look on as long as there are calls, and there are."""
        return self._haste.called_every_s <= KNOCK_EVERY_S and self.calls.lately(clock.now_s())

    async def _may_be_back(self, spec: BackendSpec, kind: Kind) -> bool:
        if self._knock is None or not self._haste.by_knock:
            return True
        self._knocked_back = await self._knock(spec, self._refused)
        return self._knocked_back or (not self._refused and self._pacing.untold[kind].takes(clock.now_s()))
