"""Nodes with certificates of a real Consul's own CA: shown to each other alone, and never the proof of a node."""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent.app.connect import FOLDER, LEAF_NAME
from agent.client.http.prover import Credentials, Prover
from agent.client.outbound import Outbound
from agent.errors import IdentityRefused
from agent.identity.certificate_names import ServiceBinding
from agent.identity.mesh_secret import mesh_secrets
from agent.identity.node_key import NodeKey
from agent.model import HttpTarget, TlsFiles
from tests.consul_process import RunningConsul, shared_consul
from tests.e2e.running import RunningNode, nodes_below, start_node
from tests.e2e.servers_files import example
from tests.integration.servers.certificates import Authority
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.consul, pytest.mark.timeout(120)]

SECRET = "of-the-mesh-0123456789abcdef"
SERVICE = "mcp-node"


@dataclass
class Scene:
    """Two nodes; clients are shown certificates of `authority`, nodes those of Consul."""

    consul: RunningConsul
    authority: Authority
    folder: Path
    front: RunningNode
    back: RunningNode

    @property
    def leaf(self) -> TlsFiles:
        """What `front` shows to nodes."""
        found = next((self.folder / "front-state").rglob(FOLDER))
        return TlsFiles(str(found / "roots.pem"), str(found / "leaf.pem"), server_name=LEAF_NAME)

    async def shown(self, server_name: str, ca: Path) -> Any:
        """The names in what `back` shows for this one, if the authorities in a file vouch for it."""
        context = ssl.create_default_context(cafile=str(ca))
        context.check_hostname = False
        _, writer = await asyncio.open_connection("127.0.0.1", self.back.port, ssl=context, server_hostname=server_name)
        found = writer.get_extra_info("peercert")
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return found["subjectAltName"]

    async def prove(self, secret: str, outbound: Outbound) -> None:
        """Shake hands with `back` as a new node."""
        of_mesh = mesh_secrets((secret,), ())
        credentials = Credentials(NodeKey.new(), lambda: of_mesh, "stranger")
        target = HttpTarget(f"{self.back.base}/mcp/local")
        await Prover(target, credentials, members=True, connect_timeout_s=5, outbound=outbound).prove()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, consul_program: Path) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("connect")
    authority = Authority(folder / "authority")
    settings: dict[str, Any] = {
        "MESH_LISTEN_CERT": str(authority.issue("127.0.0.1").both),
        "MESH_TLS_CA": str(authority.ca),
        "MESH_PEER_TOKEN": SECRET,
        "MESH_CONSUL_CONNECT": "1",
    }

    async def start(consul: RunningConsul) -> Scene:
        async def node(name: str, **more: Any) -> RunningNode:
            state = str(folder / f"{name}-state")
            return await start_node(name, folder, CONSUL_HTTP_ADDR=consul.url, MESH_STATE_DIR=state, **settings, **more)

        back = await node("back", servers={"notes": example("notes", "service")})
        return Scene(consul, authority, folder, await node("front"), back)

    with (
        shared_consul(
            consul_program, tmp_path_factory.mktemp("consul"), extra={"connect": {"enabled": True}}
        ) as consul,
        nodes_below(folder),
    ):
        yield asyncio.run(start(consul))


async def test_nodes_reach_each_other_by_certificates_of_consul_which_the_catalog_says(scene: Scene) -> None:
    await eventually(partial(scene.front.sees, "back"))
    await eventually(partial(scene.back.sees, "front"))
    assert (await scene.front.peers())["back"]["url"] == f"{scene.back.base}/mcp"
    listed = await scene.consul.call("GET", f"/v1/health/service/{SERVICE}")
    assert {row["Service"]["Meta"]["scheme"] for row in listed} == {"https"}


async def test_clients_are_shown_the_other_certificate_and_nodes_that_of_the_service(scene: Scene) -> None:
    assert scene.leaf.ca is not None
    assert await scene.shown("localhost", scene.authority.ca) == (("IP Address", "127.0.0.1"),)
    ((kind, uri),) = await scene.shown(LEAF_NAME, Path(scene.leaf.ca))
    assert (kind, uri.partition("/ns/")[2]) == ("URI", f"default/dc/dc1/svc/{SERVICE}")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (scene.folder / "front-state").rglob("*.pem")}
    assert modes == {"leaf.pem": 0o600, "roots.pem": 0o600}


async def test_who_has_the_secret_of_the_mesh_and_no_certificate_of_its_service_is_no_node(scene: Scene) -> None:
    with pytest.raises(IdentityRefused, match="is for no name, and not for the service mcp-node"):
        await scene.prove(SECRET, Outbound(tls=TlsFiles(str(scene.authority.ca))))


async def test_who_has_the_certificate_and_not_the_secret_of_the_mesh_is_no_node(scene: Scene) -> None:
    outbound = Outbound(node_tls=scene.leaf, binding=ServiceBinding(SERVICE))
    with pytest.raises(IdentityRefused, match="another secret than this mesh"):
        await scene.prove("of-another-0123456789abcdef", outbound)
    await scene.prove(SECRET, outbound)


async def test_a_certificate_of_another_service_does_not_make_a_server_a_node(scene: Scene) -> None:
    with pytest.raises(IdentityRefused, match="and not for the service other of Consul's CA"):
        await scene.prove(SECRET, Outbound(node_tls=scene.leaf, binding=ServiceBinding("other")))
