"""A selection in groups that share nothing: what changes is selected again with that alone which it can concern.

Two entries, words of an operator or present peers belong together when they have a word in common: a name that one of
them has, wants or may fall back to, a node, a place, a service ID. What `choose` says of everything is what it says of
each group, so a change costs its own group; nearly all are of one peer. Used by `agent.control.selector`.

The one rule: `plan` changes nothing, so a thread may make it; `take` puts it in force in one step.
"""

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from agent.config.values import StaticPeer
from agent.control.candidates import DiscoveredPeer, Finding, Selection, Unusable, url_key
from agent.control.selection import choose, second_names
from agent.model import NodeIdentity, Override, PeerSpec, Suppression

Entry: TypeAlias = DiscoveredPeer | Unusable
Word: TypeAlias = Override | StaticPeer | Suppression
# Peer name -> what it was and what it is; None where it was none, or is none any more.
Changes: TypeAlias = Mapping[str, tuple[PeerSpec | None, PeerSpec | None]]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every group reads. As in `select`: names of servers, those freed since, who answered where, what is up."""

    server_names: frozenset[str]
    freed: frozenset[str]
    learned: Mapping[str, str]
    connected: Collection[str]


@dataclass(eq=False, slots=True)
class _Item:
    """An entry or a word, with all that it could share with another. `place`: in the order in which they came."""

    what: Entry | Word
    words: tuple[str, ...]
    url: str
    place: int


@dataclass(eq=False, slots=True)
class Group:
    """What belongs together, and what was chosen of it. `nodes`: node IDs, and the backend key of the peer that is it.

    There are as many as peers: a set or a dictionary of so few would be most of what they hold.
    """

    items: tuple[_Item, ...]
    words: tuple[str, ...]
    chosen: Selection
    nodes: tuple[tuple[str, str], ...]
    settled: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """Groups that give way to others, and those that were selected again to the same end, which are settled.

    `changes`: of peers. `items`: those that there are now, None for the same.
    """

    gone: Sequence[Group] = ()
    made: Sequence[Group] = ()
    settled: Sequence[Group] = ()
    changes: Changes = field(default_factory=dict)
    items: Mapping[Hashable, _Item] | None = None


@dataclass(slots=True)
class Groups:
    """See the module. Sole writer: the selector, by `take`."""

    own: NodeIdentity
    _items: Mapping[Hashable, _Item] = field(default_factory=dict)
    _by_word: dict[str, Group] = field(default_factory=dict)
    _groups: dict[Group, None] = field(default_factory=dict)
    _unsettled: dict[Group, None] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Groups {len(self._groups)} unsettled={len(self._unsettled)}>"

    def chosen(self, findings: Iterable[Finding] = ()) -> Selection:
        """The whole selection; `findings`: of others."""
        parts = [group.chosen for group in self._groups]
        discovered = {name: told for part in parts for name, told in part.discovered.items()}
        return Selection(
            tuple(sorted((spec for part in parts for spec in part.peers), key=lambda spec: spec.name)),
            tuple(sorted({*findings, *(finding for part in parts for finding in part.findings)})),
            MappingProxyType(dict(sorted(discovered.items()))),
        )

    @property
    def unsettled_count(self) -> int:
        """How many have to be selected again whatever changes."""
        return len(self._unsettled)

    def peers_of(self, word: str) -> tuple[PeerSpec, ...]:
        """The peers that have something to do with a name, a node or a place."""
        group = self._by_word.get(word)
        return () if group is None else group.chosen.peers

    def plan(
        self,
        around: Surroundings,
        touched: Iterable[str],
        things: Sequence[Entry | Word] | None = None,
        *,
        everything: bool = False,
    ) -> Plan:
        """Select the groups again that `touched` words concern, and those that have not come to their end.

        `things`: all entries and words of operators; None: the same as before. `everything`: all groups.
        """
        items = None if things is None else self._items_of(things)
        new = () if items is None else [item for key, item in items.items() if key not in self._items]
        lost = () if items is None else [item for key, item in self._items.items() if key not in items]
        words = {*touched, *(word for item in (*new, *lost) for word in _words(item, around.learned))}
        found = dict.fromkeys(self._groups if everything else self._unsettled)
        found |= dict.fromkeys(group for word in words if (group := self._by_word.get(word)) is not None)
        if not found and not new:
            return Plan(items=items)
        kept = [item for group in found for item in group.items]
        if lost:
            away = set(lost)
            kept = [item for item in kept if item not in away]
        before = [spec for group in found for spec in group.chosen.peers]
        made = [self._select(part, specs, around) for part, specs in _parted([*kept, *new], before, around.learned)]
        changes = _changes(before, (spec for group in made for spec in group.chosen.peers))
        settled, gone, made = _sifted(found, made)
        return Plan(gone, made, settled, changes, items)

    def take(self, plan: Plan) -> Changes:
        """Put a plan in force, which was made of this very state."""
        if plan.items is not None:
            self._items = plan.items
        for group in plan.settled:
            self._unsettled.pop(group, None)
        for group in plan.gone:
            del self._groups[group]
            self._unsettled.pop(group, None)
            for word in group.words:
                del self._by_word[word]
        for group in plan.made:
            self._groups[group] = None
            self._by_word.update(dict.fromkeys(group.words, group))
            if not group.settled:
                self._unsettled[group] = None
        return plan.changes

    def _items_of(self, things: Iterable[Entry | Word]) -> dict[Hashable, _Item]:
        """The item of each; of what was there before, the very same with its present place."""
        found: dict[Hashable, _Item] = {}
        for place, thing in enumerate(things):
            # Entries that have not changed are the same objects, which items hold.
            key: Hashable = id(thing) if isinstance(thing, DiscoveredPeer | Unusable) else thing
            item = found[key] = self._items.get(key) or _item(thing, place)
            item.place = place
        return found

    def _select(self, items: Sequence[_Item], specs: Sequence[PeerSpec], around: Surroundings) -> Group:
        things = [item.what for item in sorted(items, key=lambda item: item.place)]
        before = tuple(sorted(specs, key=lambda spec: spec.name))
        chosen = choose(
            [one for one in things if isinstance(one, DiscoveredPeer | Unusable)],
            self.own,
            overrides=[one for one in things if isinstance(one, Override)],
            suppressions=[one for one in things if isinstance(one, Suppression)],
            statics=[one for one in things if isinstance(one, StaticPeer)],
            server_names=around.server_names,
            learned=around.learned,
            connected=around.connected,
            previous=before,
            freed=around.freed,
        )
        words = {word for item in items for word in _words(item, around.learned)}
        words.update(word for spec in (*before, *chosen.peers) for word in _words_of_peer(spec, around.learned))
        answered = ((spec, spec.expected_node_id or around.learned.get(spec.target.url)) for spec in chosen.peers)
        nodes = tuple([(node_id, spec.key) for spec, node_id in answered if node_id is not None])
        # It reads its own last outcome, too: it has come to its end when that is the same again.
        return Group(tuple(items), tuple(words), chosen, nodes, chosen.peers == before)


def _sifted(found: Iterable[Group], made: Sequence[Group]) -> tuple[list[Group], list[Group], list[Group]]:
    """The groups that came to their very end again, those that give way, and those that take their place.

    After a start all groups are selected twice; to replace them all the second time would hold up the loop.
    """
    before = {frozenset(map(id, group.items)): group for group in found if group.items}
    settled: dict[Group, None] = {}
    others: list[Group] = []
    for group in made:
        was = before.get(frozenset(map(id, group.items)))
        if was is not None and group.settled and _same(was, group):
            settled[was] = None
        else:
            others.append(group)
    return list(settled), [group for group in found if group not in settled], others


def _same(one: Group, other: Group) -> bool:
    return one.chosen == other.chosen and one.nodes == other.nodes and {*one.words} == {*other.words}


def _item(thing: Entry | Word, place: int) -> _Item:
    url, words = "", list[str | None]()
    match thing:
        case DiscoveredPeer():
            url = thing.url
            words += [thing.name, *second_names(thing), thing.service_id, thing.place, thing.node_id]
        case Unusable():
            words.append(thing.service_id)
        case Override():
            url = thing.target.url
            words += [thing.name, url_key(url)]
        case StaticPeer():
            url = thing.url
            words += [thing.name, url_key(url)]
        case Suppression():
            words += [thing.name, thing.node_id, thing.service_id, thing.url]
    return _Item(thing, tuple(dict.fromkeys(word for word in words if word is not None)), url, place)


def _words(item: _Item, learned: Mapping[str, str]) -> tuple[str, ...]:
    node_id = learned.get(item.url)
    return item.words if node_id is None else (*item.words, node_id)


def _words_of_peer(spec: PeerSpec, learned: Mapping[str, str]) -> Iterator[str]:
    yield spec.name
    yield url_key(spec.target.url)
    if spec.expected_node_id is not None:
        yield spec.expected_node_id
    if (node_id := learned.get(spec.target.url)) is not None:
        yield node_id


def _parted(
    items: Sequence[_Item], specs: Sequence[PeerSpec], learned: Mapping[str, str]
) -> list[tuple[list[_Item], list[PeerSpec]]]:
    """The items and peers in groups that have no word in common."""
    leaders: dict[str, str] = {}

    def leader(word: str) -> str:
        while (above := leaders.setdefault(word, word)) != word:
            leaders[word] = word = leaders[above]
        return word

    def joined(words: Iterable[str]) -> str:
        first, *others = words
        for word in others:
            leaders[leader(word)] = leader(first)
        return first

    item_words = [joined(_words(item, learned)) for item in items]
    spec_words = [joined(_words_of_peer(spec, learned)) for spec in specs]
    parts: dict[str, tuple[list[_Item], list[PeerSpec]]] = defaultdict(lambda: ([], []))
    for item, word in zip(items, item_words, strict=True):
        parts[leader(word)][0].append(item)
    for spec, word in zip(specs, spec_words, strict=True):
        parts[leader(word)][1].append(spec)
    return list(parts.values())


def _changes(before: Iterable[PeerSpec], after: Iterable[PeerSpec]) -> Changes:
    was, now = ({spec.name: spec for spec in specs} for specs in (before, after))
    return {name: (was.get(name), now.get(name)) for name in (was | now) if was.get(name) != now.get(name)}
