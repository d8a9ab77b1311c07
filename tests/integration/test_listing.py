"""How a backend's lists are read over a real mcp_client: to the end, within bounds, anew when they change meanwhile."""

from collections.abc import Awaitable, Callable

import pytest

from agent.errors import MeshError
from agent.links import listing
from agent.links.listing import OfferReader, Reading
from agent.model import Era, Json, Offer
from tests.integration.servers.hosting import Seen, discovered, http, initialized, rpc_error, rpc_result, scripted
from tests.integration.servers.nodes import client

Answer = Callable[[Seen], Awaitable[tuple[bytes | None, bool]]]
Page = Json | int  # a result, or the code of an error


def tools(*names: str, cursor: object = None) -> Json:
    return {"tools": [{"name": name} for name in names]} | ({} if cursor is None else {"nextCursor": cursor})


def paging(page: Callable[[str | None], Page]) -> Answer:
    """A modern server whose tools/list answers as told, by cursor."""

    async def answer(request: Seen) -> tuple[bytes, bool]:
        if request.body["method"] == "server/discover":
            return discovered(request), True
        found = page(request.body["params"].get("cursor"))
        if isinstance(found, int):
            return rpc_error(request, 200, found, "refused"), True
        return rpc_result(request, {"resultType": "complete", **found}), True

    return answer


async def read(page: Callable[[str | None], Page]) -> Offer:
    async with scripted(paging(page)) as script, client(script.url, Era.MODERN) as mcp_client:
        return await OfferReader(mcp_client).read(timeout_s=10)


async def listed(page: Callable[[str | None], Page]) -> list[str]:
    offer = await read(page)
    assert offer.faults == ()
    return [tool["name"] for tool in offer.tools]


def names(offer: Offer) -> list[str]:
    return [tool["name"] for tool in offer.tools]


def reasons(offer: Offer) -> dict[str, str]:
    return {fault.method: fault.reason for fault in offer.faults}


async def test_pages_are_followed_to_the_end() -> None:
    pages = {None: tools("a", "b", cursor="1"), "1": tools("c", cursor="2"), "2": tools(cursor="3"), "3": tools("d")}
    assert await listed(lambda cursor: pages[cursor]) == ["a", "b", "c", "d"]


async def test_an_empty_cursor_of_a_stateless_server_goes_on() -> None:
    pages = {None: tools("a", cursor=""), "": tools("b", cursor="2"), "2": tools("c")}
    assert await listed(lambda cursor: pages[cursor]) == ["a", "b", "c"]


@pytest.mark.parametrize("after", [tools("a", "b", cursor=""), tools(cursor=""), tools("a", "b", cursor="2")])
async def test_an_empty_cursor_that_leads_to_nothing_new_is_the_end(after: Json) -> None:
    pages = {None: tools("a", "b", cursor=""), "": after}
    assert await listed(lambda cursor: pages[cursor]) == ["a", "b"]


async def test_an_empty_cursor_of_a_server_with_sessions_is_the_end() -> None:
    async def answer(request: Seen) -> tuple[bytes, bool]:
        match request.body.get("method"):
            case "initialize":
                return initialized(request), True
            case "tools/list":
                return rpc_result(request, tools("a", cursor="")), True
            case _:
                return http(202) if request.body.get("id") is None else rpc_error(request, 200, -32601, "no"), True

    async with scripted(answer) as script, client(script.url, Era.LEGACY) as mcp_client:
        assert names(await OfferReader(mcp_client).read(timeout_s=10)) == ["a"]


@pytest.mark.parametrize("end", [None, 7])
async def test_what_is_no_cursor_is_the_end(end: object) -> None:
    assert await listed(lambda _: {**tools("a"), "nextCursor": end}) == ["a"]


async def test_a_list_that_changed_while_it_was_read_is_read_again_from_its_beginning() -> None:
    asked: list[str | None] = []

    def page(cursor: str | None) -> Page:
        asked.append(cursor)
        answers: list[Page] = [tools("a", cursor="old"), -32602, tools("b", cursor="new"), tools("c")]
        return answers[len(asked) - 1]

    assert await listed(page) == ["b", "c"]
    assert asked == [None, "old", None, "new"]


async def test_a_server_that_keeps_refusing_its_own_cursors_has_no_offer() -> None:
    asked: list[str | None] = []

    def page(cursor: str | None) -> Page:
        asked.append(cursor)
        return tools("a", cursor="x") if cursor is None else -32602

    offer = await read(page)
    assert names(offer) == ["a"], "better than nothing"
    assert reasons(offer) == {"tools/list": "tools/list refused its own cursor, twice"}
    assert asked == [None, "x", None, "x"]


