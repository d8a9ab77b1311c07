"""The cookies of one origin."""

import pytest

from agent.client.http.cookies import COOKIES_BYTES_MAX, COOKIES_MAX, CookieJar

NOW_S = 1_700_000_000.0


def jar_of(*headers: str, secure: bool = False, target: str = "/a/mcp?x=1") -> CookieJar:
    jar = CookieJar()
    jar.take(headers, "h.example", target, NOW_S, secure=secure)
    return jar


@pytest.mark.parametrize(
    ("header", "sent"),
    [
        ("AWSALB=abc+/==; Expires=Sat, 28 Nov 2099 22:00:00 GMT; Path=/", "AWSALB=abc+/=="),
        ("SERVERID=s1", "SERVERID=s1"),
        ('q="with quotes"; HttpOnly; SameSite=None', 'q="with quotes"'),
        ("a=1; Path=/a", "a=1"),
        ("a=1; Path=/a/mcp/", ""),
        ("a=1; Path=/ab", ""),
        ("a=1; Path=relative", "a=1"),
        ("a=1; Domain=h.example", "a=1"),
        ("a=1; Domain=.EXAMPLE", "a=1"),
        ("a=1; Domain=other.example", ""),
        ("a=1; Domain=x.h.example", ""),
        ("a=1; Secure", ""),
        ("a=1; Max-Age=0", ""),
        ("a=1; Max-Age=-1; Expires=Sat, 28 Nov 2099 22:00:00 GMT", ""),
        ("a=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT", ""),
        ("a=1; Expires=some day", "a=1"),
        ("a=1; Max-Age=99999999999999999999", "a=1"),
        ("no pair", ""),
        ("=1", ""),
        ("a b=1", ""),
        ("a=1\r\nX-Evil: 1", ""),
        ("a=\xe4", ""),
        ("a=" + "x" * 5000, ""),
    ],
)
def test_a_cookie_is_sent_back_where_it_is_for_us(header: str, sent: str) -> None:
    assert jar_of(header).header("/a/mcp?y=2", NOW_S) == sent


def test_a_secure_cookie_is_kept_over_tls_only() -> None:
    assert jar_of("a=1; Secure", secure=True).header("/a/mcp", NOW_S) == "a=1"


def test_a_cookie_is_replaced_taken_back_and_forgotten_in_time() -> None:
    jar = jar_of("a=1; Path=/; Max-Age=10", "b=2; Path=/", "a=3; Path=/; Max-Age=10")
    assert jar.header("/", NOW_S, "own=0") == "own=0; b=2; a=3"
    assert jar.header("/", NOW_S + 11) == "b=2"
    jar.take(["b=; Path=/; Max-Age=0"], "h.example", "/", NOW_S, secure=False)
    assert jar.header("/", NOW_S + 11) == ""


def test_a_server_that_sets_cookies_without_end_is_bounded_and_shown_nowhere() -> None:
    jar = jar_of(*(f"c{n}=canary{'x' * 1000}" for n in range(1000)))
    assert 0 < len(jar) <= COOKIES_MAX
    assert len(jar.header("/a/mcp", NOW_S)) < COOKIES_BYTES_MAX + 4 * COOKIES_MAX
    assert jar.header("/a/mcp", NOW_S).startswith("c99")
    assert "canary" not in repr(jar)
