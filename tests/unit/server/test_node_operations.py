"""What other nodes hear of this node's servers: all but the private ones, by whatever name they ask."""

from typing import Any, cast

import pytest

from agent.errors import MeshError
from agent.model import Json
from agent.server.node_operations import NodeOperations, WithoutPrivate


class Node:
    """A node with an open server, a private one whose name was made safe, and a peer."""

    def servers(self, *, for_clients: bool = False) -> list[Json]:
        assert for_clients in (True, False)
        return [
            {"name": "notes", "scope": "node"},
            {"name": "My-Diary", "configured_name": "My Diary", "scope": "private"},
            {"name": "node-b", "scope": "local"},
        ]

    def functions(self, server_name: str) -> Json:
        if server_name not in ("notes", "My-Diary", "My Diary", "node-b", "of another node"):
            raise MeshError(f"There is no MCP server or peer named {server_name!r}. Known: My-Diary, node-b, notes.")
        return {"server_name": server_name}

    async def reload(self, server_name: str) -> Json:
        if server_name == "notes":
            raise MeshError("The entry of MCP server 'notes' is left out")
        return self.functions(server_name)

    async def reload_all(self) -> list[Json]:
        return [{"server_name": "notes"}, {"server_name": "My-Diary"}]

    def __getattr__(self, name: str) -> Any:
        return name


NODE = WithoutPrivate(cast("NodeOperations", Node()))


def test_private_servers_are_in_no_list_for_other_nodes() -> None:
    assert [entry["name"] for entry in NODE.servers(for_clients=True)] == ["notes", "node-b"]


@pytest.mark.parametrize("name", ["My-Diary", "My Diary", "nothing"])
async def test_a_private_name_is_refused_as_one_that_is_not_known(name: str) -> None:
    said = f"There is no MCP server or peer named '{name}'. Known: node-b, notes."
    with pytest.raises(MeshError) as refused:
        NODE.functions(name)
    assert str(refused.value) == said
    with pytest.raises(MeshError) as refused:
        await NODE.reload(name)
    assert str(refused.value) == said


async def test_all_others_answer_as_they_do_to_clients() -> None:
    assert NODE.functions("of another node") == {"server_name": "of another node"}
    assert await NODE.reload("node-b") == {"server_name": "node-b"}
    assert await NODE.reload_all() == [{"server_name": "notes"}]
    with pytest.raises(MeshError, match="left out"):
        await NODE.reload("notes")
