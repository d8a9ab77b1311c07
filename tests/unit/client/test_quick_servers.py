"""Servers that answer their first question quickly are remembered by their URLs, as they were the last time."""

import pytest

from agent.client import quick_servers
from agent.client.quick_servers import QUICK_S, QuickServers

URL = "http://one/mcp"


def test_a_server_is_known_as_quick_until_it_has_answered_slowly() -> None:
    quick = QuickServers()
    assert quick.took_s(URL) is None
    quick.note(URL, QUICK_S / 2)
    assert quick.took_s(URL) == QUICK_S / 2
    quick.note(URL, QUICK_S)
    assert quick.took_s(URL) is None


def test_those_that_were_noted_longest_ago_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick_servers, "QUICK_MAX", 2)
    quick = QuickServers()
    for url in ("http://a", "http://b", "http://a", "http://c"):
        quick.note(url, 0.0)
    assert [quick.took_s(url) for url in ("http://a", "http://b", "http://c")] == [0.0, None, 0.0]
