"""How a backend's lists are read over a real mcp_client: to the end, within bounds, anew when they change meanwhile."""

from collections.abc import Awaitable, Callable

import pytest

from agent.errors import ProtocolBroken, Unreachable
from agent.links import listing
from agent.links.listing import list_offer
from agent.model import Era, Json
from tests.integration.servers.hosting import Seen, discovered, rpc_error, rpc_result, scripted
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


async def listed(page: Callable[[str | None], Page]) -> list[str]:
    async with scripted(paging(page)) as script, client(script.url, Era.MODERN) as mcp_client:
        offer = await list_offer(mcp_client, timeout_s=10)
        return [tool["name"] for tool in offer.tools]


async def test_pages_are_followed_to_the_end() -> None:
    pages = {None: tools("a", "b", cursor="1"), "1": tools("c", cursor="2"), "2": tools(cursor="3"), "3": tools("d")}
    assert await listed(lambda cursor: pages[cursor]) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("end", ["", None, 7])
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

    with pytest.raises(Unreachable, match="refused its own cursor, twice"):
        await listed(page)
    assert asked == [None, "x", None, "x"]


async def test_another_error_on_a_later_page_fails_the_listing_at_once() -> None:
    for code in (-32601, -32603):
        with pytest.raises(Unreachable, match=f"error {code}"):
            await listed(lambda cursor, code=code: tools("a", cursor="x") if cursor is None else code)


async def test_cursors_that_go_round_in_circles_are_noticed() -> None:
    after = {None: "1", "1": "2", "2": "1"}
    with pytest.raises(ProtocolBroken, match="same cursor twice"):
        await listed(lambda cursor: tools("a", cursor=after[cursor]))


async def test_a_list_that_never_ends_is_given_up() -> None:
    with pytest.raises(ProtocolBroken, match=f"more than {listing.PAGES_MAX} pages"):
        await listed(lambda cursor: tools(cursor=str(int(cursor or 0) + 1)))


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
