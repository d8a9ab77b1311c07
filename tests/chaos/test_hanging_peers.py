"""Nodes that accept requests and never answer them are found soon after they go on: sooner where they are called.

Two that are stopped, whose kernel still accepts, and two behind a proxy that holds what came before for ever, and that
refuses any GET itself, among others that are well: were they most, the node would doubt itself. No catalog says that
they are back, nor do they dial. The one rule: each hangs until a handshake waits for its answer.
"""

import signal
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from agent.client.http.prover import HANDSHAKE_TIMEOUT_S
from tests.chaos.holding_proxy import holding_proxy
from tests.chaos.stub_peers import listed, stub_peers
from tests.chaos.test_hanging_servers import WELL, waits
from tests.chaos.test_returning_servers import CALLED, IDLE, all_are_found_again, calls_to
from tests.e2e.running import running_nodes
from tests.e2e.servers_files import example
from tests.ports import free_ports
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

STOPPED, HELD = "stopped", "held"
TOOL = "d__roll"
# Such a handshake would go on for longer than a called node may be away.
WAITS_FOR_S = HANDSHAKE_TIMEOUT_S / 2
ALONE = {"MESH_DISCOVERY": "off", "MESH_ALLOWED_HOSTS": "127.0.0.1"}


async def test_a_node_that_hangs_and_goes_on_is_found_in_two_seconds_while_it_is_called_and_in_ten_while_not(
    tmp_path: Path,
) -> None:
    names = [f"{way}-{word}" for way in (STOPPED, HELD) for word in (CALLED, IDLE)]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    well = free_ports(WELL)
    async with running_nodes() as start, AsyncExitStack() as stack:
        await stack.enter_async_context(stub_peers(tmp_path, well))
        listing = str(listed(tmp_path / "well.json", well))
        front = await start("front", tmp_path / "front", **ALONE, MESH_PEER_FILES=listing)
        peers = dict(
            zip(
                names,
                await all_of(
                    start(name, tmp_path / name, port=port, servers={"d": example("dice")}, **ALONE)
                    for name, port in ports.items()
                ),
                strict=True,
            )
        )
        proxies = {
            name: await stack.enter_async_context(holding_proxy(port, "GET"))
            for name, port in ports.items()
            if name.startswith(HELD)
        }
        for name, port in ports.items():
            dialled = proxies[name].port if name in proxies else port
            peer = {"peer_name": name, "peer_url": f"http://127.0.0.1:{dialled}/mcp", "kind": "node"}
            status, said = await front.request("POST", "/api/v1/mcp/peers", peer)
            assert status in (201, 202), said
        await eventually(partial(front.offers, *(f"{name}__{TOOL}" for name in names)))
        stopped = [peers[name].process for name in names if name.startswith(STOPPED)]
        for process in stopped:
            process.send_signal(signal.SIGSTOP)
        for proxy in proxies.values():
            proxy.hold()
        await all_of(waits(front, name, WAITS_FOR_S) for name in names)
        answered = await stack.enter_async_context(calls_to(front, names, TOOL))
        for process in stopped:
            process.send_signal(signal.SIGCONT)
        for proxy in proxies.values():
            proxy.go_on()
        await all_are_found_again(front, names, answered)
