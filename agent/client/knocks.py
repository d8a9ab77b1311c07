"""How often servers that hang are knocked at, all together: those that are called, and the others apart from them.

Asked by `agent.client.http.awakening`; a link says whether what it dials is called. The one rule: what is called is
what has to be found soon, so those that are not are knocked at by what a limit of their own leaves them.
"""

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

if TYPE_CHECKING:
    from collections.abc import Callable

# A server that returns is found in 2 s while it is called: a knock, its answer, a pause, and the first list.
KNOCK_EVERY_S: Final = 1.2
# So many of one kind that hang and are called are each knocked at so often: 300. A knock costs some 1.3 milliseconds.
CALLED_KNOCKS_PER_S_MAX: Final = 250
# And of those that are not called, 300 every 7 s: each is found in 10 s.
KNOCKS_PER_S_MAX: Final = 45
# The same of peers that a catalog announces: most of them dial us when they go on.
ANNOUNCED_KNOCKS_PER_S_MAX: Final = 5
# A caller whose calls wait for a server in vain makes one every 3 s.
CALLED_FOR_S: Final = 5.0


class Calls:
    """Those for one server while it is dialled. Sole writer: its link; `on_call` is of what waits for the next."""

    __slots__ = ("_at_s", "on_call")

    def __init__(self) -> None:
        self._at_s = -CALLED_FOR_S
        self.on_call: Callable[[], object] | None = None

    def __repr__(self) -> str:
        return f"<Calls, the last at {self._at_s:.1f} s>"

    def note(self, now_s: float) -> None:
        """There is one more."""
        self._at_s = now_s
        if self.on_call is not None:
            self.on_call()

    def lately(self, now_s: float) -> bool:
        """Whether it is called."""
        return now_s - self._at_s < CALLED_FOR_S


# Those of the server that the present task dials, where its link tells.
CALLS: Final[ContextVar[Calls | None]] = ContextVar("calls", default=None)


class Knocks:
    """Those that hang of one kind. Sole writer: the event loop."""

    __slots__ = ("_called", "_others", "_others_per_s_max")

    def __init__(self, others_per_s_max: float) -> None:
        self._called: WeakSet[Any] = WeakSet()
        self._others: WeakSet[Any] = WeakSet()
        self._others_per_s_max = others_per_s_max

    def __repr__(self) -> str:
        return f"<Knocks at {len(self._called)} called, {len(self._others)} others>"

    def add(self, one: object, *, called: bool) -> None:
        """It hangs; again and again, as whether it is called may change."""
        self.discard(one)
        (self._called if called else self._others).add(one)

    def discard(self, one: object) -> None:
        """It hangs no longer."""
        self._called.discard(one)
        self._others.discard(one)

    def every_s(self, *, called: bool) -> float:
        """Seconds between the knocks at each."""
        share_s = len(self._called) / CALLED_KNOCKS_PER_S_MAX if called else len(self._others) / self._others_per_s_max
        return max(KNOCK_EVERY_S, share_s)


OWN: Final = Knocks(KNOCKS_PER_S_MAX)
NAMED: Final = Knocks(KNOCKS_PER_S_MAX)
ANNOUNCED: Final = Knocks(ANNOUNCED_KNOCKS_PER_S_MAX)
