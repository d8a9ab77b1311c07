"""Where references lead: to our own origin, or nowhere."""

import pytest

from agent.client.http.origin import redirect_detail, slash_only, target_of

URL = "https://h.example/mcp?key=canary"


@pytest.mark.parametrize(
    ("reference", "target"),
    [
        ("/messages?id=1", "/messages?id=1"),
        ("messages", "/messages"),
        ("?id=1", "/mcp?id=1"),
        ("https://h.example:443/m", "/m"),
        ("https://H.EXAMPLE", "/"),
    ],
)
def test_a_reference_to_our_own_origin_gives_its_path_and_query(reference: str, target: str) -> None:
    assert target_of(URL, reference) == target


@pytest.mark.parametrize(
    "reference",
    [
        "http://h.example/m",
        "https://h.example:8443/m",
        "//evil.example/m",
        "https://u@h.example/m",
        "https://h.example.evil/",
    ],
)
def test_a_reference_to_another_origin_is_refused_whatever_it_looks_like(reference: str) -> None:
    with pytest.raises(ValueError, match=r"is another origin than https://h\.example"):
        target_of(URL, reference)


@pytest.mark.parametrize("reference", ["", "/a b", "/a\r\nX: y", "/ä", "/" + "a" * 9000, "\x00"])
def test_a_reference_that_no_request_line_carries_is_none(reference: str) -> None:
    with pytest.raises(ValueError, match="is no URL"):
        target_of(URL, reference)


@pytest.mark.parametrize(
    ("asked", "location", "moved"),
    [
        ("/mcp", "/mcp/", "/mcp/"),
        ("/mcp/", "https://h.example/mcp", "/mcp"),
        ("/mcp?key=canary", "/mcp/?key=canary", "/mcp/?key=canary"),
        ("/mcp", "mcp/", "/mcp/"),
        ("/mcp?key=canary", "/mcp/", None),
        ("/mcp", "/mcp//", None),
        ("/mcp", "/other/", None),
        ("/mcp", "/mcp", None),
        ("/mcp", "http://h.example/mcp/", None),
        ("/mcp", "//evil.example/mcp/", None),
        ("/mcp", "", None),
    ],
)
def test_only_a_slash_at_the_end_is_followed(asked: str, location: str, moved: str | None) -> None:
    assert slash_only(URL, asked, location) == moved


def test_a_refused_redirect_names_its_target_without_credentials_and_query() -> None:
    said = redirect_detail("http://h/mcp", "https://user:canary@[2001:db8::1]:8443/sign-in?token=canary#canary")
    assert said == "to https://[2001:db8::1]:8443/sign-in, not followed; if that is the server, configure this URL"
    for none in (None, "", "http://[", "mailto:x"):
        assert redirect_detail("http://h/mcp", none) == "that does not say where to"
