"""What clients and servers may say of sessions and questions, and how much of it is kept."""

import asyncio

import pytest

from agent.client.affinity import KEY_LEN_MAX, affinity_key
from agent.client.protocol import Request
from agent.client.sessions.pending_call import PendingResult
from agent.client.sessions.pool import FEATURES_BYTES_MAX
from agent.dispatch.client_events import CalledBackend, UpstreamEvents
from agent.dispatch.next_hop import believed
from agent.errors import RpcError
from agent.links.session_offers import SessionOffers
from agent.mcp_terms import LATEST_HANDSHAKE_VERSION, LATEST_MODERN_VERSION
from agent.model import (
    AFFINITY_META_KEY,
    PENDING_META_KEY,
    HttpTarget,
    Json,
    LinkView,
    NodeIdentity,
    PeerSource,
    PeerSpec,
)
from agent.server.sessions.client_events import NOTIFIED_AT_ONCE_MAX, WAITING_MAX, SessionNotifications
from agent.server.sessions.session import CALLED_BACKENDS_MAX, ServerSession
from tests.unit.client.sessions.scripted_sessions import Server, call, client_to

PEER = PeerSpec("peer", HttpTarget("http://peer/mcp"), PeerSource.DISCOVERY)
OPEN: Json = {"resultType": "input_required", "requestState": "s", "_meta": {PENDING_META_KEY: True, "theirs": 1}}


@pytest.mark.parametrize(
    ("version", "identity", "is_believed"),
    [
        (LATEST_MODERN_VERSION, None, False),
        (LATEST_MODERN_VERSION, NodeIdentity("id-a", "a"), True),
        (LATEST_HANDSHAKE_VERSION, None, True),
    ],
)
def test_only_nodes_and_our_own_clients_may_say_that_a_call_is_open(
    version: str, identity: NodeIdentity | None, is_believed: bool
) -> None:
    result = believed(OPEN, LinkView(PEER, protocol_version=version, identity=identity))
    assert result is OPEN if is_believed else result == {**OPEN, "_meta": {"theirs": 1}}


def test_a_pending_call_of_our_own_client_is_believed_beside_a_stateless_server() -> None:
    result = PendingResult(OPEN)
    assert believed(result, LinkView(PEER, protocol_version=LATEST_MODERN_VERSION)) is result


def test_a_key_of_any_length_stands_for_one_client_and_costs_little() -> None:
    long = ["x" * (KEY_LEN_MAX + more) + "\ud800" for more in (0, 1)]
    keys = [affinity_key({"_meta": {AFFINITY_META_KEY: key}}, None) or "" for key in (*long, long[0], "x")]
    assert keys[0] == keys[2] != keys[1]
    assert keys[3] == "x"
    assert affinity_key({"_meta": {AFFINITY_META_KEY: keys[0]}}, None) == keys[0], "the same on the next node"
    assert max(map(len, keys)) <= KEY_LEN_MAX


def session() -> ServerSession:
    return ServerSession("id", "2025-11-25", b"{}", 0.0)


def test_a_session_remembers_where_it_called_last_and_no_more_than_its_limit() -> None:
    one = session()
    for number in (*range(CALLED_BACKENDS_MAX), 0, CALLED_BACKENDS_MAX):
        one.called("peer:a", f"service:{number}")
    assert len(one.called_backends) == CALLED_BACKENDS_MAX
    assert CalledBackend("peer:a", "service:0") in one.called_backends
    assert CalledBackend("peer:a", "service:1") not in one.called_backends


@pytest.mark.looptime
async def test_what_a_client_declares_of_itself_is_kept_up_to_a_size() -> None:
    server = Server()
    async with client_to(server) as client:
        large = {"elicitation": {"form": {"x": "y" * FEATURES_BYTES_MAX}}}
        with pytest.raises(RpcError, match="declares more than") as caught:
            await call(client, "quick", _meta={"io.modelcontextprotocol/clientCapabilities": large})
        assert caught.value.code == -32602
        assert server.opened == []


class HungNode:
    """A link to a node that does not answer until it goes on."""

    spec = PEER
    view = LinkView(PEER, protocol_version=LATEST_MODERN_VERSION, identity=NodeIdentity("id-a", "a"))

    def __init__(self) -> None:
        self.told = 0
        self.goes_on = asyncio.Event()

    async def request(self, _request: Request) -> Json:
        self.told += 1
        await self.goes_on.wait()
        return {}


@pytest.mark.looptime
async def test_sessions_that_end_faster_than_servers_can_hear_of_it_do_not_pile_up() -> None:
    node = HungNode()
    changes, ending = SessionNotifications(UpstreamEvents(lambda _: node, SessionOffers())), session()
    ending.called("peer:a", "service:kit")
    async with asyncio.TaskGroup() as group:
        for number in range(WAITING_MAX + 100):
            group.create_task(changes.session_ended(ending), name=f"end {number}")
        await asyncio.sleep(1)
        assert node.told == NOTIFIED_AT_ONCE_MAX
        node.goes_on.set()
    assert node.told == WAITING_MAX
