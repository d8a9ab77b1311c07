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

from agent.model import BackendSpec, PeerSpec
from discovery.model import Catalog, Health

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Maintenance:
    """The operator's reasons: `own` of this node, empty without one; `peers`, name -> reason.

    `backends`: the backend keys that get no new calls while another replica is there.
    """

    own: str = ""
    peers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    backends: frozenset[str] = frozenset()


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
