"""The listening socket: an explicit port is used or refused, the default one moves on."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agent.app.sockets import (
    KEEPALIVE_IDLE_S,
    KEEPALIVE_INTERVAL_S,
    KEEPALIVE_PROBES,
    USER_TIMEOUT_MS,
    AddressInfo,
    bound_socket,
    display_host,
    listened_host,
    preferred,
)
from agent.errors import ConfigRefused

HOST = "127.0.0.1"


@contextmanager
def taken() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind((HOST, 0))
        holder.listen()
        yield holder.getsockname()[1]


def test_a_free_port_is_listened_on_at_once() -> None:
    with bound_socket(HOST, 0, explicit=True) as bound, socket.create_connection(bound.getsockname(), timeout=5):
        assert not bound.getblocking()


def test_an_accepted_connection_is_probed_and_waits_only_so_long_for_an_acknowledgement() -> None:
    with bound_socket(HOST, 0, explicit=True) as bound, socket.create_connection(bound.getsockname(), timeout=5):
        bound.setblocking(True)
        accepted, _ = bound.accept()
        with accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            told = {
                name: accepted.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
                for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
                if hasattr(socket, name)
            }
    wanted = {
        "TCP_KEEPIDLE": KEEPALIVE_IDLE_S,
        "TCP_KEEPINTVL": KEEPALIVE_INTERVAL_S,
        "TCP_KEEPCNT": KEEPALIVE_PROBES,
        "TCP_USER_TIMEOUT": USER_TIMEOUT_MS,
    }
    assert told == {name: wanted[name] for name in told}


def test_an_explicit_port_that_is_busy_is_refused_with_its_number() -> None:
    with (
        taken() as port,
        pytest.raises(ConfigRefused, match=f"PORT: {port} is in use"),
        bound_socket(HOST, port, explicit=True),
    ):
        pytest.fail("it must not be bound")


def test_the_default_port_moves_on_to_the_next_free_one() -> None:
    with taken() as port, bound_socket(HOST, port, explicit=False) as bound:
        assert port < bound.getsockname()[1] <= port + 100


def test_two_nodes_with_the_default_port_get_two_ports() -> None:
    with (
        taken() as port,
        bound_socket(HOST, port, explicit=False) as one,
        bound_socket(HOST, port, explicit=False) as two,
    ):
        assert one.getsockname()[1] != two.getsockname()[1]


def test_the_last_port_of_all_does_not_wrap_around() -> None:
    with (
        bound_socket(HOST, 65_535, explicit=False),
        pytest.raises(ConfigRefused, match="no free port"),
        bound_socket(HOST, 65_535, explicit=False),
    ):
        pytest.fail("it must not be bound")


@pytest.mark.parametrize(
    ("host", "message"),
    [("192.0.2.1", "HOST: 192.0.2.1 is no address of this machine"), ("no.such.host.invalid", "HOST and PORT")],
)
def test_a_host_that_is_not_ours_is_refused_with_the_setting(host: str, message: str) -> None:
    with pytest.raises(ConfigRefused, match=message), bound_socket(host, 0, explicit=False):
        pytest.fail("it must not be bound")


def test_the_socket_is_closed_when_its_time_is_over() -> None:
    with bound_socket(HOST, 0, explicit=True) as bound:
        pass
    assert bound.fileno() == -1


@pytest.mark.parametrize(
    ("bind_host", "shown"),
    [("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("", "127.0.0.1"), ("::1", "[::1]"), ("10.1.2.3", "10.1.2.3")],
)
def test_the_host_that_is_shown_is_one_that_can_be_called(bind_host: str, shown: str) -> None:
    assert display_host(bind_host) == shown


def test_a_name_with_two_addresses_is_listened_on_over_ipv4() -> None:
    six: AddressInfo = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 8000, 0, 0))
    four: AddressInfo = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 8000))
    assert preferred([six, four]) == four
    assert preferred([six]) == six


@pytest.mark.parametrize(
    ("family", "address", "host", "registered"),
    [
        (socket.AF_INET6, "::1", "localhost", "::1"),
        (socket.AF_INET, "127.0.0.1", "localhost", "127.0.0.1"),
        (socket.AF_INET, "127.0.0.1", "my-host", "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0", "0.0.0.0", "0.0.0.0"),
    ],
)
def test_what_is_listened_on_is_what_is_registered(
    family: socket.AddressFamily, address: str, host: str, registered: str
) -> None:
    with socket.socket(family) as bound:
        try:
            bound.bind((address, 0))
        except OSError as exc:
            pytest.skip(f"this machine has no {address}: {exc}")
        assert listened_host(bound, host) == registered
