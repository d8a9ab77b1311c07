"""A stream of list changes that is read as its bytes come, by no task: a link holds one for hours, and it says nothing.

Made by `agent.client.http.stateless` when the other side has acknowledged the subscription. The one rule: it ends with
exactly one failure, the same that a reader in a task would have had, unless its holder drops it.
"""

import asyncio
from collections.abc import Callable
from typing import Self

from agent.client import jsonrpc
from agent.client.http.answer import ANSWER_GIVEN_UP, BadAnswer, Body, ConnectionBroken, NotHttp
from agent.client.http.connection import Connection
from agent.client.http.pool import HttpPool
from agent.client.http.response import MessageStream
from agent.client.http.silence import is_silence
from agent.client.http.sse import EventTooLarge, SseParser
from agent.client.server_info import listen_failure
from agent.client.streams import Listening
from agent.errors import CallOutcomeUnknown, MeshError, ProtocolBroken, RpcError, Unreachable
from agent.model import Json


class HeldStream(asyncio.Protocol):
    """See the module. It reads from the connection in that one's place."""

    __slots__ = ("_body", "_connection", "_ended", "_listening", "_parser", "_pool")

    def __init__(
        self,
        connection: Connection,
        body: Body,
        parser: SseParser,
        listening: Listening,
        *,
        pool: HttpPool,
        ended: Callable[[MeshError], None],
    ) -> None:
        self._connection: Connection | None = connection
        self._body, self._parser, self._listening, self._pool = body, parser, listening, pool
        self._ended = ended

    def __repr__(self) -> str:
        return f"<HeldStream of {self._pool.where}{'' if self._connection else ', over'}>"

    @classmethod
    def of(
        cls, stream: MessageStream, listening: Listening, pool: HttpPool, ended: Callable[[MeshError], None]
    ) -> Self | None:
        """Read the rest of a stream from here on, and call `ended` with its failure; None where that cannot be done.

        A compressed one cannot, nor one that has ended already. Its complete messages have been taken.
        """
        response = stream.response
        connection = response.source
        if not isinstance(connection, Connection) or (body := connection.body) is None:
            return None
        held = cls(connection, body, stream.parser, listening, pool=pool, ended=ended)
        if connection.lend(held) is None:
            return None
        held._feed(response.hand_over())
        return held

    def drop(self) -> None:
        """End it, without a word."""
        self._over()

    # Callbacks of the event loop

    def data_received(self, data: bytes) -> None:
        """As `asyncio.Protocol`."""
        if self._connection is None:
            return
        try:
            parts, rest = self._body.fed(data)
        except BadAnswer as exc:
            self._fail(self._broken(NotHttp(f"does not speak HTTP: {exc}")))
            return
        self._feed(parts)
        if rest:
            self._fail(self._broken(NotHttp("sent more than one answer to a request")))
        elif self._body.is_over:
            self._fail(Unreachable(f"{self._pool.where} ended the stream of changes"))

    def connection_lost(self, exc: Exception | None) -> None:
        """As `asyncio.Protocol`."""
        if self._connection is not None:
            self._connection.connection_lost(exc)
        if exc is None and self._body.may_end_with_connection:
            self._fail(Unreachable(f"{self._pool.where} ended the stream of changes"))
        else:
            broken = ConnectionBroken("broke off in the middle of its answer", silent=is_silence(exc))
            self._fail(self._broken(broken))

    # Its messages

    def _feed(self, parts: list[bytes]) -> None:
        try:
            for part in parts:
                for data in self._parser.feed(part):
                    self._take(jsonrpc.decode(data))
        except EventTooLarge as exc:
            what = "answered with an event that is too large"
            self._fail(ProtocolBroken.about(self._pool.where, what, f": {exc}"))
        except RpcError as exc:
            self._fail(listen_failure(exc))
        except MeshError as exc:
            self._fail(exc)

    def _take(self, message: Json) -> None:
        """Raises `MeshError` for what ends the stream."""
        if self._connection is None:
            return
        if "method" not in message:
            jsonrpc.result_of(message)
            raise Unreachable(f"{self._pool.where} ended the stream of changes")
        self._listening.take(message["method"], jsonrpc.params_of(message))

    def _broken(self, exc: ConnectionBroken) -> Unreachable:
        return Unreachable.because(self._pool.failure(CallOutcomeUnknown, exc))

    def _fail(self, failure: MeshError) -> None:
        if self._over():
            self._ended(failure)

    def _over(self) -> bool:
        """Close the connection; False where that was done before."""
        connection, self._connection = self._connection, None
        if connection is None:
            return False
        connection.reads_again()
        connection.abort(ConnectionBroken(ANSWER_GIVEN_UP))
        return True
