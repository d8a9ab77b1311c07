"""Builds the route table from what the connected backends contribute.

Called by the mesh whenever a link's offer or standing changes, once for each endpoint. The one rule: the result never
depends on the order of the contributions, and nothing loses a name in silence.
"""

from collections.abc import Sequence

from agent.core.route_table import (
    Conflict,
    ConflictReason,
    Contribution,
    ContributionKind,
    Replica,
    Route,
    RouteKind,
    RouteTable,
)
from agent.model import NodeIdentity

__all__ = [
    "Conflict",
    "ConflictReason",
    "Contribution",
    "ContributionKind",
    "Replica",
    "Route",
    "RouteKind",
    "RouteTable",
    "build_routes",
    "changed_kinds",
    "local_contributions",
]


def build_routes(
    contributions: Sequence[Contribution], own: NodeIdentity, previous: RouteTable | None = None
) -> RouteTable:
    """Join all contributions into one table; `previous` says who holds which name, and saves work."""
    raise NotImplementedError


def local_contributions(contributions: Sequence[Contribution]) -> tuple[Contribution, ...]:
    """What `/mcp/local` serves: our own servers that are not private."""
    raise NotImplementedError


def changed_kinds(before: RouteTable, after: RouteTable) -> frozenset[RouteKind]:
    """The kinds whose lists look different to a client (names, or definitions by digest)."""
    raise NotImplementedError
