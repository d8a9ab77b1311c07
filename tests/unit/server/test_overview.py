"""What `show_mesh` answers: links for the picture, and the same in words."""

from agent.model import Json
from agent.server.overview import as_text, overview


def entry(name: str, kind: str = "server", *, connected: bool = True, **more: object) -> Json:
    status = "connected" if connected else "backoff"
    return {"name": name, "kind": kind, "status": status, "connected": connected, "function_count": 3, **more}


def test_a_peer_that_imports_all_it_sees_is_a_gateway_with_its_servers() -> None:
    (link,) = overview("one", "healthy", [entry("hub", "peer", scope="mesh", servers=[{"name": "kit"}])])["links"]
    assert (link["kind"], link["servers"], link["key"]) == ("gateway", ["kit"], "peer:hub")


def test_an_entry_without_a_link_is_shown_as_it_is() -> None:
    disabled = {"name": "off", "kind": "server", "status": "disabled", "connected": False, "function_count": 0}
    (link,) = overview("one", "healthy", [disabled])["links"]
    assert (link["state"], link["last_error"], link["latency_ms"]) == ("disabled", None, None)


def test_the_text_names_first_what_is_away_and_why_on_one_line_each() -> None:
    seen = overview("one", "draining", [entry("up"), entry("down", connected=False, last_error="refused\nby it")])
    assert as_text(seen).splitlines() == [
        "Node one is draining: 1 of 2 servers and peers are connected.",
        "- server down: backoff, refused by it",
        "- server up: connected, 3 tools",
    ]


def test_maintenance_of_a_peer_has_its_reason_in_the_text() -> None:
    seen = overview("one", "healthy", [entry("two", "peer", maintenance="new disk")])
    assert as_text(seen).endswith("- peer two: connected, in maintenance: new disk, 3 tools")


def test_a_text_for_a_model_names_a_hundred_links_and_counts_the_rest() -> None:
    text = as_text(overview("one", "healthy", [entry(f"s{number}") for number in range(103)]))
    assert text.endswith("and 3 more; list_mcp_servers has all of them")
    assert len(text.splitlines()) == 102
