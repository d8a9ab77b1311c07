"""What the settings and peers of a node mean for its parts."""

from agent.app.plan import addresses_of_peers
from agent.model import HttpTarget, LinkView, NodeIdentity, PeerScope, PeerSource, PeerSpec, ServerScope, ServerSpec


def test_places_are_kept_for_nodes_that_have_proven_themselves_and_for_nothing_else_of_a_catalog() -> None:
    def peer(host: str, source: PeerSource) -> PeerSpec:
        return PeerSpec("desk", HttpTarget(f"http://{host}:8000/mcp"), source, PeerScope.LOCAL)

    proven = NodeIdentity("0a" * 16, "desk")
    views = [
        LinkView(peer("10.0.0.1", PeerSource.DISCOVERY), identity=proven),
        LinkView(peer("10.0.0.2", PeerSource.DISCOVERY)),
        LinkView(peer("10.0.0.3", PeerSource.OVERRIDE)),
        LinkView(ServerSpec("files", HttpTarget("http://10.0.0.4/mcp"), ServerScope.NODE)),
    ]
    assert addresses_of_peers(lambda: views) == {"10.0.0.1"}
