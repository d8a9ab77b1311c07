"""Arguments that stay JSON: what they are, who may read them, and how they go out."""

from typing import Any

import orjson
import pytest

from agent.client.jsonrpc import encode_parts, encode_request, encode_result, swap_progress_token
from agent.dispatch.param_headers import ParamHeaders, disagreement, looked_into
from agent.errors import MCPError, RpcError
from agent.lossless_json import unread
from agent.lossless_json.unread import (
    BESIDE,
    LOOKED_AT_BYTES_MAX,
    LOOKED_AT_VALUES_MAX,
    Unread,
    all_read,
    as_member,
)
from agent.model import Json
from agent.routing.fleet_targets import OneNode, targets_of
from agent.server.lists import check_object
from agent.server.own_tools import plain
from agent.server.search import unwrapped
from tests.unit.dispatch.test_param_headers import route
from tests.unit.routing.test_fleet import three

ODD = b'{"a" : 1.50,"a":2,"big":12345678901234567890123,"more":1e400,"s":"\\u00e9"}'
TOO_MANY = b'{"a":[' + b"1," * 400_000 + b"1]}"


def of(raw: bytes) -> Json:
    return {"name": "t", "arguments": Unread(raw), "_meta": {"progressToken": "p"}}


def test_an_unread_object_is_on_one_line() -> None:
    assert Unread(b'{\r\n\t"a":\n1}').raw == b'{  \t"a": 1}'
    assert repr(Unread(b'{"a":1}')) == "<Unread 7 bytes>"


def test_it_is_nothing_that_json_or_a_text_is_made_of_by_mistake() -> None:
    wrong: list[Any] = [orjson.dumps, bytes, list, dict, len, "".join]
    for use in wrong:
        with pytest.raises(TypeError):
            use(Unread(b"{}"))


def test_it_goes_out_byte_for_byte_as_long_as_nothing_has_read_it() -> None:
    params = of(ODD)
    sent, token = swap_progress_token(params, 9)
    head = (
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","_meta":{"progressToken":9},"arguments":'
    )
    assert (encode_request(1, "tools/call", sent), token) == (head + ODD + b"}}", "p")
    parts = encode_parts(1, "tools/call", sent)
    assert (b"".join(parts), parts[1]) == (head + ODD + b"}}", ODD)
    assert encode_request(1, "m", {"arguments": Unread(b"{}")}).endswith(b'"params":{"arguments":{}}}')


def test_it_counts_as_an_object() -> None:
    check_object(of(b"{}"), "arguments")


def test_what_nothing_looks_at_goes_out_beside_what_was_read_and_never_by_mistake() -> None:
    params: Json = {
        BESIDE: Unread(b'"a":[1.50],', b'"a": 2'),
        "_meta": {BESIDE: Unread(b'"b":1'), "progressToken": 3},
        "inputResponses": Unread(b"[1,\r2]"),
    }
    with pytest.raises(TypeError):
        orjson.dumps(params)
    sent = encode_request(1, "m", params)
    assert orjson.loads(sent)["params"] == {
        "a": 2,
        "_meta": {"progressToken": 3, "b": 1},
        "inputResponses": [1, 2],
    }
    assert b'"a":[1.50],"a": 2' in sent
    assert b"".join(encode_parts(1, "m", params)) == sent
    assert encode_request(1, "m", {"_meta": {BESIDE: Unread(b'"b":1')}}).endswith(b'"params":{"_meta":{"b":1}}}')
    assert all_read(params) == {"_meta": {"progressToken": 3}, "inputResponses": [1, 2]}
    assert encode_request(1, "m", params).count(b"[1, 2]") == 1
    result = encode_result("q", params)
    assert orjson.loads(result) == {"jsonrpc": "2.0", "id": "q", "result": orjson.loads(sent)["params"]}
    whole = as_member(params)
    assert isinstance(whole, Unread)
    assert orjson.loads(whole.raw) == orjson.loads(sent)["params"]
    assert as_member({"a": 1}) == {"a": 1}


def test_an_object_is_opened_into_what_is_named_and_the_rest() -> None:
    opened = Unread(b'{"a":[1.50],"b":2,"c":3, "a" : null}').opened(("a", "c", "z"))
    assert opened.keys() == {"a", "c", BESIDE}
    assert (opened["a"], opened["c"], opened[BESIDE].raw) == (None, 3, b'"b":2')
    assert Unread(b'{"a":1}').opened(("a",)) == {"a": 1}


def test_what_cannot_be_written_beside_it_is_refused_as_ever() -> None:
    for params in (of(b"{}") | {"x": object()}, {BESIDE: Unread(b'"a":1'), "x": object()}, {"x": object()}):
        with pytest.raises(RpcError, match="cannot be sent as JSON"):
            encode_request(1, "m", params)


ASKING = route(
    {
        "n": {"type": "integer", "x-mcp-header": "N"},
        "in": {"type": "object", "properties": {"s": {"type": "string", "x-mcp-header": "S"}}},
    }
)


