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
        ("https://a.example/s/Zk3v9Qp1xYt7Lm2R8wNd/mcp", f"https://a.example/s/{MASK}/mcp"),
        ("https://a.example/3f2a9c41-1b2c-4d5e-8f90-a1b2c3d4e5f6?x", f"https://a.example/{MASK}?x"),
        ("http://ip-10-0-0-1a2b3c4d5e6f.internal:8000/mcp", "http://ip-10-0-0-1a2b3c4d5e6f.internal:8000/mcp"),
        ("http://a.example/mcp/s/weather-forecast-service-2", "http://a.example/mcp/s/weather-forecast-service-2"),
    ],
)
def test_a_url_is_shown_without_what_may_be_a_key_in_it(url: str, shown: str) -> None:
    assert masked_url(url) == HttpTarget(url).shown == shown
