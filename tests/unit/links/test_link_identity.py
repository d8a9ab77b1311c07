"""A link while the catalog learns and forgets whose its URL is, and after a refusal."""

import asyncio
from dataclasses import replace

import pytest

from agent.errors import AuthRefused, IdentityRefused
from agent.model import LinkState, NodeIdentity, PeerSource
from tests.scripted_client import PEER, OtherSide, running_link

pytestmark = pytest.mark.looptime


async def test_a_link_stays_up_while_the_catalog_comes_to_know_its_node_and_forgets_it_again() -> None:
    side = OtherSide(identity=NodeIdentity("id-peer", "peer"))
    fixed = replace(PEER, source=PeerSource.STATIC)
    known = replace(fixed, expected_node_id="id-peer", is_mesh_node=True)
    async with running_link(side, fixed) as rig:
        await rig.ready()
        for spec in (known, fixed, known, fixed):
            rig.link.relabel(spec, sighted=True)
            await asyncio.sleep(1)
        assert (len(side.clients), rig.told.reconnected, rig.link.view.state) == (1, 0, LinkState.READY)


@pytest.mark.parametrize("identity", [None, NodeIdentity("id-other", "other")])
async def test_a_link_is_dialled_anew_where_the_catalog_knows_another_node(identity: NodeIdentity | None) -> None:
    side = OtherSide(identity=identity)
    fixed = replace(PEER, source=PeerSource.STATIC)
    async with running_link(side, fixed) as rig:
        await rig.ready()
        known = replace(fixed, expected_node_id="id-peer", is_mesh_node=True)
        side.dial = lambda: IdentityRefused("is another node")
        rig.link.relabel(known, sighted=True)
        await rig.when(lambda: rig.link.view.failure == "IdentityRefused", within_s=1)


async def test_a_refused_token_waits_long_at_once_and_a_sighting_cuts_it_short() -> None:
    side = OtherSide(dial=lambda: AuthRefused("401"))
    async with running_link(side) as rig:
        await rig.down()
        assert rig.link.view.next_attempt_at_s is not None
        assert 7.5 <= rig.link.view.next_attempt_at_s <= 15
        side.dial = lambda: None
        rig.link.relabel(replace(PEER, sighting="new"), sighted=True)
        assert await rig.ready() == 0.0