@pytest.mark.parametrize("more", [b'"rows":[{"n":1},[[]]]', b'"rows":' + b"[" * 200 + b"]" * 200, TOO_MANY[1:-1]])
def test_what_looks_into_it_reads_what_it_needs_and_no_more(more: bytes) -> None:
    known = b'{"n":1,%s,"in":{"s":"a","t":[],"s":"b"},"\\u006e":7}' % more
    params = of(known)
    assert disagreement(ASKING.definition["inputSchema"], params, {"mcp-param-n": "7", "mcp-param-s": "b"}) is None
    assert disagreement(ASKING.definition["inputSchema"], of(known), {"mcp-param-n": "1"}) is not None
    told = ParamHeaders().outgoing("tools/call", ASKING, params, {})
    assert told == {"Mcp-Param-N": "7", "Mcp-Param-S": "b"}
    # No server may read another one of two than the headers tell.
    kept = b'{%s,"in":{"t":[],"s":"b"},"\\u006e":7}' % more
    assert params["arguments"].raw == kept
    inner = unwrapped("tools/call", {**of(b'{"arguments":{},"name":"x","arguments":%s}' % kept), "name": "call_tool"})
    assert inner is not None
    assert (inner["name"], inner["_meta"]) == ("x", {"progressToken": "p"})
    arguments = inner["arguments"]
    assert (arguments.raw if isinstance(arguments, Unread) else orjson.dumps(arguments)) in (
        kept,
        orjson.dumps(orjson.loads(kept)),
    )
    usage = three().tools["disk__usage"]
    one = targets_of(usage, of(b'{"node":[1],%s,"path" : 1.50,"n\\u006fde":"node-001"}' % more))
    assert isinstance(one, OneNode)
    assert one.params["arguments"].raw == b'{%s,"path" : 1.50}' % more


def test_an_argument_that_headers_repeat_or_that_names_a_node_has_a_limit() -> None:
    usage = three().tools["disk__usage"]
    names = b",".join([b'"node-001"'] * (LOOKED_AT_VALUES_MAX + 10))
    text = b'"%s"' % (b"x" * (LOOKED_AT_BYTES_MAX + 1))
    with pytest.raises(MCPError, match=rf"arguments\.node: more than {LOOKED_AT_VALUES_MAX} values"):
        targets_of(usage, of(b'{"node":[%s]}' % names))
    with pytest.raises(MCPError, match=rf"arguments\.node: more than {LOOKED_AT_BYTES_MAX} bytes"):
        targets_of(usage, of(b'{"node":%s}' % text))
    with pytest.raises(RpcError, match=r"arguments\.n: more than"):
        ParamHeaders().outgoing("tools/call", ASKING, of(b'{"n":%s}' % text), {})
    with pytest.raises(MCPError, match=r"arguments\.in\.s: more than"):
        disagreement(ASKING.definition["inputSchema"], of(b'{"in":{"s":%s}}' % text), {})
    often = b"{%s}" % b",".join([b'"node":"a"'] * 2_000)
    with pytest.raises(MCPError, match="arguments: 'node' stands there again and again"):
        targets_of(usage, of(often))


def test_what_was_found_in_it_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    schema, told = ASKING.definition["inputSchema"], {"mcp-param-n": "7", "mcp-param-s": "b"}
    params = of(b'{"n":1,"in":{"s":"a","s":"b"},"n":7,"node":"x"}')
    arguments = params["arguments"]
    assert len(list(looked_into(schema, arguments))) > len("n")
    with monkeypatch.context() as patch:
        patch.setattr(unread, "members_of", None)
        assert disagreement(schema, params, told) is None
        assert ParamHeaders().outgoing("tools/call", ASKING, params, {}) == {"Mcp-Param-N": "7", "Mcp-Param-S": "b"}
        assert list(looked_into(schema, arguments)) == []
    # What was cut out of it is not found where it stood.
    assert arguments.taken_out("n")[1].raw == b'{"in":{"s":"b"},"node":"x"}'
    assert arguments.parts(("node",)) == {"node": "x"}


@pytest.mark.parametrize("arguments", [b"[%s]" % (b"1," * 70_000 + b"1"), b'"%s"' % (b"x" * 70_000)])
def test_large_arguments_of_an_inner_call_that_are_no_object_are_refused_as_small_ones(arguments: bytes) -> None:
    inner = unwrapped("tools/call", {**of(b'{"name":"x","arguments":%s}' % arguments), "name": "call_tool"})
    assert inner is not None
    with pytest.raises(MCPError, match="arguments: an object is required"):
        check_object(inner, "arguments")


def test_a_tool_of_the_nodes_own_reads_it_within_limits() -> None:
    assert plain(of(b'{"n":7}'))["arguments"] == {"n": 7}
    with pytest.raises(MCPError, match=f"arguments: more than {LOOKED_AT_VALUES_MAX} values"):
        plain(of(b'{"n":[%s]}' % (b"1," * LOOKED_AT_VALUES_MAX + b"1")))
    with pytest.raises(MCPError, match=f"arguments: more than {LOOKED_AT_BYTES_MAX} bytes"):
        plain(of(TOO_MANY))
