"""What a node still holds of peers that came once and left for good, as an autoscaler's do: little, whatever they had.

All that is reachable from the mesh is added up, so a new table that keeps something of each counts as well. The one
rule: a peer leaves here as it does in a mesh, with a word, by a crash or from a list.
"""

import gc
import sys
import types
from dataclasses import replace
from typing import Any, Final

import pytest

from agent.control.departures import Departed
from agent.control.reconciler import Mesh
from agent.model import LinkState, Offer, PeerSpec, ServerScope
from agent.routing.away import AWAY_MAX
from agent.routing.table import RouteKind
from bench.link_change import TOOLS, catalog_of, offer_of, still_mesh
from discovery.model import Catalog, Instance
from tests.measured import measured

STAY: Final = 20
# Each has three tools, which are eight names: by its name and by its ID, and what their URIs begin with. Of each name
# 0.65 KB for ten minutes, and of the peer 0.6 KB, for an hour at most; tables have room for a few more.
BYTES_EACH_MAX: Final = 7_200
WAVE: Final = 50
# What 2,000 different peers may take, an hour's of an autoscaler: names have a bound of their own.
MANY: Final = 2_000
MANY_BYTES_MAX: Final = 10 * 2**20
_CODE: Final = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.CodeType,
    types.FrameType,
    types.CoroutineType,
)


def bytes_of(root: object) -> int:
    """What an object and all that it refers to take, but for code and what runs."""
    seen, left, total = set[int](), [root], 0
    while left:
        one = left.pop()
        if id(one) not in seen and not isinstance(one, _CODE):
            seen.add(id(one))
            total += sys.getsizeof(one)
            left += gc.get_referents(one)
    return total


def large(offer: Offer) -> Offer:
    """The same tools with schemas and words of 20 KB."""
    schema = {"type": "object", "properties": {f"p{number}": {"description": "x" * 150} for number in range(100)}}
    tools = [{**tool, "description": "y" * 2_000, "inputSchema": schema} for tool in offer.tools]
    return replace(offer, tools=tuple(tools), digest="large")


class Comers:
    """Peers that come in waves beside some that stay, each one once."""

    def __init__(self, mesh: Mesh, link: Any, peers: int, scope: ServerScope) -> None:
        self._mesh, self._link, self._scope = mesh, link, scope
        self._known = catalog_of(STAY + peers).instances
        self._next = STAY

    async def come_and_go(self, count: int, state: LinkState, *, with_large_offers: bool = False) -> None:
        """So many come, and leave in this state: READY by the list alone, BACKOFF after they have gone down."""
        come = self._known[self._next : self._next + count]
        self._next += count
        await self._list(come)
        for one in come:
            link = self._link(f"peer:{one.meta['name']}")
            if with_large_offers:
                link.change(offer=large(offer_of(link.view.identity, self._scope, TOOLS)))
            if state is not LinkState.READY:
                link.change(state=state, failure="Unreachable", last_error="http://10.0.0.1/mcp does not answer")
        await self._mesh.step()
        await self._list(())

    async def _list(self, beside: tuple[Instance, ...]) -> None:
        self._mesh.take_catalog(Catalog((*self._known[:STAY], *beside)))
        for _ in range(3):
            await self._mesh.step()


@pytest.mark.parametrize("state", [LinkState.READY, LinkState.BACKOFF])
@pytest.mark.parametrize("scope", [ServerScope.NODE, ServerScope.SERVICE, ServerScope.FLEET])
async def test_a_peer_that_left_costs_little_whatever_its_tools_say(scope: ServerScope, state: LinkState) -> None:
    async with still_mesh(STAY, scope) as (mesh, link):
        comers = Comers(mesh, link, 2 * WAVE, scope)
        await comers.come_and_go(WAVE, state)
        before = bytes_of(mesh)
        await comers.come_and_go(WAVE, state, with_large_offers=True)
        each = (bytes_of(mesh) - before) / WAVE
        measured(f"bytes of a peer with {TOOLS} tools that left ({scope}, {state}): {each:,.0f}")
        assert len(mesh.departed()) == 2 * WAVE
        assert each < BYTES_EACH_MAX
        kept = [one for (kind, _), one in mesh.node_routes.away.items() if kind is RouteKind.TOOL]
        assert kept
        assert "description" not in str([one.definition for one in kept])


async def test_two_thousand_different_peers_cost_a_few_megabytes() -> None:
    async with still_mesh(STAY, ServerScope.FLEET) as (mesh, link):
        comers, before = Comers(mesh, link, MANY, ServerScope.FLEET), bytes_of(mesh)
        for _ in range(MANY // 200):
            await comers.come_and_go(200, LinkState.READY)
        grown = bytes_of(mesh) - before
        measured(f"{MANY:,} different peers that came and left: {grown / 2**20:.1f} MB more")
        assert len(mesh.node_routes.away) <= AWAY_MAX
        assert grown < MANY_BYTES_MAX


async def test_what_is_remembered_of_a_departure_holds_nothing_of_its_peer() -> None:
    async with still_mesh(STAY, ServerScope.NODE) as (mesh, link):
        await Comers(mesh, link, 1, ServerScope.NODE).come_and_go(1, LinkState.READY)
        (departed,) = mesh.departed()
        assert isinstance(departed, Departed)
        held = [getattr(departed, name) for name in Departed.__dataclass_fields__]
        assert not [one for one in held if not isinstance(one, str | bool | float | None)]
        assert not any(isinstance(one, PeerSpec) for one in gc.get_referents(mesh._absences._left))
