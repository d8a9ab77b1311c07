"""Which address is registered, case by case."""

import pytest

from discovery.consul.advertise import advertised_address, route_ip_to
from discovery.model import CatalogUnavailable, SettingsRefused

LOCAL, REMOTE = "http://127.0.0.1:8500", "http://consul:8500"


@pytest.mark.parametrize(
    ("explicit", "bind_host", "consul_url", "route_ip", "address"),
    [
        ("node1.example", "0.0.0.0", REMOTE, "10.0.0.5", "node1.example"),
        ("[fd00::5]", "::", REMOTE, None, "fd00::5"),
        ("192.0.2.7", "127.0.0.1", REMOTE, None, "192.0.2.7"),
        (None, "0.0.0.0", LOCAL, "127.0.0.1", ""),
        (None, "::", "unix:///run/consul.sock", None, ""),
        (None, "", LOCAL, None, ""),
        (None, "10.0.0.5", LOCAL, None, "10.0.0.5"),
        (None, "10.0.0.5", REMOTE, "10.9.9.9", "10.0.0.5"),
        (None, "0.0.0.0", REMOTE, "10.0.0.5", "10.0.0.5"),
        (None, "127.0.0.1", LOCAL, None, "127.0.0.1"),
        (None, "localhost", LOCAL, None, "127.0.0.1"),
        (None, "::1", "http://[::1]:8500", None, "::1"),
        (None, "0.0.0.0", REMOTE, "127.0.0.1", ""),  # A name that leads to loopback.
        (None, "127.0.0.1", REMOTE, "::1", "127.0.0.1"),
        ("  ", "127.0.0.1", LOCAL, None, "127.0.0.1"),
    ],
)
def test_the_address_follows_from_binding_and_from_where_consul_is(
    explicit: str | None, bind_host: str, consul_url: str, route_ip: str | None, address: str
) -> None:
    assert (
        advertised_address(explicit=explicit, bind_host=bind_host, consul_url=consul_url, route_ip=route_ip) == address
    )


@pytest.mark.parametrize(
    ("explicit", "bind_host", "consul_url", "route_ip", "fix"),
    [
        (None, "127.0.0.1", REMOTE, "10.0.0.5", "HOST=0.0.0.0"),
        (None, "localhost", "https://consul.example:8501", None, "MESH_ADVERTISE_ADDRESS"),
        (None, "0.0.0.0", REMOTE, None, "MESH_ADVERTISE_ADDRESS"),
        ("0.0.0.0", "0.0.0.0", LOCAL, None, "MESH_ADVERTISE_ADDRESS"),
        ("http://node1", "0.0.0.0", LOCAL, None, "MESH_ADVERTISE_ADDRESS"),
    ],
)
def test_an_address_that_others_cannot_use_is_refused_with_the_fix(
    explicit: str | None, bind_host: str, consul_url: str, route_ip: str | None, fix: str
) -> None:
    with pytest.raises(SettingsRefused, match=fix):
        advertised_address(explicit=explicit, bind_host=bind_host, consul_url=consul_url, route_ip=route_ip)


async def test_the_route_to_loopback_is_loopback_and_a_name_without_an_address_is_an_outage() -> None:
    assert await route_ip_to("127.0.0.1") == "127.0.0.1"
    with pytest.raises(CatalogUnavailable, match=r"no-such-host\.invalid"):
        await route_ip_to("no-such-host.invalid")
