"""Which addresses are this node's own: a handshake that a third party passes on is refused, and so is our own URL."""

import pytest

from agent.identity.addresses import OwnAddresses, is_ours, may_lead_to_us, names_us, normal_host

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


def listening_on(address: str) -> OwnAddresses:
    return OwnAddresses(
        names=frozenset({"box", "node-a", "192.0.2.7"}),
        ports=frozenset({8000, 443}),
        proxied=frozenset({"mesh.example"}),
        listens_on=(address, 8000),
        sure=frozenset({"box", "192.0.2.7"}),
    )


@pytest.mark.parametrize(
    ("listened", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("127.0.0.1", "http://127.0.0.1:8000//mcp"),
        ("127.0.0.1", "http://127.0.0.1:8000/%6dcp/"),
        ("127.0.0.1", "http://LocalHost.:8000/mcp"),
        ("127.0.0.1", "http://[::1]:8000/mcp"),
        ("127.0.0.1", "http://[::ffff:127.0.0.1]:8000/mcp"),
        ("127.0.0.1", "https://127.0.0.1:8000/mcp"),
        ("127.0.0.1", "http://BOX.:8000/mcp"),
        ("::1", "http://127.0.0.1:8000/mcp"),
        ("127.0.0.2", "http://127.0.0.2:8000/mcp"),
        ("0.0.0.0", "http://127.9.9.9:8000/mcp"),
        ("0.0.0.0", "https://192.0.2.7/mcp"),
        ("::", "http://node.localhost:8000/mcp"),
    ],
)
def test_a_url_names_this_node_in_any_spelling_of_host_port_and_path(listened: str, url: str) -> None:
    assert names_us(url, listening_on(listened))


@pytest.mark.parametrize(
    ("listened", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8001/mcp"),
        ("127.0.0.1", "http://127.0.0.2:8000/mcp"),
        ("127.0.0.2", "http://localhost:8000/mcp"),
        ("192.0.2.5", "http://127.0.0.1:8000/mcp"),
        ("0.0.0.0", "http://192.0.2.8:8000/mcp"),
        ("0.0.0.0", "http://box/mcp"),
        ("0.0.0.0", "http://node-a:8000/mcp"),  # Another machine may have the name that an operator gave this node.
        ("0.0.0.0", "https://mesh.example/mcp"),
    ],
)
def test_a_url_that_may_lead_elsewhere_names_this_node_not(listened: str, url: str) -> None:
    assert not names_us(url, listening_on(listened))


@pytest.mark.parametrize(
    ("url", "may_lead"),
    [
        ("http://192.0.2.8:8000/mcp", True),
        ("https://192.0.2.8/mcp", True),
        ("http://mesh.example:81/agents/mcp", True),
        ("http://192.0.2.8:81/mcp", False),
    ],
)
def test_only_a_url_with_a_port_or_a_proxys_name_of_ours_is_worth_a_handshake(url: str, *, may_lead: bool) -> None:
    assert may_lead_to_us(url, listening_on("127.0.0.1")) is may_lead
