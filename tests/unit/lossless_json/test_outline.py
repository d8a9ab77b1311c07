"""A message is read by its outline as reading it whole finds it, and goes on with all that no node looks at."""

import ast
import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import mcp_terms, model
from agent.client.jsonrpc import encode_parts, encode_request, swap_progress_token
from agent.lossless_json import outline as module
from agent.lossless_json.envelope import read_message
from agent.lossless_json.exact import read_json
from agent.lossless_json.outline import CALLS, META_NAMES, PARAMS, BodyRefused, read_outline
from agent.lossless_json.unread import BESIDE, LOOKED_AT_BYTES_MAX, LOOKED_AT_VALUES_MAX, Unread, all_read
from agent.lossless_json.writable import writable
from tests.unit.lossless_json.test_members import JSON, NAMES, spelled
from tests.unit.lossless_json.test_writable import found

read_json(b"[1e400]")  # Raises Python's limit of recursion for good, which hypothesis would note in mid-test.
AGENT = Path(__file__).parents[3] / "agent"
KNOWN = st.sampled_from(["name", "arguments", "_meta", "requestState", "inputResponses", "task", "uri"])
META = st.dictionaries(NAMES | st.sampled_from(["progressToken", "mesh-agent/path", "x/y"]), JSON, max_size=4)
METHODS = st.sampled_from([*sorted(CALLS), "resources/read", "completion/complete", "tools/list", "odd"])


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A message with members of any names, some of them twice."""

    def member(name: str, text: str) -> str:
        return f"{spelled(name, draw(st.lists(st.integers(0, 3), max_size=4)))}:{text}"

    members = []
    for name, value in draw(st.lists(st.tuples(KNOWN | NAMES, JSON), max_size=8)):
        shown = draw(META) if name == "_meta" and draw(st.booleans()) else value
        members.append(member(name, json.dumps(shown, indent=draw(st.sampled_from([None, 1])))))
    params = f"{{{','.join(members)}}}"
    top = [member("method", json.dumps(draw(METHODS))), member("params", params), member("jsonrpc", '"2.0"')]
    top += [member("id", json.dumps(draw(st.integers() | st.text(max_size=2))))]
    top += [member(name, json.dumps(value)) for name, value in draw(st.lists(st.tuples(NAMES, JSON), max_size=3))]
    return "{{{}}}".format(",\r\n ".join(draw(st.permutations(top)))).encode()


def as_written(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def sent(params: Any) -> Any:
    """Params as a server gets them."""
    raw = encode_request(1, "m", params)
    assert b"".join(encode_parts(1, "m", params)) == raw
    assert b"\n" not in raw
    assert b"\r" not in raw
    return read_json(raw)["params"]


@given(body=messages(), stays=st.integers(0, 12))
def test_a_message_goes_out_as_reading_it_whole_sends_it(body: bytes, stays: int) -> None:
    whole = read_json(body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_READ_BYTES_MAX", stays)
        message = found(read_outline(body))
    assert isinstance(message, dict)
    assert as_written({**message, "params": 0}) == as_written(
        {"jsonrpc": "2.0", "id": whole["id"], "method": whole["method"], "params": 0}
    )
    is_odd = whole["method"] in CALLS and message["params"].get("arguments") == []
    if is_odd:  # Refused, whatever it holds.
        assert not isinstance(whole["params"]["arguments"], dict)
        return
    assert as_written(sent(message["params"])) == as_written(whole["params"])
    swapped, token = swap_progress_token(message["params"], 9)
    swapped_whole, token_whole = swap_progress_token(whole["params"], 9)
    assert as_written(sent(swapped)) == as_written(swapped_whole)
    assert type(token) is type(token_whole)
    for name in PARAMS & message["params"].keys():
        if not isinstance(message["params"][name], Unread) and name != "_meta":
            assert as_written(message["params"][name]) == as_written(whole["params"][name])
    known = {name: value for name, value in whole["params"].items() if name in PARAMS | {"arguments"}}
    if all(not isinstance(one, dict) or BESIDE not in one for one in (message["params"].get("_meta"),)):
        kept = {name: value for name, value in all_read(message["params"]).items() if name in known}
        assert as_written(kept) == as_written({name: known[name] for name in kept})


DAMAGE = st.sampled_from(
    [
        *(bytes([code]) for code in range(128)),
        b"\xff",
        b"\xed\xa0\x80",
        b"\\u",
        b"\\ud83d",
        b"1e999",
        b"]}",
        b"\\\\",
        b"{}",
    ]
)


@given(
    body=messages(),
    cuts=st.lists(st.tuples(st.integers(0), st.integers(0, 3), DAMAGE), min_size=1, max_size=3),
    stays=st.integers(0, 12),
)
def test_nothing_passes_damaged_that_the_reader_refuses_or_reads_otherwise(
    body: bytes, cuts: list[tuple[int, int, bytes]], stays: int
) -> None:
    for place, dropped, put in cuts:
        at = place % len(body)
        body = body[:at] + put + body[at + dropped :]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_READ_BYTES_MAX", stays)
        try:
            message = found(read_message(body))
        except BodyRefused:
            return
    if not isinstance(message, dict):
        return
    whole = read_json(body)  # Raises within where the whole is refused.
    assert isinstance(whole, dict)
    params = message.pop("params", None)
    assert as_written(message) == as_written({name: whole[name] for name in message})
    if not isinstance(params, dict) or params.get("arguments") == []:
        # What has no method is an answer, if it is anything, and has no params to look at.
        assert type(params) is type(whole.get("params") if isinstance(whole.get("method"), str) else None)
        return
    assert as_written(sent(params)) == as_written(whole["params"])


def looked_at_in(tree: ast.AST, holders: set[str]) -> set[str]:
    """The names of members that are looked up in what is called so."""
    names: set[str] = set()

    def is_held(node: ast.expr) -> bool:
        return (isinstance(node, ast.Name) and node.id in holders) or (
            isinstance(node, ast.Attribute) and node.attr in holders
        )

    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=of, attr="get"), args=[ast.Constant(value=str(name)), *_]) if (
                is_held(of)
            ):
                names.add(name)
            case ast.Subscript(value=of, slice=ast.Constant(value=str(name))) if is_held(of):
                names.add(name)
            case ast.Compare(left=ast.Constant(value=str(name)), ops=[ast.In() | ast.NotIn()], comparators=[of]) if (
                is_held(of)
            ):
                names.add(name)
    return names


# Of messages that no client sends here: from servers, to clients, between nodes; and initialize, which is never large.
_OTHERS = {
    *("event", "sessions", "server", "canBeAsked", "status", "progressToken", "mode", "elicitationId", "tools"),
    *("toolChoice", "method", "params", "capabilities", "clientInfo", "protocolVersion", "arguments"),
}


def test_all_that_a_node_looks_at_in_params_is_read_of_large_ones() -> None:
    rooms = ("server", "dispatch", "client", "routing", "tasks", "tracing", "subscriptions", "links")
    looked_at: set[str] = set()
    for room in rooms:
        for file in (AGENT / room).rglob("*.py"):
            looked_at |= looked_at_in(ast.parse(file.read_text()), {"params", "sent_params"})
    assert {"name", "uri", "taskId", "requestState"} <= looked_at
    assert looked_at - PARAMS - _OTHERS == set()


def test_all_that_requests_have_in_meta_for_a_node_is_read_of_large_ones() -> None:
    keys = {
        value
        for room in (model, mcp_terms)
        for name, value in vars(room).items()
        if name.endswith("_META_KEY") and isinstance(value, str)
    }
    of_results = {
        *(model.ORIGIN_META_KEY, model.ERROR_META_KEY, model.PENDING_META_KEY, model.CHANGE_META_KEY),
        mcp_terms.SERVER_INFO_META_KEY,
    }
    assert keys - of_results <= META_NAMES


def refused(body: bytes, **more: int) -> str:
    with pytest.raises(BodyRefused) as refusal:
        found(read_message(body, **more))
    assert refusal.value.status == 413
    return str(refusal.value)


def message_with(params: bytes, method: bytes = b"tools/call", more: bytes = b"") -> bytes:
    return b'{"jsonrpc":"2.0","id":1,"method":"%s","params":%s%s}' % (method, params, more)


CROWD = b",".join(b'"m%d":[%d]' % (number, number) for number in range(30_000))


@pytest.mark.parametrize("method", [b"tools/call", b"resources/read"])
def test_a_crowd_of_members_goes_on_and_none_of_them_is_read(method: bytes) -> None:
    params = b'{"name":"a",%s,"_meta":{"progressToken":1,%s}}' % (CROWD, CROWD)
    body = message_with(params, method, b"," + CROWD)
    assert found(writable(body))
    message = found(read_message(body))
    assert isinstance(message, dict)
    assert message.keys() == {"jsonrpc", "id", "method", "params"}
    assert message["params"].keys() == {"name", "_meta", BESIDE}
    assert message["params"]["_meta"].keys() == {"progressToken", BESIDE}
    assert sent(message["params"]) == orjson.loads(params)


@pytest.mark.parametrize("name", sorted(PARAMS - {"_meta", "inputResponses", "argument"}))
def test_what_a_node_looks_at_has_limits_of_bytes_and_of_values(name: str) -> None:
    for value, limit in (
        (b'"%s"' % (b"x" * LOOKED_AT_BYTES_MAX), f"{LOOKED_AT_BYTES_MAX} bytes"),
        (b"[%s]" % b",".join([b"1"] * (LOOKED_AT_VALUES_MAX + 1)), f"{LOOKED_AT_VALUES_MAX} values"),
    ):
        refusal = refused(message_with(b'{"%s":%s,%s}' % (name.encode(), value, CROWD)))
        assert f"params.{name}: " in refusal
        assert limit in refusal


def test_the_names_of_a_subscription_have_limits_of_their_own() -> None:
    wanted = b'{"resourceSubscriptions":[%s]}' % b",".join([b'"%s"' % (b"x" * 500)] * 3_000)
    message = found(read_message(message_with(b'{"notifications":%s,%s}' % (wanted, CROWD), b"subscriptions/listen")))
    assert isinstance(message, dict)
    assert message["params"] == {"notifications": orjson.loads(wanted)}  # A stream holds no more of it while it lasts.
    longer = wanted + b" " * LOOKED_AT_BYTES_MAX
    for limits, method in (((wanted, longer), b"tools/call"), ((longer,), b"subscriptions/listen")):
        for text in limits:
            refusal = refused(message_with(b'{%s,"notifications":{"a":%s}}' % (CROWD, text), method))
            assert "params.notifications: a node has to look at more than" in refusal
    many = b"[%s]" % b",".join([b'""'] * (LOOKED_AT_VALUES_MAX + 1))
    refusal = refused(message_with(b'{"notifications":%s,%s}' % (many, CROWD)))
    assert "params.notifications: " in refusal


def test_of_another_node_more_is_read_since_it_may_have_written_anew_what_it_had_read() -> None:
    capabilities = b"[%s]" % b",".join([b"9e15"] * (LOOKED_AT_VALUES_MAX - 10))
    anew = orjson.dumps(orjson.loads(capabilities))
    meta = b'{"_meta":{"io.modelcontextprotocol/clientCapabilities":%s,%s}}'
    for of_client in (capabilities, b'"%s"' % (b"x" * (LOOKED_AT_BYTES_MAX - 1_000))):
        assert isinstance(found(read_message(message_with(meta % (of_client, CROWD)))), dict)
    assert isinstance(found(read_message(message_with(meta % (anew, CROWD)), from_node=True)), dict)


def test_a_member_that_stands_there_again_and_again_is_refused() -> None:
    often = b",".join([b'"name":"a"'] * 30_000)
    refusal = refused(message_with(b"{%s}" % often))
    assert "'name' stands there again and again" in refusal


def test_of_what_only_nodes_say_to_each_other_their_members_are_read_too() -> None:
    sessions = b'[["%s",1]]' % (b"s" * 500)
    body = message_with(b'{"event":"deleted","sessions":%s,%s}' % (sessions, CROWD), model.CLIENT_METHOD.encode())
    message = found(read_message(body, from_node=True))
    assert message["params"].keys() == {"event", "sessions", BESIDE}
    assert message["params"]["sessions"] == orjson.loads(sessions)


def test_the_answer_of_a_client_stays_unread() -> None:
    result = b'{"rows":[%s]}' % b",".join([b"1.50"] * 30_000)
    message = found(read_message(b'{"id":"q","result":{},"jsonrpc":"2.0","result":%s,"params":[%s]}' % (result, b"[]")))
    assert message.keys() == {"jsonrpc", "id", "result"}
    assert message["result"].raw == result
    small = b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"no"},"params":{%s}}' % CROWD
    assert found(read_message(small))["error"] == {"code": 1, "message": "no"}
    assert "error: a node has to look at" in refused(b'{"error":{"data":"%s"}}' % (b"x" * LOOKED_AT_BYTES_MAX))


def test_the_messages_of_a_batch_stay_unread_and_share_what_may_be_read() -> None:
    arguments = b'{"rows":[%s]}' % b",".join([b"1.50"] * 10_000)
    call = message_with(b'{"name":"a","arguments":%s}' % arguments)
    batch = [call, b"7", b'{"jsonrpc":"2.0","id":1,"result":%s}' % arguments, b"[{}]", call]
    read = found(read_message(b" [ %s ] " % b" , ".join(batch), batch_len_max=5))
    assert [one and one.keys() for one in read] == [one.keys() if isinstance(one, dict) else None for one in read]
    assert [type(one) for one in read] == [dict, type(None), dict, type(None), dict]
    assert {read[0]["params"]["arguments"].raw, read[2]["result"].raw} == {arguments}
    assert "A batch has 1 to 4 messages" in refused(b"[%s]" % b",".join(batch), batch_len_max=4)
    for value in (b'"%s"' % (b"x" * (LOOKED_AT_BYTES_MAX // 3)), b"[%s1]" % (b"1," * (LOOKED_AT_VALUES_MAX // 3))):
        large = message_with(b'{"name":%s}' % value)
        assert len(found(read_message(b"[%s]" % b",".join([large] * 2), batch_len_max=5))) == 2
        refusal = refused(b"[%s]" % b",".join([large] * 4), batch_len_max=5)
        assert "message 2: params.name: a node has to look at more than" in refusal


@pytest.mark.parametrize("method", [b"1", b"null", b"[]", b'{"a":1}'])
def test_of_a_method_that_is_no_text_the_params_are_not_read(method: bytes) -> None:
    for params, kept in ((b'{"name":[%s]}', {}), (b"[%s]", [])):
        body = message_with(params % (b"1," * 400_000 + b"1")).replace(b'"tools/call"', method)
        assert found(read_message(body)) == {**orjson.loads(body), "params": kept}


def test_params_that_are_no_object_keep_their_kind() -> None:
    large = b",".join([b"1"] * 200_000)
    for params, kept in ((b"[%s]" % large, []), (b"null", None), (b"7", 7)):
        message = found(read_message(b" " * 70_000 + message_with(params)))
        assert isinstance(message, dict)
        assert message["params"] == kept
    message = found(read_message(message_with(b'{"arguments":[%s]}' % large)))
    assert isinstance(message, dict)
    assert message["params"] == {"arguments": []}
