"""Two processes that register under one service ID with one agent, in loop time: each names the other for so long."""

import asyncio
from dataclasses import replace

import pytest

from discovery.consul.registration import COMPARE_S
from tests.unit.discovery.consul.test_watch_and_registration import OURS, ScriptedClient, kept, registrar_of

pytestmark = pytest.mark.looptime


async def test_another_process_under_our_service_id_is_named_until_it_is_gone() -> None:
    client = ScriptedClient(lambda _number, _query: None)
    copied = replace(OURS, port=9000, address="10.0.0.7", meta={"epoch": "2", "node_id": "id-own"})
    ours, theirs = registrar_of(client, OURS), registrar_of(client, copied)
    async with asyncio.TaskGroup() as group:
        group.create_task(kept(ours, 10 * COMPARE_S), name="ours")
        await asyncio.sleep(COMPARE_S / 2)
        assert ours.status.rival == ""
        await kept(theirs, 3 * COMPARE_S)
        assert ours.status.rival == "port 9000 at 10.0.0.7, node ID id-own, start 2"
        assert theirs.status.rival == "port 8000 at this Consul agent's machine, node ID none, start 1"
        await asyncio.sleep(4 * COMPARE_S)
        assert ours.status.rival == ""
