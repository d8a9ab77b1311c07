"""A server that hangs: it is knocked at, asked anew when it goes on, and not asked twice where it is only slow."""

import asyncio
from contextlib import AsyncExitStack
from itertools import pairwise

import pytest

from agent.client.http.awakening import (
    ASKED_OPEN_MAX,
    AWAKE_PAUSE_S,
    KNOCKS_OPEN_MAX,
    LATE_S,
    QUESTION_EVERY_S,
    SLOW_ANSWERS,
    Awakening,
)
from agent.client.knocks import (
    ANNOUNCED,
    ANNOUNCED_KNOCKS_PER_S_MAX,
    CALLED_FOR_S,
    CALLED_KNOCKS_PER_S_MAX,
    CALLS,
    KNOCK_EVERY_S,
    KNOCKS_PER_S_MAX,
    NAMED,
    OWN,
    Calls,
    Knocks,
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


async def asked(server: Server, *, session: bool = True, knocks: Knocks = OWN) -> int:
    async with Awakening(server.knock, knocks=knocks) as awakening:
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


async def test_one_that_answers_500_to_what_it_cannot_read_is_there() -> None:
    server = Server(FOR_EVER_S, QUICK_S, hangs_s=(0, GOES_ON_S), status=500)
    assert await asked(server) == 1


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


async def test_many_that_hang_share_so_many_knocks_a_second_and_peers_delay_no_server_of_ours() -> None:
    limits = {OWN: KNOCKS_PER_S_MAX, NAMED: KNOCKS_PER_S_MAX, ANNOUNCED: ANNOUNCED_KNOCKS_PER_S_MAX}
    hung = {knocks: [Server(20.0, hangs_s=(0, FOR_EVER_S)) for _ in range(100)] for knocks in limits}
    async with asyncio.TaskGroup() as group:
        for knocks, servers in hung.items():
            for server in servers:
                group.create_task(asked(server, knocks=knocks))
    for knocks, per_s_max in limits.items():
        count = sum(len(server.knocked_at_s) for server in hung[knocks])
        assert 0.7 * 20 * per_s_max < count <= 20 * per_s_max + len(hung[knocks]), "each has a first one"


async def test_of_300_that_hang_each_is_knocked_at_as_often_as_one_while_it_is_called_and_in_time_while_not() -> None:
    servers = {called: [Server(15.0, hangs_s=(0, FOR_EVER_S)) for _ in range(300)] for called in (True, False)}

    async def dialled(server: Server, *, called: bool) -> None:
        CALLS.set(calls := Calls())
        async with asyncio.TaskGroup() as group:
            dial = group.create_task(asked(server))
            while called and not dial.done():
                calls.note(now_s())
                await asyncio.sleep(CALLED_FOR_S / 2)

    async with asyncio.TaskGroup() as group:
        for called, some in servers.items():
            for server in some:
                group.create_task(dialled(server, called=called))
    for called, gap_s in ((True, KNOCK_EVERY_S), (False, 300 / KNOCKS_PER_S_MAX)):
        for server in servers[called]:
            gaps_s = [after - before for before, after in pairwise(server.knocked_at_s)]
            assert max(gaps_s) == pytest.approx(gap_s, rel=0.01)
    assert 300 / CALLED_KNOCKS_PER_S_MAX <= KNOCK_EVERY_S


async def test_one_that_is_put_off_for_others_is_knocked_at_as_soon_as_it_is_called() -> None:
    others, server = ([Server(4.0, hangs_s=(0, FOR_EVER_S)) for _ in range(count)] for count in (300, 1))
    async with asyncio.TaskGroup() as group:
        for other in others:
            group.create_task(asked(other))
        CALLS.set(calls := Calls())
        group.create_task(asked(server[0]))
        await asyncio.sleep(2 * KNOCK_EVERY_S)
        assert len(server[0].knocked_at_s) == 1
        calls.note(now_s())
        await asyncio.sleep(QUICK_S)
        assert len(server[0].knocked_at_s) == 2


class Gateway(Server):
    """Reads JSON, so that it answers knocks itself, and holds each question of the time when its server hung."""

    async def question(self) -> int:
        if self.hangs_s[0] <= now_s() < self.hangs_s[1]:
            await asyncio.sleep(FOR_EVER_S)
        await asyncio.sleep(QUICK_S)
        return 200

    async def knock(self) -> int:
        await asyncio.sleep(QUICK_S)
        return 400


@pytest.mark.parametrize(("called", "within_s"), [(True, 2.0), (False, 10.0)])
async def test_one_behind_a_gateway_that_answers_knocks_itself_is_found_by_the_question(
    *, called: bool, within_s: float
) -> None:
    gateway = Gateway(FOR_EVER_S, QUICK_S, hangs_s=(0, GOES_ON_S))
    CALLS.set(calls := Calls())

    async def call_on() -> None:
        while called:
            calls.note(now_s())
            await asyncio.sleep(CALLED_FOR_S / 2)

    calling = asyncio.ensure_future(call_on())
    async with Awakening(gateway.knock, question=gateway.question) as awakening:
        # The first request of a session: it is repeated only where the server was silent.
        assert await awakening.answer(gateway.ask, drop=gateway.drop, says_nothing=says_nothing) == 1
    calling.cancel()
    assert GOES_ON_S < now_s() < GOES_ON_S + within_s


async def test_a_slow_one_behind_such_a_gateway_is_asked_for_one_session_alone() -> None:
    gateway = Gateway(50.0)
    async with Awakening(gateway.knock, question=gateway.question) as awakening:
        assert await awakening.answer(gateway.ask, drop=gateway.drop, says_nothing=says_nothing) == 0
    assert len(gateway.asked_at_s) == 1


async def test_one_that_is_slow_with_the_question_too_is_asked_it_no_more_often_than_it_may_cost() -> None:
    asked_at_s: list[float] = []

    async def slow_question() -> int:
        asked_at_s.append(now_s())
        await asyncio.sleep(12.0)  # A program that is started for it.
        return 200

    gateway = Gateway(50.0)
    async with Awakening(gateway.knock, question=slow_question) as awakening:
        assert await awakening.answer(gateway.ask, drop=gateway.drop, says_nothing=says_nothing) == 0
    assert (len(gateway.asked_at_s), len(asked_at_s)) == (1, 50 // QUESTION_EVERY_S)


async def test_calls_hurry_the_knocks_also_at_one_that_has_answered_slowly() -> None:
    CALLS.set(calls := Calls())
    others, took_s = Knocks(KNOCKS_PER_S_MAX), 2 * KNOCK_EVERY_S
    crowd = [Server() for _ in range(20 * KNOCKS_PER_S_MAX)]
    for one in crowd:
        others.add(one, called=False)
    server = Server(took_s)
    async with Awakening(server.knock, knocks=others) as awakening:
        await awakening.answer(server.ask, drop=server.drop, says_nothing=says_nothing)
        server.knocked_at_s.clear()
        calls.note(now_s())
        await asyncio.sleep(SLOW_ANSWERS * took_s + 0.1)
    assert server.knocked_at_s


async def test_questions_are_answered_in_any_order_when_it_goes_on() -> None:
    answers_s = iter([2 * KNOCK_EVERY_S, 1.5 * KNOCK_EVERY_S])

    async def question() -> int:
        await asyncio.sleep(next(answers_s, QUICK_S))
        return 200

    gateway = Gateway(FOR_EVER_S, QUICK_S)
    CALLS.set(calls := Calls())
    calls.note(now_s())
    async with Awakening(gateway.knock, question=question) as awakening:
        assert await awakening.answer(gateway.ask, says_nothing=says_nothing) == 1
        await asyncio.sleep(LATE_S / 2)


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
