"""The REST API against its own description: every route is described, and schemathesis finds no answer beside it."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.rest.openapi import EVENT_STREAM, OPENAPI_PATH, OPERATIONS, OpenApi, document_of
from tests.attacks.clients import Holder, entry, token_of, write_tokens
from tests.e2e.running import RunningNode, nodes_below, start_node
from tests.e2e.servers_files import example
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

CHECKS = (
    "content_type_conformance",
    "negative_data_rejection",
    "response_schema_conformance",
    "status_code_conformance",
)
MODES = ("positive", "negative")
TOKENS = {
    "all": entry("all", "admin", "read", "metrics"),
    "reader": entry("reader", "read"),
    "client": entry("client", "mcp"),
}
# Without an issuer there are no metadata; a stream does not end; where nothing is sent, nothing can be wrong about it.
CASES = [
    pytest.param(method, path, mode, id=f"{method} {path} {mode}")
    for (method, path), operation in OPERATIONS.items()
    for mode in MODES
    if not path.startswith("/.well-known/") and EVENT_STREAM not in dict(operation.plain.values())
    if mode == "positive" or operation.body or operation.query
]


@dataclass
class Scene:
    """A node, and the document that it serves."""

    node: RunningNode
    document: dict[str, Any]

    def operation(self, method: str, path: str) -> Any:
        return schema_of(self.document)[path][method]


def schema_of(document: dict[str, Any]) -> Any:
    """Imported by the one worker that needs it: every worker reads this file, and it takes half a second."""
    import schemathesis  # noqa: PLC0415 - see above

    return schemathesis.openapi.from_dict(document)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("openapi")
    # Whatever URL an example has, nothing beyond this machine is looked up or dialled.
    limits = {"MESH_DIAL_ALLOW": "127.0.0.1", "MESH_DISCOVERY": "off", "MESH_PINNING": "block"}
    tokens = str(write_tokens(folder / "tokens.json", TOKENS))

    async def start() -> Scene:
        servers = {"notes": example("notes", "service")}
        node = await start_node("node", folder, servers=servers, MESH_TOKENS_FILE=tokens, **limits)
        holder = Holder(node.base, token_of("reader"))

        async def is_pinned() -> bool:
            return bool((await holder.ask("GET", "/api/v1/mcp/pins")).body["data"]["pins"])

        await eventually(is_pinned)
        answer = await holder.ask("GET", OPENAPI_PATH)
        assert answer.status == 200, answer
        return Scene(node, answer.body)

    with nodes_below(folder):
        yield asyncio.run(start())


def test_the_document_describes_all_routes_of_the_running_node_and_no_other(scene: Scene) -> None:
    described = {(method.upper(), path) for path, methods in scene.document["paths"].items() for method in methods}
    assert described == set(OPERATIONS)
    assert scene.document["openapi"] == "3.1.0"
    schema_of(scene.document).validate()


def test_a_route_that_nothing_describes_is_a_fault() -> None:
    app = web.Application()

    async def handler(_request: web.Request) -> web.Response:
        return web.Response()

    app.add_routes([*OpenApi(app).routes(), web.get("/api/v1/mcp/new", handler)])
    with pytest.raises(KeyError, match="/api/v1/mcp/new"):
        document_of(app)


async def test_the_document_is_for_those_who_may_read_and_names_the_scopes(scene: Scene) -> None:
    assert (await Holder(scene.node.base, token_of("client")).ask("GET", OPENAPI_PATH)).status == 403
    assert (await Holder(scene.node.base, None).ask("GET", OPENAPI_PATH)).status == 401
    paths = scene.document["paths"]
    assert paths["/api/v1/mcp/peers"]["post"]["security"] == [{"token": ["admin"]}, {}]
    assert paths["/metrics"]["get"]["security"] == [*({"token": [one]} for one in ("admin", "metrics", "read")), {}]


@pytest.mark.parametrize(("method", "path", "mode"), CASES)
def test_no_request_gets_an_answer_that_is_not_described(method: str, path: str, mode: str, scene: Scene) -> None:
    operation = scene.operation(method, path)
    from schemathesis import GenerationMode  # noqa: PLC0415 - as above
    from schemathesis.checks import not_a_server_error  # noqa: PLC0415 - as above
    from schemathesis.specs.openapi import checks as described  # noqa: PLC0415 - as above

    checks = [not_a_server_error, *(getattr(described, name) for name in CHECKS)]
    headers = {"Authorization": f"Bearer {token_of('all')}"}

    @settings(max_examples=12, suppress_health_check=list(HealthCheck), database=None)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy(generation_mode=GenerationMode(mode)))
        response = case.call(base_url=scene.node.base, headers=headers, timeout=20)
        case.validate_response(response, checks=checks)

    run()
