"""The operator's maintenance of this node and of its peers, as the catalog tells it: which backends get no new calls.

Called by the mesh once a step; dispatch gets the backends. Maintenance (`consul maint`) asks for no new calls and is no
failure: links stay or are made, so that every node lists the same, and a call for which no other replica is there goes
through. The one rule: the catalog's present word counts, so the end of a maintenance takes effect as soon as its
beginning does; only where it shows no entry of ours, what Consul's agent said of that last.
"""

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from agent.control.candidates import Finding, FindingKind
from agent.model import BackendSpec, PeerSpec
from discovery.model import Catalog, Health

log = logging.getLogger(__name__)

# So many dead nodes in maintenance are remembered; the latest ones stay.
LOST_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Maintenance:
    """The operator's reasons: `own` of this node, empty without one; `peers`, name -> reason.

    `backends`: the backend keys that get no new calls while another replica is there.
    """

    own: str = ""
    peers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    backends: frozenset[str] = frozenset()


class LostMaintenance:
    """Maintenance that was begun on the entry of a dead node and went with the entry, which the node does not know of.

    Consul removes what is dead for long, and the operator alone can begin it again. Sole writer: the selector.
    """

    def __init__(self) -> None:
        self._words: dict[str, str] = {}  # Of dead nodes and of those whose entry has gone since, by service ID ...
        self._gone: set[str] = set()  # ... which are these.
        self._lost: dict[str, str] = {}  # Of those that are back without it.

    def __repr__(self) -> str:
        return f"<LostMaintenance words={len(self._words)} lost={sorted(self._lost)}>"

    def of(self, catalog: Catalog) -> list[Finding]:
        """What is to be said, given each catalog: until the node is in maintenance again, or goes."""
        is_idle = not (self._words or self._lost)
        listed = {} if is_idle else {one.key.service_id: one for one in catalog.instances}
        self._lost = {key: why for key, why in self._lost.items() if key in listed and not listed[key].maintenance}
        for key, why in list(self._words.items()):
            one = listed.get(key)
            if one is None:
                self._gone.add(key)
                continue
            del self._words[key]  # It is there, and says itself what it is in; or its maintenance has ended.
            if key in self._gone and not one.maintenance:
                self._lost[key] = why
                log.warning("a peer has lost the maintenance of its dead entry", extra={"peer": key, "reason": why})
            self._gone.discard(key)
        dead = [one for one in catalog.instances if one.maintenance and one.health is Health.CRITICAL]
        self._words |= {one.key.service_id: one.maintenance for one in dead if one.meta.get("node_id")}
        for key in list(self._words)[:-LOST_MAX]:
            del self._words[key]
            self._gone.discard(key)
        how = "(begun while it was down; its entry went, and it is back without: `consul maint -enable -service={}`)"
        return [Finding(key, FindingKind.LOST, f"{why} {how.format(key)}") for key, why in self._lost.items()]


def maintenance_of(
    catalog: Catalog, own_node_id: str, desired: Iterable[BackendSpec], own_kept: str = ""
) -> Maintenance:
    """What the catalog says now. In our own maintenance, our servers leave calls to other nodes' replicas of them.

    `own_kept`: the reason that Consul's agent gave last for our own entry, which counts where no catalog shows us one:
    to a token without `node:read`, and before Consul has answered.
    """
    entries = [entry for entry in catalog.instances if entry.meta.get("node_id") == own_node_id]
    # One that a renamed Consul agent has left over keeps its maintenance, which cannot be ended there.
    is_well = any(entry.health is Health.PASSING and not entry.maintenance for entry in entries)
    own = "" if is_well else next((entry.maintenance for entry in entries if entry.maintenance), "")
    own = own if entries else own_kept
    peers: dict[str, str] = {}
    backends: set[str] = set()
    for spec in desired:
        if isinstance(spec, PeerSpec) and spec.maintenance:
            peers[spec.name] = spec.maintenance
            backends.add(spec.key)
        elif own and not isinstance(spec, PeerSpec):
            backends.add(spec.key)
    return Maintenance(own, MappingProxyType(peers), frozenset(backends))


def log_changes(before: Maintenance, after: Maintenance, peers: Collection[str]) -> None:
    """Log what began, with its reason, and what ended; `peers`: the names of all that are there."""
    if after.own != before.own:
        if after.own:
            log.warning("this node is in maintenance and gets no new calls", extra={"reason": after.own})
        else:
            log.info("this node is back from maintenance")
    for name, reason in after.peers.items():
        if before.peers.get(name) != reason:
            log.warning("a peer is in maintenance and gets no new calls", extra={"peer": name, "reason": reason})
    for name in before.peers.keys() - after.peers.keys():
        event = "a peer is back from maintenance" if name in peers else "a peer in maintenance is gone"
        log.info(event, extra={"peer": name})
