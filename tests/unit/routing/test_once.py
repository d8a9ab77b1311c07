"""Equal definitions are one object, and only what has the same bytes is equal."""

import orjson

from agent.lossless_json.raw import RawObject, keep_schemas
from agent.model import Json
from agent.routing.once import BYTES_MAX, KNOWN_MAX, once


def tool(name: str, **more: object) -> Json:
    return {"name": name, "inputSchema": {"type": "object"}, **more}


def test_the_same_bytes_are_one_object_in_every_list() -> None:
    first = once(tool("one"))
    assert once(tool("one")) is first
    assert once(tool("two")) is not first


def test_members_in_another_order_and_numbers_in_another_form_are_not_the_same() -> None:
    first = once({"a": 1, "b": 2})
    assert once({"b": 2, "a": 1}) is not first

    def listed(number: bytes) -> Json:
        data = b'{"tools": [{"name":"n","inputSchema":{"const":%s}}]}' % number
        (entry,) = keep_schemas(RawObject(orjson.loads(data), data), "tools")
        return once(entry)

    assert listed(b"1.0") is listed(b"1.0")
    assert listed(b"1.0") is not listed(b"1.00")


def test_so_many_are_kept_and_none_that_is_large() -> None:
    first = once(tool("first"))
    for number in range(KNOWN_MAX):
        once(tool(f"another {number}"))
    assert once(tool("first")) is not first
    large = tool("large", description="x" * BYTES_MAX)
    assert once(large) is large
    assert once({**large}) is not large
