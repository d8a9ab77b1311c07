"""The dial guard against a corpus of hostile addresses and URLs, and its resolver against a lying name server."""

import ipaddress
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given
from hypothesis import strategies as st

from agent.client.dial_guard import GuardedResolver, check_url, limit_dials, refuse_address
from agent.config.values import parse_networks
from agent.errors import DialRefused

TRIES = 3
REFUSED = [
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "fd20:ce::254",
    "fd00:c1::a9fe:a9fe",
    "fd00:42::42",
    "fd00:a9fe:a9fe::1",
    "fd00:100::100:200",
    "fe80::a9fe:a9fe",
    "169.254.42.42",
    "::ffff:0:a9fe:a9fe",
    "169.254.0.1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "224.0.0.1",
    "239.255.255.250",
    "ff02::1",
    "0.0.0.0",
    "0.1.2.3",
    "::",
    "255.255.255.255",
    "::ffff:169.254.169.254",
    "::ffff:a9fe:a9fe",
    "::169.254.169.254",
    "2002:a9fe:a9fe::1",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::a9fe:a9fe",
    "::ffff:0.0.0.0",
    "::ffff:224.0.0.1",
    "not an address",
]
PERMITTED = ["127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "fd12::1", "8.8.8.8", "2606:4700::1111"]


@pytest.mark.parametrize("ip", REFUSED)
def test_an_address_that_must_not_be_dialled_is_refused(ip: str) -> None:
    assert refuse_address(ip) is not None


@pytest.mark.parametrize("ip", PERMITTED)
def test_loopback_private_and_public_addresses_are_permitted(ip: str) -> None:
    assert refuse_address(ip) is None


@given(st.integers(min_value=0, max_value=2**32 - 1))
def test_every_ipv4_address_gets_the_same_answer_when_it_is_embedded(number: int) -> None:
    plain = ipaddress.IPv4Address(number)
    refused = refuse_address(str(plain)) is not None
    for shape in (
        f"::ffff:{plain}",
        f"::ffff:0:{plain}",
        f"64:ff9b::{plain}",
        str(ipaddress.IPv6Address((0x2002 << 112) | (number << 80))),
    ):
        assert (refuse_address(shape) is not None) == refused, shape


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("http://node2:8000/mcp", "http://node2:8000/mcp"),
        ("HTTP://Node2:80/mcp/", "http://node2/mcp/"),
        ("https://example.org", "https://example.org/"),
        ("https://example.org:443/a?b=c%20d", "https://example.org/a?b=c%20d"),
        ("http://127.0.0.1:9/mcp", "http://127.0.0.1:9/mcp"),
        ("http://[::1]:8000/mcp", "http://[::1]:8000/mcp"),
        ("http://[0:0:0:0:0:0:0:1]/mcp", "http://[::1]/mcp"),
        ("http://my_host/mcp", "http://my_host/mcp"),
        ("http://xn--bcher-kva.example./mcp", "http://xn--bcher-kva.example./mcp"),
    ],
)
def test_a_good_url_comes_back_in_normal_form_and_stays_so(url: str, normal: str) -> None:
    assert check_url(url) == normal
    assert check_url(normal) == normal


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0xa9.0xfe.0xa9.0xfe",
        "0251.0376.0251.0376",
        "0177.0.0.1",
        "0x7f.1",
        "127.1",
        "127.0.1",
        "1",
        "0",
        "0x",
        "127.0.0.1.",
        "127.0.0.01",
        "1.2.3.4.5",
        "foo.0x1",
        "999.1.1.1",
        "[::ffff:169.254.169.254]",
        "[fd00:ec2::254]",
        "[fe80::1%25eth0]",
        "[::]",
        "224.0.0.1",
    ],
)
def test_a_literal_that_may_lead_to_a_refused_address_is_refused(host: str) -> None:
    with pytest.raises(DialRefused):
        check_url(f"http://{host}/mcp")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://host/mcp", "http"),
        ("file:///etc/passwd", "http"),
        ("//host/mcp", "http"),
        ("host/mcp", "http"),
        ("", "http"),
        ("http://user:secret@host/mcp", "user name"),
        ("http://host@169.254.169.254/", "user name"),
        ("http://host/mcp#part", "fragment"),
        ("http://host/mcp#", "fragment"),
        ("http:///mcp", "no host"),
        ("http://:80/mcp", "no host"),
        ("http://host:0/mcp", "port 0"),
        ("http://host:99999/mcp", "cannot be read"),
        ("http://host:x/mcp", "cannot be read"),
        ("http://ho st/mcp", "percent-encoded"),
        ("http://host/m\r\ncp", "percent-encoded"),
        ("http://host\\@evil/mcp", "percent-encoded"),
        ("http://h\u00f6st/mcp", "percent-encoded"),
        ("http://\uff11\uff16\uff19.254.169.254/", "percent-encoded"),
        ("http://ho%73t/mcp", "legal name"),
        ("http://-bad/mcp", "legal name"),
        ("http://a..b/mcp", "legal name"),
        ("http://[::1/mcp", "cannot be read"),
        ("http://[nonsense]/mcp", "cannot be read"),
        ("http://host/" + "x" * 3000, "longer"),
    ],
)
def test_a_bad_url_is_refused_with_its_reason(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_url(url)


@pytest.mark.parametrize("host", ["8" + 200 * "D" + "$", 60 * "D-" + "$", 62 * "a." + "!", 240 * "_" + "-"])
def test_a_name_that_is_nearly_one_is_refused_at_once(host: str) -> None:
    took_s = []
    for _ in range(TRIES):
        began_s = time.thread_time()
        with pytest.raises(ValueError, match="not a legal name"):
            check_url(f"http://{host}/mcp")
        took_s.append(time.thread_time() - began_s)
    assert min(took_s) < 0.1, took_s


@given(st.text(max_size=60))
def test_any_text_is_either_normalised_or_refused(text: str) -> None:
    for url in (text, f"http://{text}", f"http://host/{text}"):
        try:
            normal = check_url(url)
        except (ValueError, DialRefused):
            continue
        assert check_url(normal) == normal


@pytest.fixture
def limits() -> Iterator[Callable[[str, str], None]]:
    """Sets both limits for a test, as settings have them; no text for no limit."""

    def set_limits(allow: str, deny: str) -> None:
        limit_dials(parse_networks(allow) if allow else None, parse_networks(deny))

    yield set_limits
    limit_dials(None, ())


INSIDE = ["10.1.2.3", "::ffff:10.1.2.3", "fd12::1"]
OUTSIDE = ["127.0.0.1", "::1", "192.168.1.1", "8.8.8.8", "fe80::1", "2002:0a01:0203::1", "64:ff9b::10.1.2.3"]


def test_with_ranges_allowed_nothing_else_is_dialled_nor_what_only_seems_to_lead_there(
    limits: Callable[[str, str], None],
) -> None:
    limits("10.0.0.0/8, fd12::/16", "")
    assert [ip for ip in (*INSIDE, *OUTSIDE) if refuse_address(ip) is None] == INSIDE
    with pytest.raises(DialRefused, match="MESH_DIAL_ALLOW"):
        check_url("http://127.0.0.1:8000/mcp")


def test_a_range_that_is_denied_is_refused_in_every_notation_and_beats_one_that_is_allowed(
    limits: Callable[[str, str], None],
) -> None:
    limits("10.0.0.0/8, 2002::/16, 64:ff9b::/96", "10.1.0.0/16")
    for ip in ("10.1.2.3", "::ffff:10.1.2.3", "2002:0a01:0203::1", "64:ff9b::10.1.2.3"):
        assert "MESH_DIAL_DENY" in str(refuse_address(ip)), ip
    assert refuse_address("10.2.0.1") is None


def test_no_range_that_is_allowed_opens_a_metadata_service_or_a_link_local_address(
    limits: Callable[[str, str], None],
) -> None:
    limits("0.0.0.0/0, ::/0", "")
    assert [ip for ip in REFUSED if refuse_address(ip) is None] == []
    assert [ip for ip in PERMITTED if refuse_address(ip) is not None] == []


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "localhost", "10.0.0.0/8;::1", "fe80::1%eth0/64"])
def test_what_is_no_range_of_addresses_is_refused_as_a_setting(text: str) -> None:
    with pytest.raises(ValueError, match="must be ranges like"):
        parse_networks(text)