@pytest.mark.parametrize("code", [-32601, -32603, -32000])
async def test_another_error_on_a_later_page_keeps_what_was_read_and_says_so(code: int) -> None:
    offer = await read(lambda cursor: tools("a", cursor="x") if cursor is None else code)
    assert names(offer) == ["a"]
    assert f"error {code}" in reasons(offer)["tools/list"]


async def test_cursors_that_go_round_in_circles_end_the_list_and_keep_it() -> None:
    pages = {None: tools("a", cursor="1"), "1": tools("b", cursor="2"), "2": tools("c", cursor="1")}
    offer = await read(lambda cursor: pages[cursor])
    assert names(offer) == ["a", "b", "c"]
    assert "same cursor twice" in reasons(offer)["tools/list"]


async def test_a_list_that_never_ends_is_kept_as_far_as_it_was_read_and_asked_for_again() -> None:
    def page(cursor: str | None) -> Page:
        number = int(cursor or 0)
        return tools(f"t{number}", cursor=str(number + 1))

    async with scripted(paging(page)) as script, client(script.url, Era.MODERN) as mcp_client:
        reader = OfferReader(mcp_client)
        offer = await reader.read(timeout_s=60)
        assert len(offer.tools) == listing.PAGES_MAX
        assert f"more than {listing.PAGES_MAX} pages" in reasons(offer)["tools/list"]
        assert reader.retry_at_s is not None


async def test_of_more_entries_than_a_backend_may_have_the_first_are_taken_and_no_page_is_asked_for_in_vain() -> None:
    asked: list[str | None] = []

    def page(cursor: str | None) -> Page:
        asked.append(cursor)
        start = int(cursor or 0)
        return tools(*map(str, range(start, start + 6_000)), cursor=str(start + 6_000))

    assert await listed(page) == list(map(str, range(listing.ENTRIES_MAX)))
    assert len(asked) == 4


async def test_ten_thousand_tools_in_pages_of_ten_are_read() -> None:
    def page(cursor: str | None) -> Page:
        start = int(cursor or 0)
        return tools(*map(str, range(start, start + 10)), cursor=str(start + 10) if start < 9_990 else None)

    assert await listed(page) == list(map(str, range(10_000)))


# One failing list


LISTED: Json = {
    "tools/list": {"tools": [{"name": "a"}]},
    "prompts/list": {"prompts": [{"name": "p"}]},
    "resources/list": {"resources": [{"uri": "n://r", "name": "r"}]},
    "resources/templates/list": {"resourceTemplates": [{"uriTemplate": "n://{t}", "name": "t"}]},
}
ALL: Json = {"tools": {}, "prompts": {}, "resources": {}}


def lists(answers: Json, capabilities: Json) -> Answer:
    """A modern server whose lists are results, or codes of errors, by method; what is not there is unknown to it."""

    async def answer(request: Seen) -> tuple[bytes, bool]:
        method = request.body["method"]
        if method == "server/discover":
            said = {"supportedVersions": ["2026-07-28"], "capabilities": capabilities, "resultType": "complete"}
            return rpc_result(request, said), True
        found = answers.get(method, -32601)
        if isinstance(found, int):
            return rpc_error(request, 200, found, "not now"), True
        return rpc_result(request, {"resultType": "complete", **found}), True

    return answer


def sizes(offer: Offer) -> tuple[int, ...]:
    return tuple(map(len, (offer.tools, offer.prompts, offer.resources, offer.templates)))


@pytest.mark.parametrize("code", [-32603, -32000, -32602])
@pytest.mark.parametrize("failing", list(LISTED))
async def test_one_failing_list_takes_no_other_away_and_is_shown(failing: str, code: int) -> None:
    answers = {**LISTED, failing: code}
    async with scripted(lists(answers, ALL)) as script, client(script.url, Era.MODERN) as mcp_client:
        reader = OfferReader(mcp_client)
        offer = await reader.read(timeout_s=10)
        assert sizes(offer) == tuple(int(method != failing) for method in LISTED)
        assert reasons(offer) == {failing: f"{failing} was answered with error {code}: not now"}
        answers[failing] = LISTED[failing]
        healed = await reader.read(timeout_s=10)
        assert (sizes(healed), healed.faults) == ((1, 1, 1, 1), ())


def deep_tool(levels: int, also: str) -> str:
    schema = '{"properties":{"a":' * levels + also + "}}" * levels
    return f'{{"tools":[{{"name":"deep","inputSchema":{schema}}},{{"name":"a"}}]}}'


