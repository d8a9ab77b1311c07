"""Real nodes tell each other which sessions clients ended: what `agent.app.node` wires, in a mesh that is shared."""

import pytest

from tests.e2e.meshes import SharedMesh
from tests.integration.servers.raw_session import raw_session, request
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


async def test_a_session_that_its_client_ended_at_one_node_ends_at_the_others(mesh: SharedMesh) -> None:
    async with raw_session(mesh.plain.url) as session:

        async def is_refused_everywhere() -> bool:
            for node in (mesh.node_status, mesh.hall):
                async with session.http.post(node.url, json=request("ping"), headers=session.headers) as response:
                    if response.status != 404:
                        return False
            return True

        assert not await is_refused_everywhere()
        async with session.http.delete(mesh.plain.url, headers=session.headers) as response:
            assert response.status == 200
        await eventually(is_refused_everywhere)
