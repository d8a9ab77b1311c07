"""An answer as it is received: its head, and its body while it comes.

Made by `agent.client.http.connection`, read by the clients. The one rule: what a reader has got of a body came in its
order and whole up to there; a body that breaks off ends with an error, never as if it were complete.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Protocol, Self

from agent.client.http.answer import ANSWER_GIVEN_UP, ConnectionBroken
from agent.client.http.coding import CODINGS, BadCoding, Unpacker, coding_of
from agent.errors import ProtocolBroken

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy


class Source(Protocol):
    """The connection that an answer comes from."""

    def finish(self) -> None:
        """The answer is complete."""
        ...

    def abort(self, failure: ConnectionBroken) -> None:
        """The rest of it is given up."""
        ...

    def resume_reading(self) -> None:
        """Its reader has taken what there was."""
        ...


class Response:
    """An answer, from the moment its head is there. Its body is read as it comes; `status` is 200 to 999.

    The connection goes back by itself when the body is complete; a reader that stops early calls `close`. Where the
    body is compressed (`unpack`), `more` and `read` give what it was. For one reader.
    """

    __slots__ = (
        "_connection",
        "_failure",
        "_parts",
        "_unpacker",
        "_waiting",
        "headers",
        "is_complete",
        "status",
        "unread_bytes",
        "whole",
    )

    def __init__(self, status: int, headers: "CIMultiDictProxy[str]", whole: bytes | None = None) -> None:
        """`whole`: the body of a usual answer (`agent.client.http.answer`) that has come with its head."""
        self.status = status
        self.headers = headers
        self.whole = whole
        self.is_complete = whole is not None
        self.unread_bytes = 0
        self._connection: Source | None = None
        self._failure: ConnectionBroken | None = None
        self._parts: list[bytes] = [] if whole is None else [whole]
        self._unpacker: Unpacker | None = None
        self._waiting: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Response {self.status} {'closed' if self.closed else 'open'}>"

    @property
    def closed(self) -> bool:
        """Whether it holds no connection any more: the body is complete, or the rest was given up."""
        return self._connection is None

    @property
    def content_type(self) -> str:
        """The media type in lower case, without parameters; empty when there is none."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def content_length(self) -> int | None:
        """The declared length in bytes; None for a body that is compressed, chunked or ends with the connection."""
        declared = self.headers.get("Content-Length") if self._unpacker is None else None
        return int(declared) if declared is not None else None

    @property
    def source(self) -> Source | None:
        """The connection that the rest of the body comes over, as it is; None where that is compressed or over."""
        return self._connection if self._unpacker is None else None

    def hand_over(self) -> list[bytes]:
        """Leave the rest, and the connection, to another reader; returns what has come of it."""
        unread, self._parts, self._connection = self._parts, [], None
        return unread

    def unpack(self, coding: str) -> None:
        """Undo one of `CODINGS`; before anything is read."""
        self._unpacker = Unpacker(coding)

    def plain(self, where: str) -> Self:
        """The same, unpacked while it is read where it is compressed. Raises `ProtocolBroken`: as was not offered."""
        coding = coding_of(self.headers.get("Content-Encoding", ""))
        if coding in CODINGS:
            self.unpack(coding)
        elif coding and self.status == 200:  # noqa: PLR2004 - a refusal is judged by its status
            self.close()
            what = "answers compressed in a way that it was not offered"
            raise ProtocolBroken.about(where, what, f" ({coding[:40]!r})")
        return self

    async def more(self) -> bytes:
        """What has come of the body since, waiting for some; empty at its end. Raises `ConnectionBroken`."""
        while True:
            if self._unpacker is not None and (part := self._unpacked(self._unpacker)):
                await asyncio.sleep(0)  # A small body may be a large one: others have their turn.
                return part
            while not self._parts and not self.is_complete and self._failure is None:
                self._waiting = asyncio.get_running_loop().create_future()
                try:
                    await self._waiting
                finally:
                    self._waiting = None
            taken = self._taken()
            if self._unpacker is None or not taken:
                return taken
            self._unpacker.feed(taken)

    def _unpacked(self, unpacker: Unpacker) -> bytes:
        try:
            return unpacker.part()
        except BadCoding as exc:
            self.close()
            raise ConnectionBroken(str(exc)) from exc

    async def read(self) -> bytes:
        """The whole body, of a size that the caller knows. Raises `ConnectionBroken`."""
        if self._unpacker is None and self.is_complete:
            return self._taken()
        return b"".join([part async for part in self._all_parts()])

    async def _all_parts(self) -> AsyncIterator[bytes]:
        while part := await self.more():
            yield part

    def _taken(self) -> bytes:
        if self._failure is not None:
            raise self._failure
        taken = b"".join(self._parts)
        self._parts.clear()
        self.unread_bytes = 0
        if self._connection is not None:
            self._connection.resume_reading()
        return taken

    # From the connection

    def begin(self, connection: Source) -> None:
        """The request's caller has it now; it may be complete already."""
        self._connection = connection
        if self.is_complete or self._failure is not None:
            self.release()

    def feed(self, parts: list[bytes]) -> None:
        """Take more of the body."""
        self._parts += parts
        self.unread_bytes += sum(map(len, parts))
        self._wake()

    def complete(self) -> None:
        """The body is over."""
        self.is_complete = True
        self._wake()
        if self._connection is not None:
            self.release()

    def fail(self, failure: ConnectionBroken) -> None:
        """The rest of the body will not come."""
        self._failure = failure
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def release(self) -> None:
        """Give the connection back when the body is complete, else close it."""
        if self.is_complete:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.finish()
        else:
            self.close()

    def close(self) -> None:
        """Give up the rest; a reader still waiting gets `ConnectionBroken`. Harmless at any time."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort(ConnectionBroken(ANSWER_GIVEN_UP))