async def test_a_name_that_leads_out_of_what_is_allowed_is_refused(limits: Callable[[str, str], None]) -> None:
    limits("10.0.0.0/8", "")
    with pytest.raises(DialRefused, match="MESH_DIAL_ALLOW"):
        await GuardedResolver(inner=ListedResolver(["127.0.0.1"])).resolve("inside.example", 80)


class ListedResolver(AbstractResolver):
    """A name server that says what the test wants, a different answer each time."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.closed = False

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=ip, port=port, family=family, proto=0, flags=0)
            for ip in self.answers.pop(0)
        ]

    async def close(self) -> None:
        self.closed = True


async def test_a_name_that_leads_only_to_refused_addresses_is_refused() -> None:
    resolver = GuardedResolver(inner=ListedResolver(["169.254.169.254", "fe80::1%2"]))
    with pytest.raises(DialRefused, match="metadata"):
        await resolver.resolve("evil.example", 80)


async def test_refused_addresses_are_left_out_of_a_mixed_answer() -> None:
    resolver = GuardedResolver(inner=ListedResolver(["fe80::1%2", "127.0.0.1"]))
    assert [entry["host"] for entry in await resolver.resolve("mixed.example", 80)] == ["127.0.0.1"]


async def test_an_answer_that_changes_between_check_and_dial_is_caught_because_each_answer_is_checked() -> None:
    resolver = GuardedResolver(inner=ListedResolver(["127.0.0.1"], ["169.254.169.254"]))
    await resolver.resolve("rebinding.example", 80)
    with pytest.raises(DialRefused):
        await resolver.resolve("rebinding.example", 80)


async def test_closing_closes_the_resolver_behind() -> None:
    inner = ListedResolver()
    await GuardedResolver(inner=inner).close()
    assert inner.closed
