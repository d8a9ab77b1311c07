"""How much longer than usual to wait for an agent that has been slow. PURE.

Kept by the client's transport, asked before each request. An agent under load that answers after eight seconds is not
dead; with one time-out for ever it would look so, and each request that is given up costs it as much as an answer. The
one rule: only answers that come in the usual time end the patience, and each kind of request has its own.
"""

from collections import Counter
from typing import Final

from discovery.backoff import Backoff

# Added to the 5 s that an answer may usually take, after each time-out in a row: a minute in all, like Consul's own
# slowest answer of one that works.
MORE: Final = Backoff(first_s=5.0, last_s=55.0)
_WAITING: Final = ", waiting"


class Patience:
    """One transport's. `kind`: the method and the part of the API."""

    def __init__(self) -> None:
        self._late: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Patience {dict(self._late)}>"

    def more_s(self, kind: str) -> float:
        """Seconds to add to the usual time limit. What takes long without a wait takes as long after one."""
        return MORE.step_s(max(self._late[kind], self._late[kind.removesuffix(_WAITING)]))

    def note_late(self, kind: str) -> None:
        """No answer came in time."""
        self._late[kind] += 1

    def note_answer(self, kind: str, *, in_usual_time: bool) -> None:
        """An answer came; one that took longer than usual shows that the patience is needed."""
        if in_usual_time:
            del self._late[kind]


def kind_of(method: str, path: str, *, waits: bool = False) -> str:
    """The kind of a request to `path`, which begins with `/v1/`: `GET health/service`, `PUT agent/check`.

    `waits`: for news. Such a query ends early when there are some, which says nothing about how slow the agent is, so
    that its answer is not noted then.
    """
    return f"{method} {'/'.join(path.split('/')[2:4])}{_WAITING * waits}"
