"""A request that went out without a task: its answer is taken as it comes, or waited for after all.

Made by `agent.client.http.stateless` for what is usual, which is most calls: a task, its turns in the event loop and
the coroutines in it cost more than the rest of a call. The one rule: a request that went out is in one place, taken
here or waited for by the pool's `post`, and is never sent again by either.
"""

from typing import TYPE_CHECKING, Any, Final

from multidict import CIMultiDict, CIMultiDictProxy

from agent.client.http.answer import WholeAnswer
from agent.client.http.connection import Connection
from agent.client.http.proofs import proven, proving
from agent.client.http.received import Response
from agent.client.http.request import RequestBody
from agent.client.protocol import Request, ResultTaker
from agent.identity.association import PROOF_HEADER, Association
from agent.lossless_json.raw import read_response

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from agent.model import Json

# A server that answers in parts, or as a stream of events, does so for each call; each try costs a tenth of one.
_MISSES_MAX: Final = 8
_TRIED_EVERY: Final = 64


class Habit:
    """Whether the answers of a server come whole, so that it is worth while to start requests.

    `misses`: how many in a row had to be waited for.
    """

    __slots__ = ("_skipped", "misses")

    def __init__(self) -> None:
        self.misses = self._skipped = 0

    def is_worth_trying(self) -> bool:
        """Whether to start the next request."""
        if self.misses < _MISSES_MAX:
            return True
        self._skipped = (self._skipped + 1) % _TRIED_EVERY
        return self._skipped == 0


class StartedExchange:
    """One of them (`agent.client.protocol.Started`). For its connection, the one who takes the answer."""

    __slots__ = (
        "_association",
        "_connection",
        "_habit",
        "_number",
        "_taker",
        "_whole",
        "changes",
        "data",
        "go_on",
        "request_id",
    )

    def __init__(self, request_id: int, data: bytes, taker: ResultTaker, habit: Habit) -> None:
        self.data = data
        self.request_id = request_id
        self.changes = 0
        self.go_on: Callable[[Request], Coroutine[Any, Any, Json]] | None = None
        self._taker = taker
        self._habit = habit
        self._connection: Connection | None = None
        self._association: Association | None = None
        self._number = 0
        self._whole: WholeAnswer | None = None

    def __repr__(self) -> str:
        return f"<StartedExchange {self.request_id}>"

    def goes_out(self, connection: Connection, association: Association | None, head: bytes) -> None:
        """Send it. `head`: but for its end."""
        self._connection, self._association = connection, association
        whole_head, self._number = (head + b"\r\n", 0) if association is None else proving(head, association)
        connection.start(whole_head, self.data, self)

    def take(self, answer: WholeAnswer) -> None:
        """As `agent.client.http.connection.Taker`."""
        self._connection, self._whole = None, answer
        association, proof = self._association, answer.proof
        is_proven = association is None or (proof is not None and association.is_answer(self._number, proof))
        response = read_response(answer.body, self.request_id) if is_proven else None
        if response is not None and response["id"] == self.request_id and self._taker.take(response["result"]):
            self._habit.misses = 0
        else:  # It is read once more, by those who know what it means.
            self.wait()

    def wait(self) -> None:
        """As `agent.client.http.connection.Taker`, and as `agent.client.protocol.Started`."""
        self._habit.misses += 1
        if self._connection is not None:
            self._connection.wait()
        self._taker.wait()

    def body(self) -> RequestBody:
        """Its request as one that has gone out, for `HttpPool.post`, which waits for the answer. To be called once."""
        body = RequestBody(self.data)
        body.sent, body.begun = True, self._answer
        return body

    async def _answer(self) -> Response:
        """For `HttpPool.post`: the answer that there is, or that will come. Raises as `Connection.exchange`."""
        if self._whole is not None:
            head, body, proof, _ = self._whole
            headers = CIMultiDict(head.headers)
            if proof is not None:
                headers[PROOF_HEADER] = proof
            response = Response(head.status, CIMultiDictProxy(headers), body)
        else:
            assert self._connection is not None, "it went out"
            response = await self._connection.answer()
        return proven(response, self._association, self._number)
