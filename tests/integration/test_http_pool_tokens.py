"""The pool while a token is replaced: nodes learn of it one after the other, and no request is refused for that."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from agent.client.http.pool import HttpPool, RequestBody
from tests.integration.servers.hosting import Seen, http, scripted
from tests.integration.servers.raw_http import OK, pool_of


@dataclass
class Node:
    """The other side: which tokens it takes, and which it was shown."""

    pool: HttpPool
    taken: set[str]
    shown: list[str] = field(default_factory=list)

    async def ask(self) -> int:
        response = await self.pool.post(RequestBody(b"{}"), {})
        await response.read()
        response.release()
        return response.status

    def seen(self) -> list[str]:
        shown, self.shown[:] = list(self.shown), []
        return shown


@asynccontextmanager
async def node(*taken: str) -> AsyncIterator[Node]:
    """A node that takes these tokens, and a pool that was opened with `old`."""

    async def answer(request: Seen) -> tuple[bytes, bool]:
        token = request.headers["authorization"].removeprefix("Bearer ")
        other.shown.append(token)
        return (OK if token in other.taken else http(401, b"{}")), True

    async with scripted(answer) as script, pool_of(script.url, token="old") as pool:
        other = Node(pool, set(taken))
        yield other


async def test_a_node_that_has_not_read_the_new_token_yet_is_shown_the_old_one_until_it_has() -> None:
    async with node("old") as other:
        other.pool.use_token("new")
        assert [await other.ask() for _ in range(3)] == [200] * 3
        assert other.seen() == ["new", "old", "old", "old"]
        other.taken = {"new"}
        assert [await other.ask() for _ in range(3)] == [200] * 3
        assert other.seen() == ["old", "new", "new", "new"]


async def test_a_node_that_takes_the_new_token_is_shown_no_other() -> None:
    async with node("old", "new") as other:
        for _ in range(3):
            other.pool.use_token("new")
            assert await other.ask() == 200
        assert other.seen() == ["new"] * 3


async def test_a_node_that_takes_neither_is_asked_with_each_once() -> None:
    async with node() as other:
        assert await other.ask() == 401
        assert other.seen() == ["old"]
        other.pool.use_token("new")
        assert await other.ask() == 401
        assert sorted(other.seen()) == ["new", "old"]


async def test_requests_at_once_agree_on_the_token_that_is_taken() -> None:
    async with node("old") as other:
        other.pool.use_token("new")
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(other.ask(), name=f"ask {number}") for number in range(20)]
        assert [task.result() for task in asked] == [200] * 20
        assert other.seen().count("new") <= 20
        assert await other.ask() == 200
        assert other.seen() == ["old"]
