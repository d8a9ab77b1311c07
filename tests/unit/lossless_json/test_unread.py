"""Arguments that stay JSON: what they are, who may read them, and how they go out."""

from typing import Any

import orjson
import pytest

from agent.client.jsonrpc import encode_parts, encode_request, swap_progress_token
from agent.dispatch.param_headers import ParamHeaders, disagreement
from agent.errors import MCPError, RpcError
from agent.lossless_json.unread import Unread, arguments_in, with_arguments_read
from agent.lossless_json.values import VALUES_MAX
from agent.model import Json
from agent.routing.fleet_targets import OneNode, targets_of
from agent.server.lists import check_object
from agent.server.own_tools import plain
from agent.server.search import unwrapped
from tests.unit.dispatch.test_param_headers import route
from tests.unit.routing.test_fleet import three

ODD = b'{"a" : 1.50,"a":2,"big":12345678901234567890123,"more":1e400,"s":"\\u00e9"}'
TOO_MANY = b'{"a":[' + b"1," * VALUES_MAX + b"1]}"


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


def test_what_was_read_is_what_goes_out() -> None:
    params = of(ODD)
    assert arguments_in(params)["a"] == 2
    assert arguments_in(params) is arguments_in(params)
    sent = encode_request(1, "tools/call", params)
    assert encode_parts(1, "tools/call", params) == (sent,)
    assert b'"arguments":{"a":2,"big":12345678901234567890123,"more":1e400,"s":"\xc3\xa9"}' in sent
    assert with_arguments_read(params)["arguments"] is arguments_in(params)


def test_it_counts_as_an_object() -> None:
    check_object(of(b"{}"), "arguments")


def test_it_is_read_within_the_limit_of_values_wherever_something_looks_into_it() -> None:
    asking = route({"n": {"type": "integer", "x-mcp-header": "N"}})
    assert ParamHeaders().outgoing("tools/call", asking, of(b'{"n":7}'), {}) == {"Mcp-Param-N": "7"}
    assert disagreement(asking.definition["inputSchema"], of(b'{"n":7}'), {"mcp-param-n": "8"}) is not None
    inner = unwrapped("tools/call", {**of(b'{"name":"x","arguments":{"n":1}}'), "name": "call_tool"})
    assert inner == {**of(b"{}"), "name": "x", "arguments": {"n": 1}}
    usage = three().tools["disk__usage"]
    one = targets_of(usage, of(b'{"node":"node-001","path":"/"}'))
    assert isinstance(one, OneNode)
    assert one.params["arguments"] == {"path": "/"}
    assert plain(of(b'{"n":7}'))["arguments"] == {"n": 7}
    with pytest.raises(RpcError, match="more than"):
        ParamHeaders().outgoing("tools/call", asking, of(TOO_MANY), {})
    for look in (
        lambda: disagreement(asking.definition["inputSchema"], of(TOO_MANY), {}),
        lambda: unwrapped("tools/call", {**of(TOO_MANY), "name": "call_tool"}),
        lambda: targets_of(usage, of(TOO_MANY)),
        lambda: plain(of(TOO_MANY)),
    ):
        with pytest.raises(MCPError, match="more than"):
            look()
