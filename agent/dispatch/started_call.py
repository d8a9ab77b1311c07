"""A call whose first attempt went out without a task: ended where it is answered as usual, else gone on with in one.

Made by `agent.dispatch.dispatcher`. The one rule: what has gone out is the call's first attempt, however
the call goes on, so that the rules of retries and outcomes hold for it as for any other.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from agent import clock
from agent.client.protocol import Request
from agent.dispatch.call import Call
from agent.dispatch.callable_link import CallableLink
from agent.dispatch.next_hop import says_no_more
from agent.dispatch.replicas import Attempt, ReplicaStats
from agent.errors import MeshError
from agent.lossless_json.raw import RawObject
from agent.model import Json, LinkView
from agent.routing.table import Replica

# A result of a replica, by what its link shows, as its caller gets it. Raises `MeshError`.
Believed: TypeAlias = Callable[[Call, Replica, Json, LinkView], Json]


class CallTaker(Protocol):
    """Who started a call. Never raises."""

    def take(self, result: RawObject, replica: Replica) -> bool:
        """Take a result that is one and no more, and no error; False: no, `wait` is called then."""
        ...

    def wait(self) -> None:
        """The call has to be gone on with in a task, by `Dispatch.go_on`."""
        ...


@dataclass(slots=True, eq=False)
class StartedCall:
    """One of them; of its link, the one who takes the result (`agent.client.protocol.ResultTaker`)."""

    call: Call
    replica: Replica
    link: CallableLink
    request: Request
    attempt: Attempt
    stats: ReplicaStats
    taker: CallTaker | None  # None once it waits.
    believed: Believed

    def take(self, result: Json) -> bool:
        """As `ResultTaker`."""
        if type(result) is not RawObject or result.get("isError") is True:
            return False
        if not says_no_more(self.call.method, result) and not self._is_complete(result):
            return False
        if self.taker is None or not self.taker.take(result, self.replica):
            return False
        self.stats.ended_well(self.attempt, clock.now_s())
        self.request.started = None  # They refer to each other; else only the garbage collector would free them.
        return True

    def _is_complete(self, result: Json) -> bool:
        """Whether it is an answer and no more, and all that it says of itself is believed."""
        try:
            is_believed = self.believed(self.call, self.replica, result, self.link.view) is result
        except MeshError:  # Raised once more where it is an answer.
            return False
        return is_believed and result.get("resultType", "complete") == "complete"

    def wait(self) -> None:
        """As `ResultTaker`."""
        taker, self.taker = self.taker, None  # It refers to this; else only the garbage collector would free them.
        assert taker is not None, "it waits once"
        taker.wait()

    def answered(self) -> Coroutine[Any, Any, Json]:
        """Wait for the result of the attempt that went out. Raises as `CallableLink.request`."""
        assert self.request.started is not None, "it has gone out"
        assert self.request.started.go_on is not None, "its link has noted where"
        return self.request.started.go_on(self.request)

    def leave(self) -> None:
        """Have it gone on with in a task now, which its taker hears of before this returns."""
        assert self.request.started is not None, "it has gone out"
        self.request.started.wait()
