"""Large answers of a caller go to a server with sessions as they were written, but for what is ours."""

import orjson
import pytest

from agent.client.jsonrpc import encode_result
from agent.client.sessions.calls import answers_of
from agent.client.sessions.client_tasks import ClientTasks
from agent.errors import RpcError
from agent.lossless_json.unread import BESIDE, Unread
from agent.tasks.versions import with_related_task

ROWS = b"[%s1.50]" % (b"1.50 ," * 20_000)


async def test_a_large_answer_stays_as_it_was_written_without_its_result_type() -> None:
    answer = b'{"resultType":"complete","x":%s,"_meta":{"a":1},"x":1e400}' % ROWS
    given = Unread(b'{"q":%s,"small":{"resultType":"complete","b":2.0},"unknown":%s}' % (answer, ROWS))
    answers = await answers_of({"inputResponses": given}, ["q", "small", "z"])
    assert answers["small"] == {"b": 2.0}
    assert answers["q"].keys() == {"_meta", BESIDE}
    sent = encode_result("id", answers["q"])
    assert b'"x":%s,' % ROWS in sent
    assert sent.startswith(b'{"jsonrpc":"2.0","id":"id","result":{"_meta":{"a":1},')
    assert b"1e400" in sent
    assert b"resultType" not in sent
    of_task = orjson.loads(encode_result(1, with_related_task(answers["q"], "t")).replace(b"1e400", b"1"))
    assert of_task["result"]["_meta"].keys() == {"a", "io.modelcontextprotocol/related-task"}


async def test_a_large_meta_of_an_answer_goes_to_the_task_that_asked_as_it_was_written() -> None:
    meta = b'{"io.modelcontextprotocol/related-task":{"taskId":"x"},"rows":%s,"big":1e400}' % ROWS
    given = Unread(b'{"q":{"resultType":"complete","action":"accept","_meta":%s}}' % meta)
    answers = await answers_of({"inputResponses": given}, ["q"])
    task = ClientTasks().begin({})
    assert task is not None
    task.waiting.append(7)
    (sent,) = task.settle(answers["q"], "completed")
    assert b'"rows":%s,"big":1e400' % ROWS in sent
    assert orjson.loads(sent.replace(b"1e400", b"1")) == {
        "jsonrpc": "2.0",
        "id": 7,
        "result": {
            "action": "accept",
            "_meta": {
                "io.modelcontextprotocol/related-task": {"taskId": task.task_id},
                "rows": [1.5] * 20_001,
                "big": 1,
            },
        },
    }
    assert b'"taskId":"x"' in encode_result(7, answers["q"]), "one that answers no task passes whole"


async def test_a_large_meta_that_is_no_object_makes_room_for_the_task() -> None:
    answers = await answers_of({"inputResponses": Unread(b'{"q":{"_meta":%s}}' % ROWS)}, ["q"])
    assert with_related_task(answers["q"], "t") == {"_meta": {"io.modelcontextprotocol/related-task": {"taskId": "t"}}}


@pytest.mark.parametrize("given", [b'{"q":%s}' % ROWS, b"[%s]" % ROWS])
async def test_large_answers_that_are_no_objects_are_refused(given: bytes) -> None:
    with pytest.raises(RpcError, match="must be an object of results"):
        await answers_of({"inputResponses": Unread(given)}, ["q"])
