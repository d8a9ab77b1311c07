"""A server that hangs: it is knocked at, asked anew when it goes on, and not asked twice where it is only slow."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from agent.client.http.awakening import (
    ASKED_OPEN_MAX,
    AWAKE_PAUSE_S,
    KNOCK_EVERY_S,
    KNOCKS_OPEN_MAX,
    KNOCKS_PER_S_MAX,
    LATE_S,
    SLOW_ANSWERS,
    Awakening,
)
from agent.errors import AuthRefused, MeshError, Unreachable
from tests.scripted_client import now_s

pytestmark = pytest.mark.looptime

FOR_EVER_S = 10_000.0
GOES_ON_S = 20.0
QUICK_S = 0.01


class Server:
    """Answers knocks by `status`, where it is up. `takes_s`: how long each question takes, a failure at once.

    `hangs_s`: until when, and from when on, it is silent to knocks.
    """

    def __init__(
        self, *takes_s: float | Exception, hangs_s: tuple[float, float] = (0.0, 0.0), status: int = 405
    ) -> None:
        self.takes_s = takes_s
        self.hangs_s = hangs_s
        self.status = status
        self.asked_at_s: list[float] = []
        self.knocked_at_s: list[float] = []
        self.open = self.open_max = self.knocks_open = self.knocks_open_max = 0
        self.dropped: list[int] = []

    async def knock(self) -> int:
        self.knocked_at_s.append(now_s())
        self.knocks_open += 1
        self.knocks_open_max = max(self.knocks_open_max, self.knocks_open)
        try:
            # A knock of the time when it hung is never answered, as a proxy holds it.
            await asyncio.sleep(FOR_EVER_S if self.hangs_s[0] <= now_s() < self.hangs_s[1] else QUICK_S)
        finally:
            self.knocks_open -= 1
        return self.status

    async def ask(self) -> int:
        number = len(self.asked_at_s)
        self.asked_at_s.append(now_s())
        takes_s = self.takes_s[min(number, len(self.takes_s) - 1)]
        if isinstance(takes_s, Exception):
            raise takes_s
        self.open += 1
        self.open_max = max(self.open_max, self.open)
        try:
            await asyncio.sleep(takes_s)
        finally:
            self.open -= 1
        return number

    async def drop(self, number: int) -> None:
        self.dropped.append(number)


def says_nothing(failure: Exception) -> bool:
    return isinstance(failure, Unreachable)


async def asked(server: Server, *, session: bool = True) -> int:
    async with Awakening(server.knock) as awakening:
        return await awakening.answer(server.ask, drop=server.drop if session else None, says_nothing=says_nothing)


async def test_a_server_that_answers_is_not_knocked_at() -> None:
    server = Server(KNOCK_EVERY_S - QUICK_S)
    assert await asked(server) == 0
    assert (server.knocked_at_s, server.open) == ([], 0)


@pytest.mark.parametrize("session", [True, False])
async def test_one_that_hung_and_goes_on_is_asked_anew_within_two_seconds(*, session: bool) -> None:
    server = Server(FOR_EVER_S, QUICK_S, hangs_s=(0, GOES_ON_S))
    assert await asked(server, session=session) == 1
    assert GOES_ON_S < now_s() < GOES_ON_S + KNOCK_EVERY_S + AWAKE_PAUSE_S + 4 * QUICK_S
    assert (server.open, server.knocks_open) == (0, 0)


async def test_a_slow_one_that_is_silent_meanwhile_is_asked_once_and_never_given_up() -> None:
    server = Server(50.0, hangs_s=(0, FOR_EVER_S))
    assert await asked(server) == 0
    assert (now_s(), len(server.asked_at_s)) == (pytest.approx(50), 1)
    assert server.knocks_open_max == KNOCKS_OPEN_MAX


async def test_a_slow_one_that_answers_knocks_is_asked_for_one_session_alone() -> None:
    server = Server(50.0)
    assert await asked(server) == 0
    assert len(server.asked_at_s) == 1


async def test_a_slow_one_that_answers_knocks_is_asked_twice_at_most_where_that_opens_no_session() -> None:
    server = Server(50.0)
    assert await asked(server, session=False) == 0
    assert len(server.asked_at_s) == 2


async def test_one_that_takes_a_while_for_each_knock_is_knocked_at_the_more_rarely() -> None:
    server, took_s = Server(50.0), 3.0
    async with Awakening(server.knock, took_s) as awakening:
        await awakening.answer(server.ask, drop=server.drop, says_nothing=says_nothing)
    assert len(server.knocked_at_s) == 50 // (SLOW_ANSWERS * took_s)


async def test_an_answer_of_before_says_that_it_was_not_silent() -> None:
    server = Server(2.0, 50.0)
    async with Awakening(server.knock) as awakening:
        await awakening.answer(server.ask, says_nothing=says_nothing)
        first = len(server.asked_at_s)
        await awakening.answer(server.ask, drop=server.drop, says_nothing=says_nothing)
    assert len(server.asked_at_s) == first + 1


async def test_one_that_does_one_thing_at_a_time_has_few_knocks_in_the_way_of_what_it_is_asked() -> None:
    turn, works = asyncio.Lock(), list[asyncio.Task[int]]()

    async def work() -> int:
        async with turn:
            await asyncio.sleep(3.0)
        return 405

    async def in_turn() -> int:
        works.append(asyncio.create_task(work()))  # Done all the same where it is given up.
        return await asyncio.shield(works[-1])

    async def refused() -> int:
        await in_turn()
        raise AuthRefused("no")

    async def drop(_made: int) -> None:
        raise AssertionError("it was asked for two sessions")

    questions = 4
    async with Awakening(in_turn) as awakening:
        with pytest.raises(AuthRefused):
            await awakening.answer(refused, says_nothing=says_nothing)
        for _ in range(questions - 1):
            await awakening.answer(in_turn, drop=drop, says_nothing=says_nothing)
    await asyncio.gather(*works)
    assert len(works) <= 2 * questions


async def test_one_that_answers_knocks_as_slowly_as_questions_is_asked_for_one_session_alone() -> None:
    sessions = list[int]()

    async def knock() -> int:
        await asyncio.sleep(6.0)
        return 405

    async def discover() -> int:
        await asyncio.sleep(3.0)
        return 0

    async def open_session() -> int:
        sessions.append(len(sessions))
        await asyncio.sleep(40.0)
        return sessions[-1]

    async def drop(_made: int) -> None:
        """None is made too late."""

    async with Awakening(knock) as awakening:
        await awakening.answer(discover, says_nothing=says_nothing)
        await awakening.answer(open_session, drop=drop, says_nothing=says_nothing)
    assert sessions == [0]


async def test_a_session_that_is_opened_too_late_is_ended() -> None:
    server = Server(GOES_ON_S + 3.0, QUICK_S, hangs_s=(0, GOES_ON_S))
    async with AsyncExitStack() as stack:
        awakening = await Awakening(server.knock).__aenter__()
        assert await awakening.answer(server.ask, drop=server.drop, says_nothing=says_nothing) == 1
        await awakening.end_with(stack)
        knocks = len(server.knocked_at_s)
        await asyncio.sleep(3.0)
        assert (server.dropped, len(server.knocked_at_s)) == ([0], knocks)


@pytest.mark.parametrize("for_s", [1.0, LATE_S + 1])
async def test_a_session_that_never_comes_is_given_up_with_the_link_or_after_a_while(for_s: float) -> None:
    server = Server(FOR_EVER_S, QUICK_S, hangs_s=(0, GOES_ON_S))
    async with AsyncExitStack() as stack:
        awakening = await Awakening(server.knock).__aenter__()
        await awakening.answer(server.ask, drop=server.drop, says_nothing=says_nothing)
        await awakening.end_with(stack)
        await asyncio.sleep(for_s)
        assert server.open == (for_s < LATE_S)
    assert (server.open, server.dropped) == (0, [])


async def test_it_is_asked_ever_more_rarely_where_it_goes_on_and_hangs_again_and_the_first_question_stays() -> None:
    server = Server(600.0, FOR_EVER_S)

    async def flap() -> None:
        while True:
            server.hangs_s = (0, FOR_EVER_S)
            await asyncio.sleep(5)
            server.hangs_s = (0, 0)
            await asyncio.sleep(5)

    flapping = asyncio.ensure_future(flap())
    assert await asked(server) == 0
    flapping.cancel()
    assert now_s() == pytest.approx(600)
    assert len(server.asked_at_s) <= 1 + ASKED_OPEN_MAX
    assert server.open_max <= ASKED_OPEN_MAX


async def test_a_proxys_word_for_one_that_is_away_is_no_sign_of_it() -> None:
    server = Server(FOR_EVER_S, QUICK_S, status=503)

    def return_() -> None:
        server.status = 400

    asyncio.get_running_loop().call_later(GOES_ON_S, return_)
    assert await asked(server) == 1
    assert now_s() > GOES_ON_S


async def test_one_that_says_too_many_requests_is_not_knocked_at_any_more() -> None:
    server = Server(50.0, status=429)
    assert await asked(server) == 0
    assert len(server.knocked_at_s) == 1


@pytest.mark.parametrize(
    ("failure", "counts"), [(Unreachable("it ended"), False), (AuthRefused("no"), True)], ids=["no answer", "an answer"]
)
async def test_a_later_one_that_fails_counts_where_that_is_an_answer(failure: MeshError, *, counts: bool) -> None:
    server = Server(50.0, failure, hangs_s=(0, GOES_ON_S))
    if counts:
        with pytest.raises(AuthRefused):
            await asked(server)
    else:
        assert await asked(server) == 0
    assert len(server.asked_at_s) == 2


async def test_the_only_one_that_fails_counts() -> None:
    with pytest.raises(Unreachable):
        await asked(Server(Unreachable("it ended")))


async def test_many_that_hang_share_so_many_knocks_a_second() -> None:
    servers = [Server(60.0, hangs_s=(0, FOR_EVER_S)) for _ in range(100)]
    async with asyncio.TaskGroup() as group:
        for server in servers:
            group.create_task(asked(server))
    knocks = sum(len(server.knocked_at_s) for server in servers)
    assert knocks == pytest.approx(60 * KNOCKS_PER_S_MAX, rel=0.2)


async def test_a_session_that_is_made_when_the_dial_is_given_up_at_that_moment_is_ended() -> None:
    server = Server(QUICK_S)
    dial: asyncio.Task[int]

    async def ask_and_give_up() -> int:
        made = await server.ask()
        dial.cancel()
        return made

    async def asked_so() -> int:
        async with Awakening(server.knock) as awakening:
            return await awakening.answer(ask_and_give_up, drop=server.drop, says_nothing=says_nothing)

    dial = asyncio.ensure_future(asked_so())
    with pytest.raises(asyncio.CancelledError):
        await dial
    assert server.dropped == [0]


async def test_nothing_is_left_of_a_dial_that_is_given_up() -> None:
    server = Server(FOR_EVER_S, hangs_s=(0, FOR_EVER_S))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(GOES_ON_S):
            await asked(server)
    knocks = len(server.knocked_at_s)
    await asyncio.sleep(10)
    assert (server.open, server.knocks_open, len(server.knocked_at_s)) == (0, 0, knocks)
