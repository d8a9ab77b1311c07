"""One request that is sent again and again, and whose answer is hardly ever another: no task waits for it.

Made by `agent.client.http.stateless` for what a link does all the time: its probe, and lists that it reads every half a
minute. Its bytes are ready but for the head, it takes the connection that was kept since the last one, and of an answer
only what differs from the last is read. The one rule: what is not usual at a glance is not judged here, and has to be
asked the ordinary way; a server that never answers in the usual way is always asked so.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias

from agent.client.http.answer import ANSWER_GIVEN_UP, BadAnswer, ConnectionBroken, parsed_head
from agent.client.http.pool import HttpPool
from agent.client.http.proofs import proving
from agent.identity.association import PROOF_HEADER, Association

if TYPE_CHECKING:
    from agent.client.http.connection import Connection

# A longer answer is read the ordinary way, piece by piece.
ANSWER_BYTES_MAX: Final = 256 * 1024
# So many answers in a row that were of no use here, and this way is not taken any more.
STRIKES_MAX: Final = 3

# Gets whether the answer was the one of the last time, or was judged to say nothing else.
Heard: TypeAlias = Callable[[bool], None]
# Whether the body of another answer says nothing else than what is known.
Judge: TypeAlias = Callable[[bytes], bool]

_END: Final = b"\r\n\r\n"
_DATE: Final = b"Date"
_DATE_BYTES: Final = len("Sun, 06 Nov 1994 08:49:37 GMT")
_PROOF: Final = PROOF_HEADER.encode()


class Repeated(asyncio.Protocol):
    """See the module. It reads from the connection in that one's place from a request to its answer."""

    __slots__ = (
        "_association",
        "_body",
        "_connection",
        "_data",
        "_head",
        "_headers",
        "_heard",
        "_judge",
        "_length",
        "_number",
        "_pool",
        "_said",
        "_strikes",
        "method",
    )

    def __init__(self, pool: HttpPool, method: str, headers: Mapping[str, str], body: bytes) -> None:
        self._pool, self.method, self._headers, self._body = pool, method, headers, body
        self._connection: Connection | None = None
        self._heard: Heard | None = None
        self._judge: Judge | None = None
        self._association: Association | None = None
        self._number = 0
        self._data = b""
        # Of the last answer: hashes, for bytes would take more memory than all the rest.
        self._head: int | None = None
        self._said: int | None = None
        self._length = 0
        self._strikes = 0

    def __repr__(self) -> str:
        """What it waits for, and how often in a row it did so in vain."""
        return f"<Repeated {'waits' if self._heard else 'rests'} strikes={self._strikes}>"

    def ask(self, judge: Judge, heard: Heard) -> bool:
        """Send it, and have `heard` called once when there is an answer; False where that cannot be done now."""
        if self._heard is not None or self._strikes >= STRIKES_MAX:
            return False
        lent = self._pool.lend(self, self._headers, len(self._body))
        if lent is None:
            return False
        self._connection, transport, head, self._association = lent
        whole_head, self._number = proving(head, self._association)
        self._judge, self._heard = judge, heard
        transport.write(whole_head + self._body)
        return True

    def forget(self) -> None:
        """Judge the next answer, whatever it is: another one than the last that was heard here may be known by now."""
        self._said = None

    def drop(self) -> None:
        """Wait no longer."""
        if self._heard is not None:
            self._heard = self._judge = None
            self._give_up(ANSWER_GIVEN_UP)

    # Callbacks of the event loop

    def data_received(self, data: bytes) -> None:
        """As `asyncio.Protocol`."""
        if self._connection is None:
            return
        self._data = data = self._data + data
        is_whole, body = self._body_of(data)
        if not is_whole:
            return
        heard, judge, self._heard, self._judge = self._heard, self._judge, None, None
        is_well = False
        if body is None:
            self._strikes += 1
            self._give_up("did not answer in the usual way")
        else:
            self._give_back()
            said = hash(body)
            is_well = said == self._said or (judge is not None and judge(body))
            self._said, self._strikes = (said, 0) if is_well else (self._said, self._strikes + 1)
        if heard is not None:
            heard(is_well)

    def connection_lost(self, exc: Exception | None) -> None:
        """As `asyncio.Protocol`."""
        connection, self._connection, self._data = self._connection, None, b""
        heard, self._heard, self._judge = self._heard, None, None
        if connection is not None:
            connection.connection_lost(exc)
        if heard is not None:
            heard(False)

    # The answer

    def _body_of(self, data: bytes) -> tuple[bool, bytes | None]:
        """Whether all of the answer has come, and its body, None for what is not usual."""
        begins = data.find(_END) + len(_END)
        if begins < len(_END):
            return len(data) > ANSWER_BYTES_MAX, None
        head, proof = _without(data[:begins], _PROOF)
        head, date = _without(head, _DATE)
        is_dated = len(date) in (0, _DATE_BYTES) and b"\n" not in date
        usual = hash(head) if is_dated else None
        if usual is None or usual != self._head:
            length = self._parsed(data[:begins])
            if length is None:
                return True, None
            self._head, self._length = usual, length
        elif self._association is not None and not self._association.is_answer(self._number, proof.decode("latin-1")):
            return True, None
        ends = begins + self._length
        if len(data) < ends <= ANSWER_BYTES_MAX:
            return False, None
        return True, data[begins:] if len(data) == ends else None

    def _parsed(self, head: bytes) -> int | None:
        """The length of the body that follows, None where the head is not usual, or not of the node of before."""
        try:
            parsed = parsed_head(head)
        except BadAnswer:
            return None
        proof = parsed.headers.get(PROOF_HEADER, "")
        if self._association is not None and not self._association.is_answer(self._number, proof):
            return None
        return parsed.length if parsed.is_usual else None

    def _give_back(self) -> None:
        connection, self._connection, self._data = self._connection, None, b""
        assert connection is not None, "it was asked over one"
        self._pool.rests(connection)

    def _give_up(self, why: str) -> None:
        connection, self._connection, self._data = self._connection, None, b""
        if connection is not None:
            connection.reads_again()
            connection.abort(ConnectionBroken(why))


def _without(head: bytes, name: bytes) -> tuple[bytes, bytes]:
    """A head without the first field of that name, and the field's value; the head unchanged without such a field."""
    begins = head.find(b"\r\n" + name + b": ")
    if begins < 0:
        return head, b""
    ends = head.find(b"\r\n", begins + 2)
    return head[:begins] + head[ends:], head[begins + len(name) + 4 : ends]
