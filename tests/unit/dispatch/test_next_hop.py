"""What a request carries to the next hop: our own members of `_meta` go to mesh nodes alone."""

import pytest

from agent.dispatch.next_hop import comes_in_session, outgoing
from agent.model import (
    IN_SESSION_META_KEY,
    BackendSpec,
    HttpTarget,
    Json,
    PeerSource,
    PeerSpec,
    ServerScope,
    ServerSpec,
)
from agent.routing.table import Replica

TARGET = HttpTarget("http://there/mcp")
SERVER = ServerSpec("kit", TARGET, ServerScope.SERVICE)
PEER = PeerSpec("b", TARGET, PeerSource.DISCOVERY)


def meta_for(spec: BackendSpec, node_id: str | None, *, in_session: bool, meta: Json | None = None) -> Json:
    replica = Replica(spec.key, "ask", node_id, ours=False)
    params = {"name": "kit__ask", "_meta": meta or {}}
    sent = outgoing("tools/call", params, replica, spec, node_id="id-a", timeout_s=1.0, key=None, in_session=in_session)
    found: Json = sent["_meta"]
    return found


@pytest.mark.parametrize("in_session", [True, False])
def test_only_a_node_hears_that_a_client_has_a_session(*, in_session: bool) -> None:
    claimed = {IN_SESSION_META_KEY: True}
    assert (IN_SESSION_META_KEY in meta_for(PEER, "id-b", in_session=in_session, meta=claimed)) is in_session
    for spec, node_id in ((SERVER, None), (PEER, None)):
        assert meta_for(spec, node_id, in_session=in_session, meta=claimed) == {}


@pytest.mark.parametrize(
    ("meta", "affinity", "is_so"),
    [
        ({}, None, False),
        ({}, "key", False),
        ({}, "session:digest", True),
        ({IN_SESSION_META_KEY: True}, "key", True),
        ({IN_SESSION_META_KEY: "yes"}, None, False),
        (None, None, False),
    ],
)
def test_a_node_says_that_its_client_has_a_session(meta: Json | None, affinity: str | None, *, is_so: bool) -> None:
    assert comes_in_session({"_meta": meta}, affinity) is is_so
