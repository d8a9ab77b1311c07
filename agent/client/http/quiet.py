"""What a link at rest asks a stateless server, without a task: whether it lives, and whether a list is as it was.

Made by `agent.client.http.stateless` for its client. The one rule: it only ever says that all is as usual; whatever
else comes is asked for once more in the ordinary way, which judges it.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

from agent.client import jsonrpc
from agent.client.capabilities import ASKED_FOR_ALL
from agent.client.http.pool import HttpPool
from agent.client.http.repeated import Repeated
from agent.client.negotiation import DISCOVER, ModernStamp
from agent.errors import MeshError
from agent.model import PROBE_META_KEY, Json

PROBES_NODE: Final[Json] = {"_meta": {PROBE_META_KEY: True}}
# The requests of a client count from 1; those of one connection follow each other, so one number serves all of these.
_ID: Final = 0
# A few kinds of requests, each for one version and client name.
_KINDS_MAX: Final = 32


class QuietQuestions:
    """As those of `agent.client.protocol.Quiet`."""

    __slots__ = ("_asked", "_pool", "_stamp", "_to_node")

    def __init__(self, pool: HttpPool, stamp: ModernStamp, *, to_node: bool) -> None:
        self._pool, self._stamp, self._to_node = pool, stamp, to_node
        self._asked: tuple[Repeated, ...] = ()  # Two or three; a dict takes as much as one of them.

    def __repr__(self) -> str:
        return f"<QuietQuestions {self._asked!r}>"

    def probe(self, takes: Callable[[Json], None], heard: Callable[[bool], None]) -> Callable[[], None] | None:
        """As what `Quiet.prober` returns. `takes`: takes another answer, or raises what is wrong.

        It is not kept beyond the answer: it is a part of what these questions are a part of.
        """

        def taken(result: Json) -> bool:
            takes(result)
            return True

        question = self._question(DISCOVER)
        return question.drop if question.ask(lambda body: _is_result(body, taken), heard) else None

    def list_again(
        self, method: str, is_known: Callable[[Json], bool], heard: Callable[[bool], None]
    ) -> Callable[[], None] | None:
        """As `Quiet.list_quietly`. A node tells of its changes."""
        if self._to_node:
            return None
        question = self._question(method)
        return question.drop if question.ask(lambda body: _is_result(body, is_known), heard) else None

    def forget(self, method: str) -> None:
        """The same was asked the ordinary way, so that the last answer to a question here may not be what is known."""
        for question in self._asked:
            if question.method == method:
                question.forget()

    def _question(self, method: str) -> Repeated:
        for question in self._asked:
            if question.method == method:
                return question
        body, headers = _request(self._stamp, method, to_node=self._to_node)
        question = Repeated(self._pool, method, headers, body)
        self._asked = (*self._asked, question)
        return question


def _is_result(body: bytes, judged: Callable[[Json], bool]) -> bool:
    try:
        message = jsonrpc.decode(body)
        return jsonrpc.answered(message) == _ID and judged(jsonrpc.result_of(message))
    except MeshError:
        return False


@lru_cache(maxsize=_KINDS_MAX)
def _request(stamp: ModernStamp, method: str, *, to_node: bool) -> tuple[bytes, Mapping[str, str]]:
    """Body and headers, the same for all servers."""
    params = stamp.params(PROBES_NODE if to_node else ASKED_FOR_ALL)
    return jsonrpc.encode_request(_ID, method, params), stamp.headers(method, params)
