"""Which addresses are this node's own, so that a handshake which a third party passes on is refused."""

import pytest

from agent.rest.handshake import OwnAddresses, is_ours, normal_host

OWN = OwnAddresses(frozenset({"node-a", "10.0.0.7"}), frozenset({8000, 80}), frozenset({"mesh.example", "2001:db8::1"}))


@pytest.mark.parametrize(
    ("authority", "came_to"),
    [
        ("192.0.2.5:8000", ("192.0.2.5", 8000)),
        ("192.0.2.5:8000", ("::ffff:192.0.2.5", 8000)),
        ("[::ffff:192.0.2.5]:8000", ("192.0.2.5", 8000)),
        ("[0:0:0:0:0:0:0:1]:8000", ("::1", 8000)),
        ("localhost:8000", ("127.0.0.1", 8000)),
        ("LOCALHOST:8000", ("::1", 8000)),
        ("Node-A.:8000", ("172.17.0.2", 9000)),
        ("10.0.0.7:80", ("172.17.0.2", 9000)),
        ("Mesh.Example:443", ("172.17.0.2", 9000)),
        ("[2001:DB8:0::1]:443", ("172.17.0.2", 9000)),
    ],
)
def test_an_address_of_ours_is_known_in_any_spelling(authority: str, came_to: tuple[str, int]) -> None:
    assert is_ours(authority, came_to, OWN)


@pytest.mark.parametrize(
    "authority",
    [
        "192.0.2.5:4000",  # The same machine, and another process.
        "localhost:4000",
        "node-a:4000",
        "10.0.0.7:4000",
        "192.0.2.6:8000",
        "other:8000",
        "192.0.2.5",
        "192.0.2.5:",
        "192.0.2.5:80000000",
        "192.0.2.5:\u0664",
        "",
        ":8000",
    ],
)
def test_any_other_address_is_none_of_ours(authority: str) -> None:
    assert not is_ours(authority, ("192.0.2.5", 8000), OWN)
    assert not is_ours(authority, None, OWN)


def test_hosts_are_compared_in_one_form() -> None:
    assert normal_host("Mesh.Example.") == "mesh.example"
    assert normal_host("[::FFFF:10.0.0.1]") == normal_host("10.0.0.1") == "10.0.0.1"
    assert normal_host("fe80::1%eth0") == "fe80::1"
