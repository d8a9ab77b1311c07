"""Which answers are passed on while they come, what is handed on of them, and what breaks them off."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from agent.client.http.sse import SseParser
from agent.client.streaming import STALL_TIMEOUT_S, LargeResult, ResultStream, pass_on, result_rewriter
from agent.errors import AnswerCut, CallOutcomeUnknown
from agent.lossless_json.raw import Bytes
from agent.model import Json
from agent.routing.uris import UriCodec

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]

FIRST = b'{"jsonrpc":"2.0","id":7,"result":'
BEGUN = FIRST + b'{"content":[{"type":"resource_link","uri":"notes://a"},'


@dataclass
class Client:
    """Takes parts; `refuses` them, or is one that has gone after the first."""

    refuses: bool = False
    begun: int = 0
    got: bytes = b""
    ended: bool = False

    async def begin(self) -> bool:
        self.begun += not self.refuses
        return not self.refuses

    async def part(self, part: Bytes) -> None:
        self.got += part

    async def end(self) -> None:
        self.ended = True

    def large(self, **added: Any) -> LargeResult:
        sink = ResultStream(self.begin, self.part, self.end, added)
        return LargeResult(sink, lambda: result_rewriter(UriCodec("kit").places("tools/call"), added))


@dataclass
class Rest:
    """What comes after the part that is held; an exception ends it, and None is silence."""

    parts: list[bytes | Exception | None] = field(default_factory=list)

    async def more(self) -> bytes:
        part = self.parts.pop(0) if self.parts else b""
        if part is None:
            await asyncio.Event().wait()
        if isinstance(part, Exception):
            raise part
        return part or b""


async def passed(held: bytes, *rest: bytes | Exception | None, caller: Client | None = None) -> Json | None:
    return await pass_on(held, Rest(list(rest)), 7, "server", (caller or Client()).large())


async def test_a_result_goes_on_with_its_uris_named_for_clients_and_what_they_need_at_its_end() -> None:
    caller = Client()
    rest = Rest([b'{"type":"text","text":"notes://', b'b"}],"isError":true', b" } ", b"}", b" \n"])
    message = await pass_on(BEGUN, rest, 7, "server", caller.large(resultType="complete"))
    assert message == {"jsonrpc": "2.0", "id": 7, "result": {"resultType": "complete", "isError": True}}
    assert json.loads(caller.got) == {
        "content": [{"type": "resource_link", "uri": "notes://kit/a"}, {"type": "text", "text": "notes://b"}],
        "isError": True,
        "resultType": "complete",
    }
    assert caller.ended


@pytest.mark.parametrize(
    "held",
    [
        b'{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"',
        b'{"jsonrpc":"2.0","id":8,"result":{"content":[',
        b'{"jsonrpc":"2.0","method":"notifications/message","params":{"content":["',
        FIRST + b'{"resultType":"input_required","inputRequests":{"a":"',
        FIRST + b'{"content":[],"resultType":"input_required","inputRequests":{"a":"',
        FIRST + b'{"resultType":"task","taskId":"',
        FIRST + b'{"_meta":{"more":"',
        FIRST + b'{"resultTy',
        FIRST + b'{"content":[}',
        FIRST + b'{"content":[]}' + b" " * 300,
        FIRST + b'["content"',
    ],
)
async def test_what_does_not_show_that_it_is_a_complete_result_is_left_to_be_read_whole(held: bytes) -> None:
    caller = Client()
    assert await passed(held, b"never read", caller=caller) is None
    assert caller.begun == 0


async def test_a_client_that_takes_no_parts_gets_the_whole() -> None:
    assert await passed(BEGUN, b"never read", caller=Client(refuses=True)) is None


@pytest.mark.parametrize(
    "rest",
    [
        [b'1],"resultType":"input_required"}', b"}"],
        [b"1]},", b'"id":7,"result":{}}'],
        [b"1]}"],
        [b"1]"],
        [b"1}]}}"],
        [b"1]}}", b" " * 100],
        [b"1", CallOutcomeUnknown("reset")],
        [CallOutcomeUnknown("reset")],
    ],
)
async def test_what_turns_out_to_be_something_else_is_cut(rest: list[bytes | Exception | None]) -> None:
    caller = Client()
    with pytest.raises(AnswerCut):
        await passed(BEGUN, *rest, caller=caller)
    assert (caller.begun, caller.ended) == (1, False)


@pytest.mark.parametrize("last", [b'"jsonrpc":"2.0","id":7}', b'"jsonrpc":"2.0","id":8}', b'"id":7}'])
async def test_a_result_that_comes_first_is_judged_by_the_id_behind_it(last: bytes) -> None:
    caller = Client()
    passing = passed(b'{"result":{"content":[', b'"a"]},', last, caller=caller)
    if last == b'"jsonrpc":"2.0","id":7}':
        assert await passing is not None
        assert caller.got == b'{"content":["a"]}'
    else:
        with pytest.raises(AnswerCut):
            await passing


async def test_silence_in_the_middle_is_cut_after_a_while() -> None:
    began_at_s = asyncio.get_running_loop().time()
    with pytest.raises(AnswerCut):
        await passed(BEGUN, b"1,", None)
    assert asyncio.get_running_loop().time() - began_at_s == pytest.approx(STALL_TIMEOUT_S, abs=1)


async def test_a_client_that_is_slow_is_no_silence_of_the_server() -> None:
    class Slow(Client):
        async def part(self, part: Bytes) -> None:
            await asyncio.sleep(10 * STALL_TIMEOUT_S)
            await super().part(part)

    caller = Slow()
    assert await passed(BEGUN, b"1,2", b"]}}", caller=caller) is not None
    assert caller.ended


@pytest.mark.parametrize(
    ("stream", "begun"),
    [
        (b"data: {1", b"{1"),
        (b"event: message\r\nid: 5\r\ndata:{1", b"{1"),
        (b"data: 0\n\ndata: {1", b"{1"),
        (b"data: 0\ndata: {1", None),
        (b"event: other\ndata: {1", None),
        (b"retry: 10", None),
        (b"dat", None),
    ],
)
async def test_only_the_single_line_of_a_message_that_has_begun_can_be_passed_on(
    stream: bytes, begun: bytes | None
) -> None:
    for cut in range(1, len(stream)):
        parser = SseParser(1000)
        parser.feed(stream[:cut])
        parser.feed(stream[cut:])
        assert parser.begun_data() == begun
    whole = SseParser(1000)
    whole.feed(stream)
    whole.begun_data()
    assert whole.feed(b"2}\n\n") == ([begun + b"2}"] if begun is not None else _else(stream))


def _else(stream: bytes) -> list[bytes]:
    """To look at what has begun costs the parser nothing."""
    parser = SseParser(1000)
    return parser.feed(stream + b"2}\n\n")
