"""Instances of bare addresses: what each is called, and what is no address."""

import pytest

from discovery.targets import host_and_port, instance_at

HOSTS = ("::1", "::", "fd00::1", "fd00:1::", "fd00:0:1::", "10.0.0.1", "node-b.test", "node_b.test", "a", "::a")


def test_no_two_addresses_have_one_name() -> None:
    assert len({instance_at("x", host, 8000).key for host in HOSTS}) == len(HOSTS)


@pytest.mark.parametrize(
    ("host", "called"),
    [("[FD00::1]", "fd00--1-8000"), ("::1", "0--1-8000"), ("node-b.test.", "node-b.test-8000"), ("web", "web-8000")],
)
def test_an_address_is_called_by_itself_and_dialled_as_it_is(host: str, called: str) -> None:
    one = instance_at("x", host, 8000)
    assert (one.key.service_id, one.address) == (called, host.strip("[]").rstrip("."))


@pytest.mark.parametrize("text", ["a", "a:0", "a:65536", "http://a:1", "a b:1", 7, None, "[::1]"])
def test_what_is_no_address_with_a_port_is_refused_with_its_text(text: object) -> None:
    with pytest.raises(ValueError, match="no host:port"):
        host_and_port(text)
