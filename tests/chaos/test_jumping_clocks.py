"""The time of day of a real node jumps by hours, forward and back: nothing ends for that but what has an end by date.

The node whose clock jumps holds the embedded catalog as well, so the checks of both nodes run on it. The one rule: what
waits, waits by the monotonic clock; what is dated, is judged by the time of day.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from agent.audit.chain import Head, checked
from tests.attacks.clients import Holder, entry, token_of, write_tokens
from tests.chaos.jumping_clock import JumpingClock, jumping_clock
from tests.debian_binary import why_not
from tests.e2e.meshes import CatalogKind
from tests.e2e.running import ONE_MESH, RunningNode, running_nodes
from tests.e2e.servers_files import example
from tests.e2e.steady_calls import steady_calls
from tests.waiting import eventually, settled

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

HOUR_S = 3600
EXPIRED = "token.expired"
SHORT = "a-token-for-everything-0123456789abcdef"
# A node that was away is dialled again after 30 s at most; the rest is the test machine's.
HEALED_WITHIN_S = 40.0


@pytest.fixture
def clock(tmp_path: Path) -> JumpingClock:
    """The time of day of one node."""
    found = jumping_clock(tmp_path)
    if found is None:
        pytest.skip(f"NO LIBFAKETIME ({why_not()}); `python -m tests.debian_binary` fetches it")
    return found


async def test_clock_that_jumps_by_hours_ends_no_link_session_registration_or_call_and_moves_the_end_of_tokens(
    clock: JumpingClock, tmp_path: Path
) -> None:
    ends = datetime.now(UTC) + timedelta(minutes=30)
    audit = tmp_path / "audit.jsonl"
    tokens = write_tokens(
        tmp_path / "tokens.json",
        {"lasting": entry("lasting", "mcp"), "ending": entry("ending", "mcp", expires=f"{ends:%Y-%m-%dT%H:%M:%SZ}")},
    )
    own = {"MESH_TOKENS_FILE": str(tokens), "MESH_AUDIT_FILE": str(audit), "MESH_AUDIT_CALLS": "1"}
    mesh = {**CatalogKind("embedded").fresh(), "MESH_TOKEN": SHORT, "MESH_PEER_TOKEN": ONE_MESH}
    servers = {"dice": example("dice")}
    async with running_nodes() as start:
        jumps = await start("jumps", tmp_path / "jumps", servers=servers, **mesh, **own, **clock.environment)
        stays = await start("stays", tmp_path / "stays", servers=servers, **mesh)
        await eventually(partial(jumps.sees, "stays"))
        await eventually(partial(stays.sees, "jumps"))
        await eventually(partial(jumps.offers, "stays__dice__roll"))
        await eventually(partial(stays.offers, "jumps__dice__roll"))
        lasting, ending = (Holder(jumps.base, token_of(name)) for name in ("lasting", "ending"))
        await lasting.begin()
        await ending.begin()
        registered = await settled(partial(registrations, jumps, stays))
        async with steady_calls(jumps, "stays__dice__roll") as out, steady_calls(stays, "jumps__dice__roll") as into:
            for hours in (0, 1, -2, 0):
                clock.set(hours * HOUR_S)
                assert (await lasting.legacy("tools/call", name="dice__roll", arguments={})).status == 200
                # What is dated follows the time of day, in both directions.
                is_over = hours > 0
                assert (await ending.modern("tools/list")).status == (401 if is_over else 200), hours
                if is_over:  # A node looks once a second.
                    await eventually(partial(is_noted, audit, EXPIRED))
                await out.grows(20)
                await into.grows(20)
        assert (out.failures, into.failures) == ([], [])
        for node, other in ((jumps, "stays"), (stays, "jumps")):
            peer = (await node.peers())[other]
            assert (peer["connected"], peer["reconnects"]) == (True, 0), peer
            assert (await node.discovery())["up"]
        assert await registrations(jumps, stays) == registered
        # A day back, while a link waits for its next dial and a check for its heartbeat.
        stays.kill()
        await eventually(partial(is_down, jumps, "stays"))
        clock.set(-24 * HOUR_S)
        await start(stays)
        await eventually(partial(jumps.sees, "stays"), HEALED_WITHIN_S)
        await eventually(partial(stays.sees, "jumps"), HEALED_WITHIN_S)
    the_audit_is_whole(audit)


async def registrations(*nodes: RunningNode) -> list[float]:
    return [await node.metric("mesh_registrations_total") for node in nodes]


async def is_noted(audit: Path, act: str) -> bool:
    return f'"{act}"' in await asyncio.to_thread(audit.read_text)


async def is_down(node: RunningNode, peer: str) -> bool:
    return not (await node.peers())[peer]["connected"]


def the_audit_is_whole(path: Path) -> None:
    """Each record follows the one before, whatever their times say."""
    records = [record for record, _ in checked(path.read_bytes().splitlines(keepends=True), Head())]
    acts = [record["act"] for record in records]
    assert acts.count(EXPIRED) == 1, acts
    times = [datetime.fromisoformat(record["time"]) for record in records if record["act"] == "call"]
    hours = [round((after - before).total_seconds() / HOUR_S) for before, after in pairwise(times)]
    assert [jump for jump in hours if jump] == [1, -3, 2], hours
