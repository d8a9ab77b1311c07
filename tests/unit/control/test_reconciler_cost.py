"""What one link's change costs, counted in calls of functions: as much among a thousand peers as among fifty."""

import sys
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest

from agent.control.reconciler import Mesh
from agent.model import LinkState, NodeIdentity, ServerScope
from bench.link_change import TOOLS, catalog_of, offer_of, still_mesh
from tests.measured import measured

# From the table of one mesh to that of another a call or two differ: how far a search by halves has to look.
TOLERANCE = 1.05
PEER = "peer:n17"


async def _calls(mesh: Mesh) -> int:
    """How many functions are called by a step."""
    count = 0

    def counted(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(counted)
    try:
        await mesh.step()
    finally:
        sys.setprofile(None)
    return count


async def _of_a_link(peers: int, scope: ServerScope) -> dict[str, int]:
    """The cost of each change of a link in turn."""
    identity = NodeIdentity(f"{17:08x}-0000", "n17")
    of_its_own = scope is ServerScope.NODE
    changes: dict[str, dict[str, Any]] = {
        "down": {"state": LinkState.BACKOFF, "failure": "Unreachable"},
        "fails otherwise": {"failure": "PeerRefused"},
        "up": {"state": LinkState.READY, "failure": ""},
        "offers more": {"offer": offer_of(identity, scope, TOOLS + 1)},
        # Where replicas of one service disagree, all are looked at.
        **({"offers other things": {"offer": offer_of(identity, scope, TOOLS, release=2)}} if of_its_own else {}),
        "offers as before": {"offer": offer_of(identity, scope, TOOLS)},
    }
    async with still_mesh(peers, scope) as (mesh, link):
        found = {}
        for name, fields in changes.items():
            link(PEER).change(**fields)
            found[name] = await _calls(mesh)
        return found


async def _of_a_catalog(peers: int, changed: Callable[[Any], Any]) -> dict[str, int]:
    """The cost of a peer that another catalog says something else of."""
    async with still_mesh(peers, ServerScope.NODE) as (mesh, _):
        whole = catalog_of(peers)
        mesh.take_catalog(whole)
        await mesh.step()
        others = [one for one in whole.instances if one is not whole.instances[17]]
        found = {}
        for name, entry in (
            ("another", changed(whole.instances[17])),
            ("none", None),
            ("as before", whole.instances[17]),
        ):
            listed = others if entry is None else [*others, entry]
            mesh.take_catalog(replace(whole, instances=tuple(sorted(listed, key=lambda one: one.key))))
            found[name] = await _calls(mesh)
        return found


@pytest.mark.parametrize("scope", [ServerScope.NODE, ServerScope.SERVICE])
async def test_a_change_of_one_link_costs_the_same_among_many_peers_as_among_few(scope: ServerScope) -> None:
    few, many = await _of_a_link(50, scope), await _of_a_link(1_000, scope)
    measured(f"functions called for a link that goes down, of 50 and of 1,000 peers: {few['down']}, {many['down']}")
    for change, calls in many.items():
        assert calls <= TOLERANCE * few[change], (change, calls, few[change])


async def test_a_peer_that_comes_goes_or_drains_by_the_catalog_costs_the_same_among_many_as_among_few() -> None:
    # Larger catalogs are read in a thread.
    few, many = [await _of_a_catalog(peers, lambda one: replace(one, maintenance="disk")) for peers in (50, 400)]
    for change, calls in many.items():
        assert calls <= TOLERANCE * few[change], (change, calls, few[change])
