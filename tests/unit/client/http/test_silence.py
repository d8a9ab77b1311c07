"""Which failures of connections say that nothing came back at all, and that the failures made of them still say so."""

import errno
import os
import socket
import ssl

import pytest

from agent.client.http.answer import ConnectionBroken, NotHttp
from agent.client.http.dial import DialFailed
from agent.client.http.silence import is_silence
from agent.errors import CallNotSent, CallTimedOut, Unreachable


def system_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    "exc",
    [
        TimeoutError(),
        *map(system_error, (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN)),
        socket.gaierror(socket.EAI_AGAIN, "the resolver does not answer"),
        DialFailed("does not accept the connection in time", silent=True),
        ConnectionBroken("broke off", silent=True),
    ],
    ids=repr,
)
def test_what_this_node_may_have_caused_by_not_being_heard_is_silence(exc: Exception) -> None:
    assert is_silence(exc)


@pytest.mark.parametrize(
    "exc",
    [
        None,
        *map(system_error, (errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.EMFILE)),
        socket.gaierror(socket.EAI_NONAME, "no such name"),
        ssl.SSLError(1, "bad certificate"),
        DialFailed("refuses the connection"),
        ConnectionBroken("closed the connection"),
        NotHttp("does not speak HTTP"),
        ValueError("a header"),
    ],
    ids=repr,
)
def test_a_refusal_a_reset_and_an_end_are_answers(exc: Exception | None) -> None:
    assert not is_silence(exc)


def test_a_failure_that_is_made_of_a_silent_one_is_silent() -> None:
    silent = CallTimedOut("no answer")
    assert Unreachable.because(silent).silent
    assert Unreachable.of(silent).silent
    assert not Unreachable.because(CallNotSent("refused")).silent
