"""Large results of calls that may ask, in loop time: each part goes to the attempt that waits for it alone."""

import asyncio
from dataclasses import dataclass

import pytest

from agent.client.sessions.calls import PATIENCE_S
from agent.client.streaming import LargeResult, ResultStream
from agent.errors import AnswerCut
from agent.lossless_json.raw import Bytes
from agent.lossless_json.rewriter import JsonRewriter, Place
from agent.model import Json
from tests.unit.client.sessions.scripted_sessions import Server, call, client_to, retry

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]


@dataclass
class Client:
    """Takes what comes, each part within `pace_s`; one that has `gone` takes nothing after the beginning."""

    pace_s: float = 0.0
    gone: bool = False
    got: bytes = b""
    ended: bool = False

    async def _begin(self) -> bool:
        return True

    async def _part(self, part: Bytes) -> None:
        await asyncio.sleep(self.pace_s)
        if self.gone:
            raise ConnectionResetError("the client has gone")
        self.got += part

    async def _end(self) -> None:
        self.ended = True

    def large(self) -> LargeResult:
        return LargeResult(ResultStream(self._begin, self._part, self._end, {}), lambda: JsonRewriter(Place()))


async def begun(server: Server) -> None:
    """Let the server begin with its result, and time pass."""
    server.go_on.set()
    await asyncio.sleep(1)


async def test_a_result_that_begins_while_its_client_thinks_waits_for_the_retry() -> None:
    server, first, second = Server(), Client(), Client()
    async with client_to(server) as client:
        asked = await call(client, "ask and write", sink=first.large())
        assert asked["resultType"] == "input_required"
        await begun(server)
        assert (await call(client, "ask and write", sink=second.large(), **retry(asked)))["written"] is True
    assert (first.got, second.got, second.ended) == (b"", b"{}", True)


async def test_a_server_request_that_is_open_when_the_result_begins_is_not_reported_any_more() -> None:
    server, caller = Server(), Client()
    server.go_on.set()
    async with client_to(server) as client:
        result = await call(client, "write and ask", sink=caller.large())
        assert result["written"] is True
        assert caller.got == b"{}"


async def test_notifications_in_the_middle_of_a_result_are_dropped() -> None:
    server, caller, told = Server(), Client(), list[str]()

    async def hear(method: str, _: Json) -> None:
        told.append(method + (" late" if caller.got else ""))

    async with client_to(server) as client:
        server.go_on.set()
        await call(client, "write and tell", sink=caller.large(), on_notification=hear)
    assert told == ["notifications/before"]


async def test_an_attempt_that_takes_no_parts_gets_the_whole() -> None:
    server, first = Server(), Client()
    async with client_to(server) as client:
        asked = await call(client, "ask and write", sink=first.large())
        await begun(server)
        assert (await call(client, "ask and write", **retry(asked)))["written"] is False
    assert first.got == b""


async def test_a_reader_may_take_longer_than_the_calls_deadline_once_the_result_has_begun() -> None:
    server, caller = Server(), Client(pace_s=1000.0)
    server.go_on.set()
    async with client_to(server) as client:
        assert (await call(client, "write and ask", sink=caller.large(), timeout_s=10.0))["written"] is True


async def test_a_client_that_goes_in_the_middle_ends_its_call_and_leaves_the_session_usable_for_others() -> None:
    server, caller = Server(), Client(gone=True)
    server.go_on.set()
    async with client_to(server) as client:
        with pytest.raises(AnswerCut):
            await call(client, "write and ask", sink=caller.large())
        assert (await call(client, "quick"))["method"] == "tools/call"


async def test_a_result_that_no_attempt_fetches_is_given_up() -> None:
    server = Server()
    async with client_to(server) as client:
        await call(client, "ask and write", sink=Client().large())
        await begun(server)
        assert server.cancelled == 0
        await asyncio.sleep(PATIENCE_S)
        assert server.cancelled == 1
