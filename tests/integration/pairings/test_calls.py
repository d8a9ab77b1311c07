"""Pairings: what one request and its answer carry, in whichever era they were written and are read."""

import json
from functools import partial

import pytest

from agent.errors import RpcError
from agent.model import Era, Json
from agent.server.request import READ_WHOLE_BYTES_MAX
from tests.integration.pairings.cells import CAPABILITIES_KEY, Cell, wire
from tests.integration.servers.pairing_definitions import ERROR, LINKS, RESULT
from tests.integration.test_unchanged import exactly

TRACE: Json = {
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "vendor=1",
    "baggage": "user=x",
}
FOREIGN: Json = {"example.org/foreign": {"z": 1.0, "a": [None]}, "progressToken": "p"}
RESERVED = "io.modelcontextprotocol/"


def without_words_of(era: Era, result: Json) -> Json:
    """A result without what every result of the client's era has, and what the SDK's servers stamp on theirs."""
    if era is Era.MODERN:
        assert result.pop("resultType") == "complete"
        result = {name: value for name, value in result.items() if name not in ("ttlMs", "cacheScope")}
    meta = {name: value for name, value in result.get("_meta", {}).items() if not name.startswith(RESERVED)}
    return {**result, "_meta": meta}


def same(found: object, written: object) -> bool:
    """Whether two values are written alike: spelling of numbers and order of members count."""
    return bool(exactly(json.dumps(found)) == exactly(json.dumps(written)))


@pytest.mark.parametrize("tool", ["echo", "broken"])
async def test_a_result_passes_with_structured_content_and_unknown_members(cell: Cell, tool: str) -> None:
    async with wire(cell) as mcp:
        result = without_words_of(cell.front, await mcp.call(tool, x=1.0))
    assert result.pop("isError", False) is (tool == "broken")
    seen = result.pop("structuredContent", None)
    assert (seen is None) is (tool == "broken")
    # The SDK writes a result's own members in its order.
    assert result.keys() == RESULT.keys()
    assert all(same(result[name], RESULT[name]) for name in RESULT)


async def test_arguments_and_unknown_members_reach_the_server_under_its_own_name(cell: Cell) -> None:
    arguments = {"z": 1.0, "a": [None, {"n": 1e5}], "\u00e9": "\u00e9"}
    params = {"name": cell.name("echo"), "arguments": arguments, "x-future": {"z": 1.0}}
    async with wire(cell) as mcp:
        result = await mcp.ask("tools/call", params)
    seen = result["structuredContent"]["seen"]
    assert seen["name"] == "echo"
    assert same(seen["arguments"], arguments)
    assert seen["x-future"] == {"z": 1.0}


async def test_large_arguments_of_several_lines_reach_the_server_as_they_are_beside_all_else(cell: Cell) -> None:
    rows = [{"z": 1.0, "a": [None, {"n": 1e5}], "\u00e9": "\u00e9\n"}] * 8_000
    params = {"name": cell.name("echo"), "arguments": {"rows": rows}, "x-future": {"z": 1.0}, "_meta": FOREIGN}
    assert len(json.dumps(params)) > READ_WHOLE_BYTES_MAX
    async with wire(cell, written=partial(json.dumps, indent=1)) as mcp:
        seen = (await mcp.ask("tools/call", params))["structuredContent"]["seen"]
    assert seen["name"] == "echo"
    assert same(seen["arguments"], params["arguments"])
    assert seen["x-future"] == {"z": 1.0}
    assert seen["_meta"]["example.org/foreign"] == FOREIGN["example.org/foreign"]


async def test_trace_and_foreign_meta_reach_the_server_and_words_of_the_mesh_do_not(cell: Cell) -> None:
    own = {"mesh-agent/affinity": "key", "mesh-agent/deadline-ms": 15_000, "mesh-agent/path": []}
    async with wire(cell) as mcp:
        result = await mcp.call("echo", {**TRACE, **FOREIGN, **own})
    meta = result["structuredContent"]["seen"]["_meta"]
    reserved = {name: meta.pop(name) for name in tuple(meta) if name.startswith(RESERVED)}
    token = meta.pop("progressToken")
    assert token == "p" or isinstance(token, int), "a session that others share needs tokens of its own"
    assert meta == {name: value for name, value in {**TRACE, **FOREIGN}.items() if name != "progressToken"}
    # Each stateless request says which version it is of and what its client can do; a session has said so once.
    if cell.behind is Era.LEGACY:
        assert reserved == {}
        return
    assert reserved[f"{RESERVED}protocolVersion"] == "2026-07-28"
    assert reserved[f"{RESERVED}clientInfo"]["name"]
    assert reserved[CAPABILITIES_KEY] == {}


async def test_what_a_client_can_do_reaches_a_server_that_learns_it_with_each_request(cell: Cell) -> None:
    features: Json = {"elicitation": {"url": {}}, "sampling": {"tools": {}}, "roots": {}}
    async with wire(cell, **features) as mcp:
        result = await mcp.call("echo", {CAPABILITIES_KEY: features} if cell.front is Era.MODERN else None)
    told = result["structuredContent"]["seen"].get("_meta", {}).get(CAPABILITIES_KEY)
    assert told == (features if cell.behind is Era.MODERN else None)


async def test_a_result_names_resources_as_the_client_knows_them_wherever_it_may(cell: Cell) -> None:
    async with wire(cell) as mcp:
        result = without_words_of(cell.front, await mcp.call("link"))
        link, embedded, elsewhere, text = result["content"]
        assert link == {**LINKS["content"][0], "uri": cell.uri("pair://page/one")}
        assert embedded["resource"] == {"uri": cell.uri("pair://item/two"), "text": "pair://item/two"}
        # What clients fetch themselves, and what is no name, stay.
        assert [elsewhere, text] == LINKS["content"][2:]
        assert same(result["structuredContent"], LINKS["structuredContent"])
        read = await mcp.ask("resources/read", {"uri": link["uri"]})
    assert read["contents"][0]["uri"] == link["uri"]


