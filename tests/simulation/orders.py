"""What an operator orders of one node's decisions, and which nodes that keeps away: for `tests.simulation.decisions`.

The orders are those of `agent.control.operator`, without the tasks, the disk and the answer to a client; what is to be
kept is what the real selection says. The one rule: who must stay away is known from the facts and the words alone.
"""

from typing import TYPE_CHECKING

from agent.control.candidates import url_key
from agent.model import HttpTarget, Override, Suppression

if TYPE_CHECKING:
    from tests.simulation.decisions import Observer
    from tests.simulation.surroundings import Facts, NodeFacts, Store

WORDS = ("remove", "add", "add under another name", "reset")


def order(observer: "Observer", word: str, one: "NodeFacts") -> str:
    """Carry out a word about a node, under the name that the status shows for it; returns the name."""
    spec = next((spec for spec in observer.desired.values() if observer.facts.at(spec.target.url) is one), None)
    name = one.name if spec is None else spec.name
    observer.words[one.node_id] = observer.facts.now_s
    match word:
        case "remove":
            _remove(observer, name, one)
        case "reset":
            _reset(observer, name, one)
        case "add":
            _add(observer, Override(name, HttpTarget(one.url)))
        case _:
            _add(observer, Override(name := f"my-{name}", HttpTarget(one.url)))
    return name


def _remove(observer: "Observer", name: str, one: "NodeFacts") -> None:
    """An added peer goes; else what discovery says of it is kept away."""
    store, selection = observer.store, observer.selector.selection
    spec = next((spec for spec in selection.peers if name in (spec.name, *spec.aliases)), None)
    called = name if spec is None else spec.name
    if any(known.name in (name, called) for known in store.overrides):
        store.overrides = tuple(known for known in store.overrides if known.name not in (name, called))
        return
    known = observer.selector.hiding(name) if spec is None else selection.discovered.get(called, ())
    store.suppressions += tuple(new for new in known if new not in store.suppressions)
    if known and spec is not None and observer.proven.get(spec.target.url) == one.node_id == spec.expected_node_id:
        store.hidden[one.node_id] = called


def _reset(observer: "Observer", name: str, one: "NodeFacts") -> None:
    store, lifted = observer.store, observer.selector.keeping_away(name)
    store.overrides = tuple(known for known in store.overrides if known.name != name)
    store.suppressions = tuple(known for known in store.suppressions if known not in lifted)
    if not any(known.node_id == one.node_id for known in store.suppressions):
        store.hidden.pop(one.node_id, None)


def _add(observer: "Observer", override: Override) -> None:
    store = observer.store
    if any(known.name == override.name and known.target != override.target for known in store.overrides):
        return  # Refused: the name is taken.
    store.overrides = (*(known for known in store.overrides if known.name != override.name), override)
    store.suppressions = tuple(known for known in store.suppressions if known.name != override.name)
    store.hidden = {node_id: called for node_id, called in store.hidden.items() if called != override.name}
    observer.selector.forget_who_answered(override.target.url)
    observer.proven.pop(override.target.url, None)


def kept_away(store: "Store", facts: "Facts") -> set[str]:
    """The nodes that words keep away, but for those that are added: by node, by place, or by words where it is gone."""
    if not store.suppressions:
        return set()
    listed = {one.node_id for one in facts.nodes if not one.is_plain and (one.listed or one.ghost is not None)}
    places = {known.url for known in store.suppressions} - {None}
    return {
        one.node_id
        for one in facts.nodes
        if url_key(one.url) in places or any(_is_meant(known, one, listed) for known in store.suppressions)
    }


def _is_meant(known: Suppression, one: "NodeFacts", listed: set[str]) -> bool:
    if known.node_id is not None and known.node_id == one.node_id and not one.is_plain:
        return True
    by_words = known.url is None and (known.node_id is None or known.node_id not in listed)
    return by_words and (known.name == one.name or known.service_id == one.service_id)
