"""Which proxy a URL is reached through, by the variables of an environment."""

import base64

import pytest

from agent.client.proxies import ProxyFault, proxies_of

BOTH = {"HTTP_PROXY": "http://plain:3128", "HTTPS_PROXY": "http://secure:3128"}


@pytest.mark.parametrize(
    ("environ", "url", "shown"),
    [
        ({}, "http://h.example/mcp", None),
        (BOTH, "http://h.example/mcp", "plain:3128 (HTTP_PROXY)"),
        (BOTH, "https://h.example/mcp", "secure:3128 (HTTPS_PROXY)"),
        (BOTH | {"http_proxy": "lower:1"}, "http://h.example/mcp", "lower:1 (http_proxy)"),
        (BOTH | {"http_proxy": "  "}, "http://h.example/mcp", "plain:3128 (HTTP_PROXY)"),
        ({"http_proxy": "proxy.example"}, "http://h.example/mcp", "proxy.example:80 (http_proxy)"),
        ({"http_proxy": "http://[2001:db8::1]:3128/"}, "http://h.example/mcp", "[2001:db8::1]:3128 (http_proxy)"),
        ({"HTTP_PROXY": "http://p:1"}, "https://h.example/mcp", None),
        ({"ALL_PROXY": "http://p:1"}, "https://h.example/mcp", None),
    ],
)
def test_the_scheme_chooses_the_variable_and_lower_case_wins(
    environ: dict[str, str], url: str, shown: str | None
) -> None:
    proxy = proxies_of(environ).of(url)
    assert (None if proxy is None else str(proxy)) == shown


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.9.9.9", "[::1]", "[::ffff:127.0.0.1]"]
)
def test_this_machine_is_never_behind_a_proxy(host: str) -> None:
    assert proxies_of(BOTH).of(f"http://{host.lower()}:8000/mcp") is None


@pytest.mark.parametrize(
    ("exceptions", "urls"),
    [
        ("*", ["http://a.example/", "https://10.0.0.1/"]),
        ("a.example", ["http://a.example/", "https://b.a.example:8443/"]),
        (".a.example, x", ["http://a.example/", "http://b.a.example/", "http://x/"]),
        ("*.a.example", ["http://b.a.example/"]),
        ("A.Example:8443", ["https://a.example:8443/"]),
        ("a.example:443 b.example:80", ["https://a.example/", "http://b.example/"]),
        ("10.0.0.0/8,192.168.1.1", ["http://10.9.8.7/", "http://192.168.1.1:1/"]),
        (
            "fd00::/8,[2001:db8::1]:8000,2001:db8::2",
            ["http://[fd00::1]/", "http://[2001:db8::1]:8000/", "http://[2001:db8::2]/"],
        ),
    ],
)
def test_an_exception_is_dialled_directly(exceptions: str, urls: list[str]) -> None:
    for url in urls:
        assert proxies_of(BOTH | {"NO_PROXY": exceptions}).of(url) is None, url
        assert proxies_of(BOTH | {"no_proxy": exceptions, "NO_PROXY": "other"}).of(url) is None, url


@pytest.mark.parametrize(
    ("exceptions", "url"),
    [
        ("a.example", "http://ba.example/"),
        ("a.example:8443", "https://a.example/"),
        ("10.0.0.0/8", "http://11.0.0.1/"),
        ("10.0.0.0/8", "http://ten.example/"),
        ("10.0.0.0/99, /, :, [, , .", "http://10.0.0.1/"),
        ("0.0.1", "http://10.0.0.1/"),
    ],
)
def test_what_only_looks_like_an_exception_is_not_one(exceptions: str, url: str) -> None:
    assert proxies_of(BOTH | {"NO_PROXY": exceptions}).of(url) is not None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            "socks5://user:canary@p:1080",
            "HTTPS_PROXY names a proxy of scheme 'socks5'; only http:// proxies can be used",
        ),
        ("https://user:canary@p:443", "names a proxy of scheme 'https'"),
        ("http://user:canary@p:port", "HTTPS_PROXY is not a URL like http://proxy.example:3128"),
        ("http://user:canary@", "HTTPS_PROXY is not a URL like"),
        ("http://user:canary@169.254.169.254:80", "HTTPS_PROXY is not a URL like .*is a cloud metadata service"),
        ("http://user:canary@a b", "HTTPS_PROXY is not a URL like"),
        ("http://[", "HTTPS_PROXY is not a URL like"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named_by_its_variable_without_its_password(value: str, words: str) -> None:
    proxies = proxies_of({"HTTPS_PROXY": value})
    with pytest.raises(ProxyFault, match=words) as caught:
        proxies.of("https://h.example/mcp")
    assert "canary" not in f"{caught.value} {proxies!r}"
    assert proxies.of("http://h.example/mcp") is None


def test_user_and_password_become_a_header_that_is_shown_nowhere() -> None:
    proxy = proxies_of({"https_proxy": "http://me%40x:can%3Aary@p:1"}).of("https://h.example/mcp")
    assert proxy is not None
    assert proxy.authorization == "Basic bWVAeDpjYW46YXJ5"
    assert "ary" not in f"{proxy} {proxy!r}"


def test_a_password_that_is_no_utf_8_is_sent_as_the_bytes_that_it_is() -> None:
    for value in ("http://me:\udcbf@p:1", "http://me:%bf@p:1"):
        proxy = proxies_of({"http_proxy": value}).of("http://h.example/mcp")
        assert proxy is not None
        assert base64.b64decode(str(proxy.authorization).removeprefix("Basic ")) == b"me:\xbf"
