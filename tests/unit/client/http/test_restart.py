"""How long a server of HTTP+SSE that refuses connections is waited for: two seconds, once until it answers."""

import pytest

from agent.client.http.restart import RESTART_PAUSE_S, Restart
from agent.errors import CallNotSent
from tests.scripted_client import now_s

pytestmark = pytest.mark.looptime

# As docs/reliability.md says.
WAITED_FOR_S = 2.0
NEVER_S = 10_000.0


class Server:
    """It refuses what is attempted until `back_at_s`."""

    def __init__(self, back_at_s: float) -> None:
        self.back_at_s = back_at_s
        self.attempts = 0

    async def attempt(self) -> None:
        self.attempts += 1
        if now_s() < self.back_at_s:
            raise CallNotSent("refuses the connection")

    async def wait(self, restart: Restart, deadline_s: float = NEVER_S) -> None:
        await restart.tried(self.attempt, restart.failed, deadline_s, lambda _: True)


async def test_a_server_that_is_back_within_two_seconds_is_found_by_tries_at_a_quarter_of_a_second() -> None:
    server = Server(WAITED_FOR_S)
    await server.wait(Restart())
    assert now_s() == pytest.approx(WAITED_FOR_S)
    assert server.attempts == WAITED_FOR_S / RESTART_PAUSE_S + 1


async def test_one_that_stays_away_is_waited_for_once_until_it_answers() -> None:
    server, restart = Server(WAITED_FOR_S + RESTART_PAUSE_S), Restart()
    for _ in range(2):
        with pytest.raises(CallNotSent, match="refuses the connection"):
            await server.wait(restart)
        assert now_s() == pytest.approx(WAITED_FOR_S)
    restart.over()
    await server.wait(restart)
    assert now_s() == pytest.approx(WAITED_FOR_S + RESTART_PAUSE_S)


async def test_no_request_is_waited_for_beyond_its_deadline() -> None:
    with pytest.raises(CallNotSent):
        await Server(WAITED_FOR_S).wait(Restart(), deadline_s=1.0)
    assert now_s() == pytest.approx(1.0)
