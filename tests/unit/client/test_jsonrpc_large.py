"""What a server says in a large message that is not worth reading: told by its beginning and its end."""

import orjson
import pytest

from agent.client import jsonrpc
from agent.client.jsonrpc import ASKED_VALUES_MAX, NOTIFICATION_BYTES_MAX, decode, is_too_large, result_of
from agent.errors import AnswerUnreadable

MANY = b"[%s1]" % (b"1," * 200_000)
LONG = b'"%s"' % (b"x" * 400_000)
SPELLINGS = [
    b'{"jsonrpc":"2.0","id":"q1","method":"sampling/createMessage","params":{"x":%s}}',
    b'{"method":"sampling/createMessage","params":{"x":%s},"jsonrpc":"2.0","id":"q1"}',
    b' { "jsonrpc": "2.0", "method": "sampling/createMessage", "params": {"x": %s}, "id": "q1" }\n',
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_question_of_too_many_values_becomes_one_that_no_client_knows(spelling: bytes) -> None:
    asked = decode(spelling % MANY)
    method = f"sampling/createMessage of more than {ASKED_VALUES_MAX} values"
    assert asked == {"jsonrpc": "2.0", "id": "q1", "method": method}
    assert jsonrpc.is_request(asked)
    assert decode(spelling % LONG) == orjson.loads(spelling % LONG)


REQUESTS = b'"inputRequests":{"a":{"method":"roots/list","params":{"x":%s}}}'
ASKING = [
    b'{"resultType":"input_required",%s}' % REQUESTS,
    b'{%s,"resultType":"input_required"}' % REQUESTS,
    b'{"resultType":"complete","taskId":"t","status":"input_required",%s}' % REQUESTS,
]
# Within a schema, or a table of words, they are what a tool tells.
TELLING = b'{"schema":{"inputRequests":{"enum":["input_required"]}},"x":%s}'
ANSWERS = [
    b'{"jsonrpc":"2.0","id":7,"result":%s}',
    b'{"id":7,"jsonrpc":"2.0","result":%s}',
    b'{"result":%s,"jsonrpc":"2.0","id":7}',
]


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("result", ASKING)
def test_an_answer_that_asks_for_input_of_too_many_values_fails_its_call(answer: bytes, result: bytes) -> None:
    with pytest.raises(AnswerUnreadable, match=f"asked for input of more than {ASKED_VALUES_MAX} values"):
        result_of(decode(answer % (result % MANY)))
    assert result_of(decode(answer % (result % LONG)))["inputRequests"].keys() == {"a"}
    assert result_of(decode(answer % (b'{"tools":%s}' % MANY)))["tools"][0] == 1


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("rest", [b"", b',"resultType":"complete"', b',"inputRequests":{}', b',"status":"working"'])
def test_a_result_that_tells_of_asking_is_read_however_many_values_it_has(answer: bytes, rest: bytes) -> None:
    told = b'{"content":[],"structuredContent":%s%s}' % (TELLING % MANY, rest)
    assert len(result_of(decode(answer % told))["structuredContent"]["x"]) == 200_001


def test_what_speaks_of_asking_and_is_no_json_fails_as_such() -> None:
    told = b'{"content":[],"structuredContent":%s,"mean":NaN,}' % (TELLING % MANY)
    with pytest.raises(AnswerUnreadable, match="not JSON: NaN"):
        result_of(decode(ANSWERS[0] % told))


def test_what_shows_no_id_where_it_should_be_is_read() -> None:
    odd = b'{"method":"sampling/createMessage","id":"q1","params":{"x":%s}}' % MANY
    assert decode(odd)["params"]["x"][0] == 1


def test_only_a_notification_of_too_many_bytes_is_too_large() -> None:
    long = b'"%s"' % (b"x" * NOTIFICATION_BYTES_MAX)
    for begin in (b'{"jsonrpc":"2.0","method":"notifications/message"', b' {"method" : "notifications/message"'):
        assert is_too_large(begin + b',"params":{"data":%s}}' % long)
        assert not is_too_large(begin + b',"params":{"data":1}}')
    assert not is_too_large(b'{"jsonrpc":"2.0","id":1,"method":"notifications/message","params":{"data":%s}}' % long)
    assert not is_too_large(b'{"jsonrpc":"2.0","id":1,"result":{"data":%s}}' % long)
