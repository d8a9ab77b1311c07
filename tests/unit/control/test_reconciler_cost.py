"""What one link's change costs: as many calls of functions among many peers as among few, and hardly more time."""

import gc
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
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
# Processor time among many peers, by that among few, since copies of tables call no function. On 2026-11-30 1.2 for
# tools of the peers' own, 1.5 for those of a service, 1.1 for those of a fleet; with copies of tables 2.9, 4.2 and 11.
TIMES_MAX = 2.5
FEW, MANY = 250, 4_000
REPETITIONS = 20


async def _calls(mesh: Mesh) -> int:
    """How many functions are called by a step."""
    count = 0

    def counted(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal count
        count += event == "call"

    gc.disable()  # What it finds and closes, and what watches it, is of other tests.
    sys.setprofile(counted)
    try:
        await mesh.step()
    finally:
        sys.setprofile(None)
        gc.enable()
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


async def _least_ms(scope: ServerScope, *counts: int) -> list[float]:
    """Milliseconds of processor time of a link that goes down and of one that comes up, the least, by count of peers.

    In turns, so that what else runs on the machine slows them all down alike.
    """
    found: dict[tuple[int, LinkState], list[float]] = {}
    async with AsyncExitStack() as stack:
        meshes = {peers: await stack.enter_async_context(still_mesh(peers, scope)) for peers in counts}
        for _ in range(REPETITIONS):
            for state in (LinkState.BACKOFF, LinkState.READY):
                for peers, (mesh, link) in meshes.items():
                    link(PEER).change(state=state)
                    began_s = time.process_time()
                    await mesh.step()
                    found.setdefault((peers, state), []).append(1000 * (time.process_time() - began_s))
    return [sum(min(taken) for (of, _), taken in found.items() if of == peers) for peers in counts]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("scope", [ServerScope.NODE, ServerScope.SERVICE, ServerScope.FLEET])
async def test_a_change_of_one_link_takes_little_more_time_among_many_peers_than_among_few(scope: ServerScope) -> None:
    few_ms, many_ms = await _least_ms(scope, FEW, MANY)
    measured(f"a link down and up, of {FEW} and of {MANY} peers: {few_ms:.1f} and {many_ms:.1f} ms of processor time")
    assert many_ms <= TIMES_MAX * few_ms


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
