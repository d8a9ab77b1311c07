"""A request as the layers pass it on: its deadline, and what a log may show of it."""

import asyncio

import pytest

from agent.client.protocol import Request, shown_s

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]


async def test_what_is_left_of_a_request_gets_less_and_is_never_given_anew() -> None:
    request = Request.within("tools/list", timeout_s=5.0)
    await asyncio.sleep(2.0)
    assert request.left_s() == 3.0
    await asyncio.sleep(4.0)
    assert request.left_s() == -1.0


async def test_the_repr_of_a_request_shows_no_data_of_its_caller() -> None:
    headers = {"mcp-param-a": "secret"}
    request = Request.within("tools/call", {"name": "secret"}, timeout_s=5.0, headers=headers, affinity="secret")
    assert repr(request) == f"Request(method='tools/call', deadline_s={request.deadline_s})"


@pytest.mark.parametrize(("left_s", "shown"), [(59.99995, "60 s"), (0.3, "0.3 s"), (1.25, "1.25 s"), (-0.001, "0 s")])
async def test_a_message_says_what_was_given_without_the_microseconds_of_the_way(left_s: float, shown: str) -> None:
    assert shown_s(left_s) == shown
