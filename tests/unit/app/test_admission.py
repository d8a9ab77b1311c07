"""How many connections are let in, in all and for each address, and what the log has of those that are refused."""

import asyncio
import errno
import logging

import pytest

from agent.app.admission import CONNECTIONS_MAX, Admission, Caps, RareErrors, caps_of, exact_of, place_of


@pytest.mark.parametrize("descriptors", [64, 128, 1_024, 4_096, 1_048_576])
def test_connections_leave_a_node_the_descriptors_that_it_needs_itself(descriptors: int) -> None:
    caps = caps_of(descriptors)
    assert 0 < caps.reserved < caps.each < caps.total <= CONNECTIONS_MAX
    if descriptors > 64:
        assert descriptors - caps.total >= max(64, descriptors // 4)


CAPS = Caps(total=100, each=60, reserved=10)


@pytest.mark.parametrize(
    ("held", "of_address", "stranger", "known"),
    [
        (0, 0, "", ""),
        (89, 59, "", ""),
        (60, 60, "address", ""),
        (90, 1, "total", ""),
        (99, 99, "address", ""),
        (100, 0, "total", "total"),
    ],
)
def test_the_last_places_and_more_than_a_share_are_for_nodes(
    held: int, of_address: int, stranger: str, known: str
) -> None:
    assert CAPS.refusal(held, of_address, is_known=False) == stranger
    assert CAPS.refusal(held, of_address, is_known=True) == known


class Held(list[str]):
    """Connections by their addresses."""

    counted = 0

    def addresses(self) -> list[str]:
        self.counted += 1
        return self


async def test_an_address_with_its_share_is_refused_counted_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    held, refused = Held(["192.0.2.1"] * 59 + ["192.0.2.2"] * 5), list[str]()
    admission = Admission(CAPS, held, lambda: ["192.0.2.3"], refused.append)
    with caplog.at_level(logging.WARNING):
        assert [admission.admits("192.0.2.1") for _ in range(3)] == [True, False, False]
    assert admission.admits("192.0.2.2")
    assert admission.admits("192.0.2.3")
    assert admission.admits("127.0.0.1")
    assert refused == ["address", "address"]
    assert held.counted == 1, "one look at all connections for many that come at once"
    (record,) = caplog.records
    assert (record.__dict__["address"], record.__dict__["reason"]) == ("192.0.2.1", "address")


async def test_a_host_with_a_network_of_ipv6_is_one_address_and_ipv4_is_known_on_a_socket_of_ipv6() -> None:
    held = Held([f"2001:db8::{number:x}" for number in range(60)] + ["::ffff:192.0.2.2"] * 29)
    admission = Admission(CAPS, held, lambda: ["192.0.2.3"])
    assert admission.refusal("2001:db8::ffff:1") == "address"
    assert admission.refusal("2001:db8:0:1::1") == ""
    held.append("192.0.2.9")
    assert admission.refusal("2001:db8:0:2::1") == "total"
    assert [admission.refusal(one) for one in ("::ffff:127.0.0.1", "::ffff:192.0.2.3", "::1")] == ["", "", ""]


@pytest.mark.parametrize(
    ("address", "exact", "place"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1", "fe80::/64"),
        ("2001:DB8::1", "2001:db8::1", "2001:db8::/64"),
        ("node-b", "node-b", "node-b"),
        ("", "", ""),
    ],
)
def test_an_address_has_one_form_and_counts_with_its_network(address: str, exact: str, place: str) -> None:
    assert (exact_of(address), place_of(address)) == (exact, place)


async def test_while_there_is_room_for_all_no_one_is_counted() -> None:
    held = Held(["192.0.2.1"] * 59)
    assert Admission(CAPS, held).admits("192.0.2.1")
    assert held.counted == 0


async def test_that_descriptors_are_used_up_is_said_once_and_other_errors_are_as_they_were(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop, handle = asyncio.get_running_loop(), RareErrors()
    with caplog.at_level(logging.ERROR):
        for _ in range(1_000):
            failure = OSError(errno.EMFILE, "Too many open files")
            handle(loop, {"message": "socket.accept() out of system resource", "exception": failure, "socket": 1})
        assert [record.getMessage() for record in caplog.records] == ["no connection can be accepted"]
        handle(loop, {"message": "something else"})
    assert [record.getMessage() for record in caplog.records][1:] == ["something else"]