async def test_what_a_client_shows_the_node_stays_at_the_node(cell: Cell) -> None:
    private = {"Authorization": "Bearer of-the-client", "Cookie": "session=of-the-client", "X-Private": "of-the-client"}
    async with wire(cell) as mcp:
        mcp.http.headers.update(private)
        result = await mcp.call("echo")
    told = result["structuredContent"].get("headers", {})
    assert bool(told) is not cell.is_pipe
    assert "of-the-client" not in json.dumps(told)
    # The name that the server knows, in its own era's words.
    assert told.get("mcp-name") == (None if cell.is_pipe or cell.behind is Era.LEGACY else "echo")


@pytest.mark.parametrize("request_id", ["text", 0, -7, 2**53])
async def test_an_answer_has_the_id_of_its_request(cell: Cell, request_id: object) -> None:
    async with wire(cell) as mcp:
        answer = await mcp.raw("tools/call", {"name": cell.name("echo"), "arguments": {}}, request_id)
    assert same(json.loads(answer)["id"], request_id)


async def test_an_error_passes_with_its_code_and_data(cell: Cell) -> None:
    async with wire(cell) as mcp:
        answer = json.loads(await mcp.raw("tools/call", {"name": cell.name("fail"), "arguments": {}}))
    assert same(answer["error"], ERROR)


async def test_a_prompt_is_got(cell: Cell) -> None:
    params = {"name": cell.name("greet"), "arguments": {"who": "Ada"}, "_meta": TRACE}
    async with wire(cell) as mcp:
        result = without_words_of(cell.front, await mcp.ask("prompts/get", params))
    asked = json.loads(result["description"])
    assert (asked["name"], asked["arguments"]) == ("greet", {"who": "Ada"})
    assert asked["_meta"].items() >= TRACE.items()
    assert result["messages"] == [{"role": "user", "content": RESULT["content"][0], "x-future": 1.0}]
    assert (result["_meta"], result["x-future"]) == (RESULT["_meta"], RESULT["x-future"])


@pytest.mark.parametrize("uri", ["pair://page/one", "pair://item/two"])
async def test_a_resource_is_read_listed_or_of_a_template(cell: Cell, uri: str) -> None:
    async with wire(cell) as mcp:
        result = await mcp.ask("resources/read", {"uri": cell.uri(uri), "_meta": TRACE})
    assert {"ttlMs", "cacheScope"} & result.keys() == ({"ttlMs", "cacheScope"} if cell.front is Era.MODERN else set())
    result = without_words_of(cell.front, result)
    text, blob = result["contents"]
    asked = json.loads(text.pop("text"))
    assert asked["uri"] == uri
    assert asked["_meta"].items() >= TRACE.items()
    assert text == {"uri": cell.uri(uri), "mimeType": "text/plain", "_meta": {"x": 1.0}, "x-future": 1.0}
    assert blob == {"uri": cell.uri(uri), "blob": "AA=="}
    assert (result["_meta"], result["x-future"]) == (RESULT["_meta"], RESULT["x-future"])


async def test_an_error_about_a_resource_names_it_as_the_client_did(cell: Cell) -> None:
    uri = cell.uri("pair://item/absent")
    async with wire(cell) as mcp:
        with pytest.raises(RpcError) as caught:
            await mcp.ask("resources/read", {"uri": uri})
    assert (caught.value.code, caught.value.data) == (-32602, {"uri": uri, "x": 1.0})


async def test_arguments_of_prompts_and_templates_are_completed(cell: Cell) -> None:
    references = [
        ({"type": "ref/prompt", "name": cell.name("greet")}, {"type": "ref/prompt", "name": "greet"}),
        (
            {"type": "ref/resource", "uri": cell.uri("pair://item/{name}")},
            {"type": "ref/resource", "uri": "pair://item/{name}"},
        ),
    ]
    for public, own in references:
        params = {"ref": public, "argument": {"name": "who", "value": "A"}, "context": {"arguments": {"x": "y"}}}
        async with wire(cell) as mcp:
            result = without_words_of(cell.front, await mcp.ask("completion/complete", params))
        values = result["completion"].pop("values")
        assert (json.loads(values[0]), values[1]) == (own, "A!")
        assert result["completion"] == {"total": 9, "hasMore": True, "x-future": 1.0}
        assert (result["_meta"], result["x-future"]) == (RESULT["_meta"], RESULT["x-future"])


async def test_what_is_not_there_is_refused_in_the_same_words_everywhere(cell: Cell) -> None:
    async with wire(cell) as mcp:
        for method, params in (
            ("tools/call", {"name": cell.name("absent"), "arguments": {}}),
            ("prompts/get", {"name": cell.name("absent")}),
            ("resources/read", {"uri": "nowhere://at/all"}),
            (
                "completion/complete",
                {"ref": {"type": "ref/prompt", "name": "x"}, "argument": {"name": "a", "value": ""}},
            ),
        ):
            with pytest.raises(RpcError) as caught:
                await mcp.ask(method, params)
            assert caught.value.code == -32602, method


async def test_a_tool_that_needs_a_task_of_old_is_refused_as_that_server_would(cell: Cell) -> None:
    async with wire(cell) as mcp:
        with pytest.raises(RpcError) as caught:
            await mcp.call("chore")
    # The server of 2026-07-28 knows no such word, and answers what it likes.
    refused = -32601 if cell.front is Era.LEGACY else -32021
    assert caught.value.code == (refused if cell.behind is Era.LEGACY else -32602)
