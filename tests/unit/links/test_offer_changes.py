"""What the log says of a backend that offers something else than before."""

from typing import Any

from agent.links.offer_changes import COMPARED_MAX, NAMES_MAX, REMEMBERED_MAX, LastOffers, names_of, offer_changes
from agent.model import Offer


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": {"type": "object"}, **more}


def changes(before: Offer, after: Offer) -> dict[str, list[str]]:
    return offer_changes(names_of(before), names_of(after))


def test_names_that_came_went_and_mean_something_else_are_named_apart() -> None:
    before = Offer(tools=(tool("stays"), tool("goes"), tool("turns")), resources=({"uri": "a://1"},))
    after = Offer(tools=(tool("stays"), tool("comes"), tool("turns", description="new")), prompts=({"name": "p"},))
    assert changes(before, after) == {"added": ["comes", "p"], "gone": ["goes", "a://1"], "changed": ["turns"]}
    assert changes(after, after) == {}


def test_of_many_names_few_are_shown_with_the_number_of_the_others() -> None:
    many = Offer(tools=tuple(tool(f"t{number}") for number in range(NAMES_MAX + 7)))
    assert changes(Offer(), many)["added"][-2:] == [f"t{NAMES_MAX - 1}", "and 7 more"]


def test_of_long_lists_the_names_alone_are_compared_and_nonsense_is_passed_over() -> None:
    before = Offer(tools=tuple(tool(f"t{number}") for number in range(COMPARED_MAX + 1)))
    after = Offer(tools=tuple(tool(f"t{number}", title="x") for number in range(1, COMPARED_MAX + 1)))
    assert changes(before, after) == {"gone": ["t0"]}
    nonsense: Any = (7, {"name": None}, {})
    assert changes(Offer(tools=nonsense), Offer(tools=(tool("a"),))) == {"added": ["a"]}


def test_what_is_nested_too_deeply_for_any_list_is_compared_by_its_name_alone() -> None:
    deep: Any = {}
    for _ in range(2_000):
        deep = {"a": deep}
    assert changes(Offer(tools=(tool("d", x=deep),)), Offer(tools=(tool("d"), tool("e", x=deep)))) == {"added": ["e"]}


def test_of_backends_that_are_gone_the_latest_are_remembered_once() -> None:
    last = LastOffers()
    for number in range(REMEMBERED_MAX + 1):
        last.keep(f"peer:{number}", Offer(tools=(tool("a"),), digest="d"))
    last.keep("peer:empty", Offer())
    assert last.take("peer:0") is None
    assert last.take("peer:empty") is None
    assert set(last.take("peer:1") or ()) == {"a"}
    assert last.take("peer:1") is None
