"""The shapes that all rooms share."""

import pytest

from agent.model import MASK, HttpTarget, masked_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://a.example/mcp", "http://a.example/mcp"),
        ("http://a.example/mcp?", "http://a.example/mcp?"),
        ("http://a.example/mcp?key=secret&flag&empty=", f"http://a.example/mcp?key={MASK}&flag&empty="),
        ("http://a.example/mcp?key=a=b", f"http://a.example/mcp?key={MASK}"),
        (
            "http://a.example/mcp?servers=notes,files&tools=search",
            "http://a.example/mcp?servers=notes,files&tools=search",
        ),
        ("http://a.example/mcp?tags=a&token=secret", f"http://a.example/mcp?tags=a&token={MASK}"),
    ],
)
def test_a_url_is_shown_without_what_may_be_a_key_in_it(url: str, shown: str) -> None:
    assert masked_url(url) == HttpTarget(url).shown == shown
