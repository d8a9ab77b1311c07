"""Reads the catalog's instances as peers that could be dialled: names, URLs, identities, and what is wrong with them.

Called by `agent.control.selection` alone. The one rule: the catalog's text is untrusted, so every part of a URL or a
name is checked before it is joined, and an instance that is not usable is reported instead of dialled.
"""

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from agent.model import WEIGHT_MAX, HttpTarget, NodeIdentity, PeerSource, PeerSpec, Suppression
from agent.routing.names import is_valid_name, node_alias, valid_name
from discovery.model import Catalog, Health, Instance, InstanceKey

# Every wake needs the same URLs again, several times each; parsing them was most of a selection's time.
URLS_REMEMBERED: Final = 8192
_PORT_MAX: Final = 65_535
_HOST: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?\.?")
_PATH: Final = re.compile(r"/[A-Za-z0-9._~/-]{0,255}")
_NODE_ID: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_WORD_LEN_MAX: Final = 64
_ENTRIES_TOO_MANY: Final = 2
_GOES_BY_ITSELF: Final = " (this node under an earlier name, or a dead copy of it; Consul removes it within minutes)"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class FindingKind(StrEnum):
    """What an operator should know about a selection."""

    OURSELVES = "ourselves"  # it is this very node; `detail` is the URL
    NAME_TAKEN = "name_taken"  # another peer, server or node has that name; `detail` is the one it got, if any
    NAME_ILLEGAL = "name_illegal"  # `detail` is the name made of it
    SAME_NODE = "same_node"  # another entry leads to the same node; `detail` is the one whose link they share
    # Discovery knows the node that an operator's URL leads to by another one, or, where nothing answers there, the node
    # of that name; `detail` is the URL that discovery knows.
    OTHER_URL = "other_url"
    OTHER_NODE = "other_node"  # at an operator's URL answers another node than its name means; `detail`: what to do
    OWN_ENTRY_TWICE = "own_entry_twice"  # the catalog lists this node more than once; `detail` is the Consul node
    OWN_ID_ELSEWHERE = "own_id_elsewhere"  # an entry that is not ours has our node ID or service ID; `detail`: where
    OWN_EARLIER_NAME = "own_earlier_name"  # our node ID, and dead or where we are; `detail`: that it goes by itself
    CRITICAL = "critical"  # not dialled unless it is linked; `detail` is the check and its output
    IN_MAINTENANCE = "in_maintenance"  # gets no new calls while others can; `detail` is the operator's reason
    RESUMED = "maintenance_resumed"  # our entry had gone and has its maintenance again; `detail`: why, how to end it
    LOST = (
        "maintenance_lost"  # begun on the entry of a dead node, which then went; `detail`: why, how to begin it again
    )
    RIGHT_MISSING = "right_missing"  # access control hides entries from us, our own among them; `detail`: which right
    UNKEPT = "maintenance_not_kept"  # ours would not outlive a restart, or is not known from before; `detail`: why
    UNUSABLE = "unusable"  # no URL can be made of what the catalog says; `detail` is why


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One remark: the name that it is about (untrusted text, as its source wrote it), its kind and the detail."""

    name: str
    kind: FindingKind
    detail: str


@dataclass(frozen=True, slots=True)
class Selection:
    """The whole desired state of peers.

    `peers` sorted by name.
    `discovered`: peer name -> the suppressions that would hide what the catalog says about it (for DELETE).
    """

    peers: tuple[PeerSpec, ...] = ()
    findings: tuple[Finding, ...] = ()
    discovered: Mapping[str, tuple[Suppression, ...]] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class DiscoveredPeer:
    """One instance that could be dialled.

    `name`: its preferred name, always a valid one. `name_refused`: the name of its Meta where that is not valid, else
    empty. `node_id`: that of its Meta, None for a plain server. `learned_id`: the node that answered at its URL, where
    its Meta names none. `unique`: hexadecimal digits that distinguish it from all others of its name. `up`: passing or
    warning. `weight`: its node's, 1 to `WEIGHT_MAX`. `maintenance`: the operator's reason, empty without one.
    `findings`: about its state. `place`: its URL in the form that two of one endpoint share. `spec`: the peer that it
    is under its own name; `hidden_by`: what would hide that. All are worked out once, when the entry is read.
    """

    name: str
    name_refused: str
    service_id: str
    url: str
    node_id: str | None
    learned_id: str | None
    unique: str
    up: bool
    epoch: str
    weight: int
    maintenance: str
    findings: tuple[Finding, ...]
    key: InstanceKey
    place: str
    spec: PeerSpec
    hidden_by: Suppression

    @property
    def identity(self) -> str | None:
        """Its node ID: from its Meta, else of the node that answered at its URL."""
        return self.node_id or self.learned_id

    @property
    def epoch_number(self) -> int:
        """How often its node had started when it registered; 0 where its Meta does not say."""
        return int(self.epoch) if self.epoch.isascii() and self.epoch.isdigit() else 0

    @property
    def sighting(self) -> str:
        """Changes when there is a new reason to dial or to list; empty while the instance is critical."""
        return self.spec.sighting


@dataclass(frozen=True, slots=True)
class Unusable:
    """An instance that cannot be dialled: its service ID and the reason. `findings`: about its state."""

    service_id: str
    reason: str
    findings: tuple[Finding, ...] = ()


_Places: TypeAlias = AbstractSet[tuple[str, str]]


class CatalogReader:
    """Reads catalogs in a row, each instance once: one that has not changed is the same object in the next catalog."""

    def __init__(self) -> None:
        self._own_places: _Places = frozenset()
        self._known: dict[int, tuple[Instance, DiscoveredPeer | Unusable]] = {}

    def __repr__(self) -> str:
        return f"<CatalogReader instances={len(self._known)}>"

    def read(self, catalog: Catalog, own_node_id: str) -> tuple[DiscoveredPeer | Unusable, ...]:
        """Every instance but our own."""
        others: list[Instance] = []
        # One that is left over, of an agent that was renamed, must not make strangers of those beside the other.
        own_places = set[tuple[str, str]]()
        for instance in catalog.instances:
            if instance.meta.get("node_id") != own_node_id:
                others.append(instance)
            else:
                own_places.add((instance.key.datacenter, instance.key.node))
        known = self._known if own_places == self._own_places else {}
        # By `id`, which is theirs alone for as long as they are held here.
        read = {id(one): known.get(id(one)) or (one, _read(one, own_places)) for one in others}
        self._own_places, self._known = own_places, read
        return tuple([entry for _, entry in read.values()])


def with_learned(entry: DiscoveredPeer | Unusable, learned: Mapping[str, str]) -> DiscoveredPeer | Unusable:
    """The entry with the node that answered at its URL, where it names none. `learned`: URL -> node ID."""
    if isinstance(entry, Unusable) or entry.node_id or entry.url not in learned:
        return entry
    return replace(entry, learned_id=learned[entry.url])


def own_entries(catalog: Catalog, own: NodeIdentity) -> tuple[Finding, ...]:
    """Findings about entries with our node ID or our service ID: several of both, and those that have only one of them.

    Several: its Consul agent was renamed, or several agents are behind one address. Another service ID: our state
    folder was copied, and another process is the same node; or, of an entry that is dead, this node was killed and has
    another name now. Another node ID: a process with another key has taken our service ID.
    """
    service_id = node_alias(own.name, own.node_id)
    entries = [i for i in catalog.instances if i.meta.get("node_id") == own.node_id or i.key.service_id == service_id]
    ours = [i for i in entries if i.key.service_id == service_id and i.meta.get("node_id") == own.node_id]
    places = {(i.key.node, i.address, i.port) for i in ours}
    found = [_not_ours(i, own, places) for i in entries if i not in ours]
    if len(ours) >= _ENTRIES_TOO_MANY:
        found += [
            Finding(service_id, FindingKind.OWN_ENTRY_TWICE, f"Consul node {i.key.node}, at {i.address}:{i.port}")
            for i in ours
        ]
    # One with another node ID is read as a peer, and its state with it.
    same = (i for i in entries if i.meta.get("node_id") == own.node_id)
    return (*found, *(finding for i in same for finding in state_of(i)))


def _not_ours(entry: Instance, own: NodeIdentity, places: AbstractSet[tuple[str, str, int]]) -> Finding:
    """What is to be said of an entry that has our node ID alone, or our service ID alone. `places`: where we are."""
    service_id, where = entry.key.service_id, f"{entry.address}:{entry.port}, Consul node {entry.key.node}"
    if entry.meta.get("node_id") != own.node_id:
        said = entry.meta.get("node_id") or "none"
        return Finding(service_id, FindingKind.OWN_ID_ELSEWHERE, f"{where}, node ID {said}")
    # Where we listen no copy can: before its time is over, it is none either.
    if entry.health is Health.CRITICAL or (entry.key.node, entry.address, entry.port) in places:
        return Finding(service_id, FindingKind.OWN_EARLIER_NAME, f"{where}{_GOES_BY_ITSELF}")
    return Finding(service_id, FindingKind.OWN_ID_ELSEWHERE, where)


def state_of(instance: Instance) -> Iterable[Finding]:
    """What the catalog says of an entry that calls for an operator: it is critical, or in maintenance."""
    service_id = instance.key.service_id
    if instance.health is Health.CRITICAL:
        yield Finding(service_id, FindingKind.CRITICAL, instance.trouble or "the catalog does not say why")
    if instance.maintenance:
        yield Finding(service_id, FindingKind.IN_MAINTENANCE, instance.maintenance)


@lru_cache(maxsize=URLS_REMEMBERED)
def url_key(url: str) -> str:
    """A form in which two URLs of one endpoint are equal; a URL that cannot be parsed stays as it is."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return url
    host = parts.hostname or ""
    scheme = parts.scheme.lower()
    shown = f"[{host}]" if ":" in host else host
    path = parts.path.rstrip("/").removesuffix("/local").rstrip("/")
    query = f"?{parts.query}" if parts.query else ""
    return f"{scheme}://{shown}:{port or _DEFAULT_PORTS.get(scheme, 0)}{path}{query}"