def as_written(result: str) -> Answer:
    """A modern server whose list of tools is that text, and which lists nothing else."""

    async def answer(request: Seen) -> tuple[bytes, bool]:
        if request.body["method"] == "server/discover":
            return discovered(request), True
        return http(200, f'{{"jsonrpc":"2.0","id":{request.body["id"]},"result":{result}}}'.encode()), True

    return answer


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (deep_tool(900, "1"), "depth limit exceeded"),
        (deep_tool(900, str(2**70)), "depth limit exceeded"),
        ('{"tools":[{"name":"a","_meta":{"mean":NaN}}]}', "NaN is no JSON"),
        ('{"tools":[{"name":"a","_meta":{"mean":-Infinity,"big":1e400}}]}', "-Infinity is no JSON"),
    ],
)
async def test_a_list_that_cannot_be_read_fails_alone_and_says_why(result: str, why: str) -> None:
    async with scripted(as_written(result)) as script, client(script.url, Era.MODERN) as mcp_client:
        offer = await OfferReader(mcp_client).read(timeout_s=10)
        assert sizes(offer) == (0, 0, 0, 0)
        assert f"tools/list cannot be read: the server gave an answer that is not JSON: {why}" in str(reasons(offer))


@pytest.mark.parametrize("also", ["1", str(2**70), '"\\ud800"', f'["\\ud800",{2**70}]'])
@pytest.mark.parametrize("levels", [300, 500])
async def test_a_deep_schema_takes_no_other_tool_away(levels: int, also: str) -> None:
    async with scripted(as_written(deep_tool(levels, also))) as script, client(script.url, Era.MODERN) as mcp_client:
        offer = await OfferReader(mcp_client).read(timeout_s=10)
        assert (names(offer), offer.faults) == (["deep", "a"], ())


async def test_what_was_listed_before_stays_while_its_list_fails() -> None:
    answers = dict(LISTED)
    async with scripted(lists(answers, ALL)) as script, client(script.url, Era.MODERN) as mcp_client:
        reader = OfferReader(mcp_client)
        known = await reader.read(timeout_s=10)
        answers["resources/list"], answers["tools/list"] = -32603, {"tools": "none"}
        offer = await reader.read(timeout_s=10)
        assert sizes(offer) == (1, 1, 1, 1)
        assert offer.digest == known.digest
        assert offer != known, "its faults are shown"
        assert reasons(offer)["tools/list"] == "tools/list was answered without a list under 'tools'"
        again = await OfferReader(mcp_client, known).read(timeout_s=10)
        assert sizes(again) == (1, 1, 1, 1), "over a new connection, too"


async def test_a_server_that_announces_no_tools_and_lists_some_is_believed() -> None:
    async with scripted(lists(LISTED, {"prompts": {}})) as script, client(script.url, Era.MODERN) as mcp_client:
        assert sizes(await OfferReader(mcp_client).read(timeout_s=10)) == (1, 1, 0, 0)


@pytest.mark.parametrize("code", [-32601, -32603])
async def test_a_server_that_announces_no_tools_and_has_none_is_asked_for_them_once(code: int) -> None:
    answers = {**LISTED, "tools/list": code}
    async with scripted(lists(answers, {"prompts": {}})) as script, client(script.url, Era.MODERN) as mcp_client:
        reader = OfferReader(mcp_client)
        for _ in range(3):
            offer = await reader.read(timeout_s=10)
            assert (sizes(offer), offer.faults) == ((0, 1, 0, 0), ())
        assert [seen.body["method"] for seen in script.seen].count("tools/list") == 1


async def test_entries_that_are_no_objects_do_not_take_the_list_away() -> None:
    page: Json = {"tools": ["x", None, {"name": "a"}, 7]}
    offer = await read(lambda _: page)
    assert list(offer.tools) == page["tools"]
    assert offer.digest


async def test_a_listing_in_which_nothing_was_answered_fails_as_a_whole() -> None:
    async def answer(request: Seen) -> tuple[bytes | None, bool]:
        return (discovered(request), True) if request.body["method"] == "server/discover" else (None, False)

    async with scripted(answer) as script, client(script.url, Era.MODERN) as mcp_client:
        reader = OfferReader(mcp_client)
        with pytest.raises(MeshError):
            await reader.read(timeout_s=10)
        assert [fault.method for fault in reader.offer.faults] == ["tools/list"]


async def test_only_failed_lists_are_asked_for_again_between_two_polls() -> None:
    answers = {**LISTED, "resources/list": -32603}
    async with scripted(lists(answers, ALL)) as script, client(script.url, Era.MODERN) as mcp_client:
        reader = OfferReader(mcp_client)
        await reader.read(timeout_s=10)
        script.seen.clear()
        await reader.read(timeout_s=10, reading=Reading.POLL)
        assert {seen.body["method"] for seen in script.seen} == LISTED.keys() - {"resources/list"}
        script.seen.clear()
        await reader.read(timeout_s=10, reading=Reading.DUE)
        assert script.seen == [], "it is not due yet"
