"""What an operator's word about a peer does: a plain server whatever it says, a node only with its proof."""

import sys
from pathlib import Path

from agent.model import ServerScope, ServerSpec, StdioTarget
from agent.peer_kind import PeerKind
from agent.state.overrides import OverrideStore
from tests.integration.servers import pid_server
from tests.integration.servers.hosting import Seen, http, scripted
from tests.integration.servers.nodes import RunningNode, catalog, instance, running_node
from tests.integration.test_identity import call, posing

KIT = ServerSpec("kit", StdioTarget(sys.executable, ("-m", pid_server.__name__)), ServerScope.SERVICE)


def kept(node: RunningNode) -> dict[str, PeerKind | None]:
    return {override.name: override.kind for override in node.orders._store.overrides}


async def test_a_server_by_an_operators_word_is_asked_for_no_proof_and_is_no_node_whatever_it_says(
    tmp_path: Path,
) -> None:
    async with (
        running_node("two", tmp_path / "two", servers=[KIT]) as two,
        running_node("one", tmp_path / "one") as one,
        posing(two.identity.node_id, "two") as (impostor, script),
    ):
        one.mesh.take_catalog(catalog(instance(two)))
        await one.when(lambda: "kit__pid" in one.tool_names())
        pid = await call(one)
        status, body = await one.add_peer("plain", script.url, kind="server")
        assert (status, body["data"]["function_count"]) == (201, 1)
        assert [seen.path for seen in impostor.asked if seen.path.endswith("/handshake")] == []
        await one.when(lambda: "plain__kit__pid" in one.tool_names())
        assert one.tool_names() == ["kit__pid", "plain__kit__pid"]
        assert await call(one, "plain__kit__pid") == "mine"
        assert await call(one) == pid
        _, listed = await one.rest("GET", "/peers")
        shown = {peer["name"]: (peer["kind"], peer["node_id"]) for peer in listed["data"]["peers"]}
        assert shown == {"plain": ("server", None), "two": (None, two.identity.node_id)}
        view = one.view("plain")
        assert view.identity is None
        # As of any plain server, nothing of it is offered to other nodes, and a removal takes no node away.
        assert (await one.rest("DELETE", "/peers/plain"))[0] == 200
        await one.mesh.settled()
        assert one.orders.suppressions == ()
        assert await call(one) == pid


async def test_a_node_at_the_url_of_an_operators_server_keeps_its_own_link(tmp_path: Path) -> None:
    async with (
        running_node("two", tmp_path / "two", servers=[KIT]) as two,
        running_node("one", tmp_path / "one") as one,
    ):
        one.mesh.take_catalog(catalog(instance(two)))
        await one.when(lambda: "kit__pid" in one.tool_names())
        assert (await one.add_peer("plain", two.url, kind="server"))[0] == 201
        await one.when(lambda: "plain__kit__pid" in one.tool_names())
        assert one.is_up("two")
        assert (one.view("two").identity, one.view("plain").identity) == (two.identity, None)
        await one.mesh.settled()
        selection = one.mesh.selection
        one.mesh.wake()
        await one.mesh.settled()
        assert one.mesh.selection is selection, "nothing is learned of that URL, and unlearned, in turn"
        # Said again without a word, it is the same node, with one link.
        assert (await one.add_peer("plain", two.url))[0] == 200
        await one.when(lambda: one.is_up("plain") and one.view("plain").identity == two.identity)


async def test_a_server_that_says_it_is_this_very_node_is_not_linked_and_this_node_itself_is_refused(
    tmp_path: Path,
) -> None:
    async with running_node("one", tmp_path / "one") as one, posing(one.identity.node_id, "one") as (impostor, script):
        for url in (script.url, one.url):
            status, body = await one.add_peer("false", url, kind="server")
            assert (status, body["error"]["code"]) == (409, "own_node")
            assert "this node itself" in body["message"]
        assert [seen.path for seen in impostor.asked if seen.path.endswith("/handshake")] == []
        assert one.tool_names() == []
        assert kept(one) == {}


async def test_what_is_to_be_a_node_and_does_not_prove_it_is_refused_and_nothing_of_it_is_kept(
    tmp_path: Path,
) -> None:
    async def unknown(_request: Seen) -> tuple[bytes, bool]:
        return http(401, WWW_Authenticate="Bearer"), True

    async with (
        running_node("two", tmp_path / "two") as two,
        running_node("one", tmp_path / "one") as one,
        posing("0" * 32, "false") as (impostor, script),
        scripted(unknown) as guarded,
    ):
        for url in (script.url, guarded.url):
            status, body = await one.add_peer("false", url, kind="node")
            assert (status, body["error"]["code"]) == (409, "not_a_node")
            assert "does not prove that it is a node of this mesh" in body["message"]
        assert {seen.path for seen in impostor.asked} == {"/mcp/local/handshake"}
        assert kept(one) == {}
        assert (await one.add_peer("two", two.url, kind="node"))[0] == 201
        assert one.view("two").identity == two.identity
        # A word that cannot be kept leaves what was there before it.
        assert (await one.add_peer("plain", script.url, kind="server"))[0] == 201
        assert (await one.add_peer("plain", script.url, kind="node"))[0] == 409
        await one.when(lambda: one.is_up("plain"))
        assert kept(one) == {"plain": PeerKind.SERVER, "two": PeerKind.NODE}
        assert (await one.add_peer("gate", script.url, kind="server", scope="mesh"))[0] == 422
        assert (await one.add_peer("gate", script.url, kind="other"))[0] == 422
        assert {
            known.name: known.kind for known in OverrideStore.open(one.orders._store._path.parent).overrides
        } == kept(one)
