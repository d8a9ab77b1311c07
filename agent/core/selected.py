"""The shapes that go into selection and come out of it.

Overrides and suppressions are kept by the override store; a `Selection` is read by the mesh and by whoever describes
the node. The one rule: text that the catalog wrote is untrusted wherever it shows up in here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from agent.model import HttpTarget, PeerScope, PeerSpec


@dataclass(frozen=True, slots=True)
class Override:
    """A peer that an operator added.

    `target.token` is sent to it and nothing else is. Without one, a discovered mesh node at that URL keeps the peer
    token (`agent.core.drafts`).
    """

    name: str
    target: HttpTarget
    scope: PeerScope = PeerScope.LOCAL


@dataclass(frozen=True, slots=True)
class Suppression:
    """A discovered peer that an operator removed, described so that it stays away when it comes back.

    `name`: what it was called here. `node_id`: None for a plain peer. `service_id`: what the catalog calls it.
    """

    name: str
    node_id: str | None = None
    service_id: str | None = None


class FindingKind(StrEnum):
    """What an operator should know about a selection."""

    OURSELVES = "ourselves"  # it is this very node; `detail` is the URL
    NAME_TAKEN = "name_taken"  # another peer, server or node has that name; `detail` is the one it got, if any
    NAME_ILLEGAL = "name_illegal"  # `detail` is the name made of it
    SAME_NODE = "same_node"  # another entry leads to the same node; `detail` is the one whose link they share
    UNUSABLE = "unusable"  # no URL can be made of what the catalog says; `detail` is why


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One remark: about which name (as its source wrote it: untrusted text), of which kind, and the detail."""

    name: str
    kind: FindingKind
    detail: str


@dataclass(frozen=True, slots=True)
class Selection:
    """The whole desired state of peers.

    `peers` sorted by name. `hidden`: discovered peers that an operator suppressed, as they would be.
    `discovered`: peer name -> the suppressions that would hide what the catalog says about it (for DELETE).
    """

    peers: tuple[PeerSpec, ...] = ()
    hidden: tuple[PeerSpec, ...] = ()
    findings: tuple[Finding, ...] = ()
    discovered: Mapping[str, tuple[Suppression, ...]] = field(default_factory=lambda: MappingProxyType({}))
