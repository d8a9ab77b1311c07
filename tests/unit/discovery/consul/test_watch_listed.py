"""Whether the catalog lists us and when that was confirmed, in loop time: only an answer of a server denies it."""

import asyncio
from typing import Any

import pytest

from discovery.consul.client import Answer
from discovery.consul.watch import CACHE
from discovery.model import RegistrarStatus, SourceStatus, is_listed
from tests.unit.discovery.consul.test_watch_and_registration import (
    OURS,
    ScriptedClient,
    kept,
    now_s,
    registrar_of,
    rows,
    watch_of,
    watched,
)

pytestmark = pytest.mark.looptime

LOST_AT_S, BACK_AT_S = 30.0, 90.0


class Forgetful(ScriptedClient):
    """A Consul that lacks us from `LOST_AT_S` to `BACK_AT_S`. `backend`: what it says of answers to waits."""

    def __init__(self, backend: str) -> None:
        super().__init__(self.answer)
        self.backend = backend

    def answer(self, _number: int, query: dict[str, Any]) -> Answer | None:
        lost = LOST_AT_S <= now_s() < BACK_AT_S
        self.last_rows = rows("a") if lost else rows("a", "own")
        index = 6 if lost else 7 if now_s() >= BACK_AT_S else 5
        if query["index"] == index:
            return None
        return Answer(index, self.last_rows, backend=self.backend if query["index"] else "blocking-query")

    async def health(self, name: str, **query: Any) -> Answer:
        """Waits end when the catalog changes."""
        ends = [at_s - now_s() for at_s in (LOST_AT_S, BACK_AT_S) if at_s > now_s()]
        waits_s = min([query["wait_s"], *ends])
        answer = await super().health(name, **query | {"wait_s": waits_s})
        if query["index"] == answer.index and waits_s < query["wait_s"]:
            return await super().health(name, **query)
        return Answer(answer.index, answer.rows, backend=answer.backend or self.backend)


@pytest.mark.parametrize("backend", ["", CACHE])
async def test_registered_says_what_the_servers_say_though_the_agent_goes_on_having_us(backend: str) -> None:
    client = Forgetful(backend)
    registrar = registrar_of(client, OURS)
    watch = watch_of(client, "mcp-node", own=registrar)
    seen: list[tuple[float, bool]] = []

    async def look() -> None:
        while now_s() < 110.0:
            listed = is_listed(watch.status, registrar.status)
            if not seen or seen[-1][1] is not listed:
                seen.append((now_s(), listed))
            await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as group:
        group.create_task(kept(registrar, 110.0), name="keep")
        group.create_task(watched(watch, 110.0), name="watch")
        group.create_task(look(), name="look")
    told = [listed for _, listed in seen if _ > 1.0]
    assert told == [False, True]
    (lost_at_s, _), (back_at_s, _) = seen[-2:]
    assert 0.0 <= lost_at_s - LOST_AT_S < 1.5
    assert 0.0 <= back_at_s - BACK_AT_S < 0.5


async def test_answers_of_the_agents_cache_confirm_nothing() -> None:
    client = ScriptedClient(
        lambda _number, query: Answer(query["index"] + 1, rows("a"), backend=CACHE if query["index"] else "")
    )
    watch = watch_of(client, "mcp-node")
    began_s = now_s()
    await watched(watch, 20.0)
    assert watch.status.confirmed_at_s == began_s
    assert watch.status.last_answer_at_s is not None
    assert watch.status.last_answer_at_s > began_s + 15.0


@pytest.mark.parametrize(("registered", "lists_us", "listed"), [
    (True, True, True), (True, None, True), (True, False, False), (False, True, False),
])  # fmt: skip
def test_listed_needs_the_agents_word_and_no_servers_against_it(
    *, registered: bool, lists_us: bool | None, listed: bool
) -> None:
    assert is_listed(SourceStatus(lists_us=lists_us), RegistrarStatus(registered=registered)) is listed


async def test_after_a_distrusted_answer_a_better_one_of_the_agents_cache_is_no_proof_and_says_so() -> None:
    us, others = rows("a", "own"), rows("a")

    def answer(number: int, query: dict[str, Any]) -> Answer:
        asked.append(bool(query["index"]))
        seen.append(watch.status)
        is_there = number != 2 and not (lost_at <= number < back_at and not query["index"])
        return Answer(5, us if is_there else others, backend=CACHE if query["index"] else "blocking-query")

    asked: list[bool] = []
    seen: list[SourceStatus] = []
    lost_at, back_at = 2, 9
    client = ScriptedClient(answer)
    registrar = registrar_of(client, OURS)
    watch = watch_of(client, "mcp-node", own=registrar)
    await kept(registrar, 0.1)
    await watched(watch, 60.0)
    # A read, a distrusted wait, a better one of the cache: then the servers are asked at once, and later once in 10 s.
    assert asked[:4] == [False, True, True, False]
    doubted = [status for status in seen[3:back_at] if status.confirmed_at_s == seen[1].confirmed_at_s]
    assert doubted
    assert not any(status.up for status in doubted)
    assert any("only the cache" in status.last_error for status in doubted)
    assert sum(not waits for waits in asked[:back_at]) < 5
    assert (seen[-1].up, seen[-1].last_error) == (True, "")


async def test_a_loss_that_is_repaired_is_confirmed_by_a_server_at_once() -> None:
    us, others = rows("a", "own"), rows("a")
    # Two waits and a read that lack us, after which the agent has sent us to the catalog again.
    script = {3: others, 4: others, 5: others}
    seen: list[SourceStatus] = []

    def answer(number: int, query: dict[str, Any]) -> Answer | None:
        seen.append(watch.status)
        asked.append(bool(query["index"]))
        if number == 2 or (number > 7 and query["index"]):  # The first one waits until the last read is long ago.
            return None
        return Answer(4 + number, script.get(number, us), backend=CACHE if query["index"] else "blocking-query")

    asked: list[bool] = []
    client = ScriptedClient(answer)
    registrar = registrar_of(client, OURS)
    watch = watch_of(client, "mcp-node", own=registrar)
    await kept(registrar, 0.1)
    began_s = now_s()
    await watched(watch, 30.0)
    assert asked[:7] == [False, True, True, True, False, True, False]
    assert (seen[-1].up, seen[-1].last_error) == (True, "")
    assert (watch.status.confirmed_at_s or 0.0) - began_s > 20.0
    assert any(not status.up for status in seen)
