"""Decides which peers we want links to: the catalog, what operators and settings say, and who we are.

Called by the mesh with whole snapshots on every wake. The one rule: an operator's word beats the settings, the
settings beat the catalog, and one node gets one link, whoever names it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

from agent.model import HttpTarget, NodeIdentity, PeerScope, PeerSpec
from discovery.model import Catalog

if TYPE_CHECKING:
    from agent.settings_values import StaticPeer


@dataclass(frozen=True, slots=True)
class Override:
    """A peer that an operator added; `target.token` is sent to it and nothing else is."""

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

    OURSELVES = "ourselves"  # it is this very node
    NAME_TAKEN = "name_taken"  # another peer, server or node has that name; it got another one
    NAME_ILLEGAL = "name_illegal"  # it got a name made of the illegal one
    SAME_NODE = "same_node"  # another entry leads to the same node; they share a link
    UNUSABLE = "unusable"  # no URL can be made of what the catalog says


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark: about which name, what, and the name (or reason) that came of it."""

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


def select(
    catalog: Catalog,
    own: NodeIdentity,
    *,
    overrides: Sequence[Override] = (),
    suppressions: Sequence[Suppression] = (),
    statics: Sequence["StaticPeer"] = (),
    server_names: Collection[str] = (),
    learned: Mapping[str, str] = MappingProxyType({}),
    connected: Collection[str] = (),
    previous: Sequence[PeerSpec] = (),
    peer_token: str | None = None,
) -> Selection:
    """Choose the peers.

    `server_names`: the local servers, whose names peers may not take. `learned`: dialled URL (`target.url` of the
    spec) -> node ID that answered there last; keep it while the URL is named by anybody, also when its link has been
    folded into another. `connected`: backend keys of links that are up. `previous`: the peers chosen last, so that
    names stay where they are. `peer_token` goes to discovered mesh nodes only.
    """
    raise NotImplementedError
