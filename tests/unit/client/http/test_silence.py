"""Which failures of connections say that nothing came back at all, and that the failures made of them still say so.

And which are a lack of this node's own.
"""

import asyncio
import errno
import os
import resource
import socket
import ssl

import pytest

from agent.client.http.answer import ConnectionBroken, NotHttp
from agent.client.http.dial import DialFailed, Dialler
from agent.client.http.silence import is_short, is_silence, noted
from agent.errors import CallNotSent, CallTimedOut, Unreachable


def system_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    "exc",
    [
        TimeoutError(),
        *map(system_error, (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN)),
        socket.gaierror(socket.EAI_AGAIN, "the resolver does not answer"),
        system_error(errno.EMFILE),
        DialFailed("does not accept the connection in time", silent=True),
        DialFailed("cannot be reached, as this node is out of file descriptors", short=True),
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
        *map(system_error, (errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE)),
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


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL])
def test_a_lack_of_this_nodes_own_is_one_through_all_failures_that_are_made_of_it(number: int) -> None:
    failure = noted(CallNotSent("not sent"), system_error(number))
    assert (failure.short, failure.silent) == (True, True)
    made = Unreachable.of(Unreachable.because(failure))
    assert (made.short, made.silent, is_short(made)) == (True, True, True)
    assert not noted(CallNotSent("not sent"), system_error(errno.ETIMEDOUT)).short


async def test_a_dial_without_descriptors_says_so_with_the_fix() -> None:
    dialler, limits = Dialler("127.0.0.1", 80, tls=False, timeout_s=1.0), resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        with pytest.raises(DialFailed, match=r"out of file descriptors: raise `ulimit -n`, or LimitNOFILE") as raised:
            await dialler.dial(asyncio.Protocol)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert raised.value.short