def url_of(instance: Instance) -> str:
    """Where an instance is dialled, if it is usable."""
    meta = instance.meta
    address = f"[{instance.address}]" if ":" in instance.address else instance.address
    return f"{meta.get('scheme') or 'http'}://{address}:{instance.port}{meta.get('mcp_path') or '/mcp'}"


def _read(instance: Instance, own_places: _Places) -> DiscoveredPeer | Unusable:
    meta, service_id = instance.meta, instance.key.service_id
    fault = _fault(instance, own_places)
    if fault:
        return Unusable(service_id, fault, tuple(state_of(instance)))
    url = url_of(instance)
    node_id = meta.get("node_id") or None
    said = (meta.get("name") if node_id else None) or service_id
    name = said if is_valid_name(said) else valid_name(service_id)
    key_text = f"{instance.key.datacenter}\0{instance.key.node}\0{service_id}"
    up = instance.health is not Health.CRITICAL
    epoch, weight = meta.get("epoch", "")[:_WORD_LEN_MAX], min(max(1, instance.weight), WEIGHT_MAX)
    words = (url, epoch, *(meta.get(key, "")[:_WORD_LEN_MAX] for key in ("offer_digest", "rotations")))
    spec = PeerSpec(
        name,
        HttpTarget(url),
        PeerSource.DISCOVERY,
        aliases=(service_id,),
        expected_node_id=node_id,
        is_mesh_node=node_id is not None,
        sighting=" ".join(word for word in words if word) if up else "",
        weight=weight,
        maintenance=instance.maintenance,
        datacenter=instance.key.datacenter if instance.far else "",
    )
    return DiscoveredPeer(
        name=name,
        name_refused="" if name == said else said,
        service_id=service_id,
        url=url,
        node_id=node_id,
        learned_id=None,
        unique=node_id or hashlib.sha256(key_text.encode("utf-8", "surrogatepass")).hexdigest(),
        up=up,
        epoch=epoch,
        weight=weight,
        maintenance=instance.maintenance,
        findings=tuple(state_of(instance)),
        key=instance.key,
        place=url_key(url),
        spec=spec,
        hidden_by=Suppression(name, node_id, service_id),
    )


def _fault(instance: Instance, own_places: _Places) -> str:
    """Why the instance cannot be dialled; empty when it can."""
    meta = instance.meta
    if not 0 < instance.port <= _PORT_MAX:
        return f"port {instance.port} is none"
    if meta.get("scheme", "http") not in ("http", "https", ""):
        return "its scheme is neither http nor https"
    if not _PATH.fullmatch(meta.get("mcp_path") or "/mcp"):
        return "its mcp_path is not a plain path"
    if meta.get("node_id") and not _NODE_ID.fullmatch(meta["node_id"]):
        return "its node_id is malformed"
    try:
        ip = ipaddress.ip_address(instance.address)
    except ValueError:
        is_name = _HOST.fullmatch(instance.address) is not None
        return "" if is_name else "its address is neither an IP address nor a host name"
    if isinstance(ip, ipaddress.IPv6Address) and ip.scope_id is not None:
        return "its address has a zone, which means something on its own machine only"
    # An address on loopback can be reached from its own machine only (discovery.consul.advertise registers such ones).
    # A source without a datacentre has it from an operator.
    place = instance.key.datacenter, instance.key.node
    if ip.is_loopback and own_places and instance.key.datacenter and place not in own_places:
        return "its loopback address belongs to another machine"
    return ""
