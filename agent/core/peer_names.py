"""What discovered peers are called here.

Called by `agent.core.selection` alone. The one rule: a name is never taken from whoever has it; of two nodes of one
name both are kept, the second is told apart by its ID, and stays so when the first one is away.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from agent.core.catalog_peers import Candidate, url_key
from agent.core.naming import is_valid_name, node_alias, valid_name
from agent.core.selected import Finding, FindingKind
from agent.model import PeerSource, PeerSpec


class LastChosen:
    """The peers that were chosen last, found again whatever they are called now."""

    def __init__(self, previous: Sequence[PeerSpec]) -> None:
        self._by_name = {spec.name: spec for spec in previous}
        self._by_node = {spec.expected_node_id: spec for spec in previous if spec.expected_node_id is not None}
        self._plain_by_url = {url_key(spec.target.url): spec for spec in previous if spec.expected_node_id is None}
        # Of links that discovery chose: what somebody named goes when its name does.
        self.urls = frozenset(url_key(spec.target.url) for spec in previous if spec.source is PeerSource.DISCOVERY)

    def spec_of(self, candidate: Candidate) -> PeerSpec | None:
        """What this candidate was."""
        if candidate.node_id is not None:
            return self._by_node.get(candidate.node_id)
        return self._plain_by_url.get(url_key(candidate.url))

    def holds_its_name(self, candidate: Candidate) -> bool:
        """Whether this candidate had the name that it would like to have."""
        spec = self._by_name.get(candidate.name)
        return spec is not None and spec is self.spec_of(candidate)

    def holds_second_name(self, candidate: Candidate) -> bool:
        """Whether this candidate was told apart by its ID from somebody of its name."""
        spec = self.spec_of(candidate)
        return spec is not None and spec.name in _second_names(candidate)


def give_names(
    candidates: Iterable[Candidate], reserved: Collection[str], last: LastChosen, findings: set[Finding]
) -> list[tuple[Candidate, str]]:
    """Pair each candidate with a name that nobody else has; `reserved` names are taken already."""
    by_name: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_name[candidate.name].append(candidate)
    taken = set(reserved)
    named: list[tuple[Candidate, str]] = []
    waiting: list[Candidate] = []
    for name in sorted(by_name):
        contenders = sorted(by_name[name], key=lambda c: (not last.holds_its_name(c), c.unique, c.key))
        # Renaming a link closes it, and would do so again when a namesake has restarted.
        first = next((c for c in contenders if not last.holds_second_name(c)), None)
        if first is not None and name not in taken:
            taken.add(name)
            named.append((first, name))
            contenders.remove(first)
        waiting += contenders
    # Only now: nobody's own name may go to another peer as its second one.
    for candidate in waiting:
        name, longer = _second_names(candidate)
        if name in taken or not is_valid_name(name):
            name = longer
        findings.add(Finding(candidate.name, FindingKind.NAME_TAKEN, "" if name in taken else name))
        if name not in taken:
            taken.add(name)
            named.append((candidate, name))
    return named


def _second_names(candidate: Candidate) -> tuple[str, str]:
    """What it is called when its name is taken, and when that is taken, too."""
    longer = valid_name(f"{candidate.name}/{candidate.unique}/{candidate.key}")
    return node_alias(candidate.name, candidate.unique), longer


def with_clear_aliases(peers: Iterable[PeerSpec], server_names: Collection[str]) -> tuple[PeerSpec, ...]:
    """The peers sorted by name, each alias meaning one peer only and no name of anything else."""
    ordered = sorted(peers, key=lambda spec: spec.name)
    taken = {*server_names, *(spec.name for spec in ordered)}
    cleared: list[PeerSpec] = []
    for spec in ordered:
        aliases: list[str] = []
        for alias in spec.aliases:
            if alias not in taken and is_valid_name(alias):
                taken.add(alias)
                aliases.append(alias)
        cleared.append(replace(spec, aliases=tuple(aliases)))
    return tuple(cleared)
