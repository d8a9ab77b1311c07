"""The server that the conformance suite is pointed at, directly and behind nodes.

`python -m tests.conformance.fixture_server PORT [NAMESPACE]`. Built on the SDK's low-level server, so that what fails
in the direct run is the SDK's own. With a namespace it shows the names that a node would show for a server of that
name: that run proves the renaming proxy. The one rule: it answers as the scenarios ask and has no opinion of its own.
"""

import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from mcp.server.caching import CacheableMethod, CacheHint
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    PromptsListChanged,
    ToolsListChanged,
)
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CompleteRequestParams,
    GetPromptRequestParams,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    RequestParams,
    SetLevelRequestParams,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    UnsubscribeRequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from tests.conformance.fixture_content import (
    PROMPTS,
    RESOURCES,
    TEMPLATES,
    TOOLS,
    Call,
    Json,
    content_of,
    messages_of,
    said,
    tool,
)
from tests.conformance.fixture_rounds import prompt_after_question
from tests.conformance.fixture_tasks import EXTENSION, TaskParams, cancel_task, get_task, update_task
from tests.conformance.names import PublicNames

Context = ServerRequestContext[Any, Any]

HOST = "127.0.0.1"
FRESH = CacheHint(ttl_ms=60_000, scope="private")
CACHED: tuple[CacheableMethod, ...] = (
    "tools/list",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
    "resources/read",
)


class Fixture:
    """The low-level server and what changes in it: whether the tool and the prompt that come and go are there."""

    def __init__(self, names: PublicNames) -> None:
        self._names = names
        self._bus = InMemorySubscriptionBus()
        self._extra_tool = False
        self._extra_prompt = False
        self.server = Server(
            "conformance-fixture",
            version="1",
            cache_hints=dict.fromkeys(CACHED, FRESH),
            get_tool_input_schema=self._schema,
        )
        self.server.extensions[EXTENSION] = {}
        self.server.middleware.append(RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience=None))
        tool("test_trigger_tool_change", "Makes one tool come or go")(self._change_tools)
        tool("test_trigger_prompt_change", "Makes one prompt come or go")(self._change_prompts)
        handlers: list[tuple[str, type[RequestParams], Any]] = [
            ("tools/list", PaginatedRequestParams, self._list_tools),
            ("tools/call", CallToolRequestParams, self._call_tool),
            ("prompts/list", PaginatedRequestParams, self._list_prompts),
            ("prompts/get", GetPromptRequestParams, self._get_prompt),
            ("resources/list", PaginatedRequestParams, self._list_resources),
            ("resources/templates/list", PaginatedRequestParams, self._list_templates),
            ("resources/read", ReadResourceRequestParams, self._read),
            ("resources/subscribe", SubscribeRequestParams, _nothing),
            ("resources/unsubscribe", UnsubscribeRequestParams, _nothing),
            ("logging/setLevel", SetLevelRequestParams, _nothing),
            ("completion/complete", CompleteRequestParams, _complete),
            ("subscriptions/listen", SubscriptionsListenRequestParams, ListenHandler(self._bus)),
            ("tasks/get", TaskParams, get_task),
            ("tasks/update", TaskParams, update_task),
            ("tasks/cancel", TaskParams, cancel_task),
        ]
        for method, params_type, answer in handlers:
            self.server.add_request_handler(method, params_type, _complete_result(answer))

    async def _list_tools(self, _ctx: Context, _params: PaginatedRequestParams) -> Json:
        definitions = [offered.definition for offered in TOOLS.values()]
        if self._extra_tool:
            extra = {"name": "test_comes_and_goes", "description": "Is not always here", "inputSchema": {}}
            definitions.append({**extra, "inputSchema": {"type": "object"}})
        return {"tools": [{**each, "name": self._names.public_name(each["name"])} for each in definitions]}

    async def _call_tool(self, ctx: Context, params: CallToolRequestParams) -> Json:
        offered = TOOLS.get(self._names.own_name(params.name) or "")
        if offered is None:
            raise MCPError(code=INVALID_PARAMS, message=f"Unknown tool: {params.name}")
        result = await offered.answer(_call(ctx, params))
        return (
            {**result, "content": [self._named(block) for block in result["content"]]}
            if "content" in result
            else result
        )

    async def _list_prompts(self, _ctx: Context, _params: PaginatedRequestParams) -> Json:
        extra = [{"name": "test_prompt_comes_and_goes", "description": "Is not always here"}]
        prompts = [*PROMPTS, *(extra if self._extra_prompt else [])]
        return {"prompts": [{**each, "name": self._names.public_name(each["name"])} for each in prompts]}

    async def _get_prompt(self, ctx: Context, params: GetPromptRequestParams) -> Json:
        name = self._names.own_name(params.name) or ""
        if name == "test_input_required_result_prompt":
            return await prompt_after_question(_call(ctx, params))
        messages = messages_of(name, dict(params.arguments or {}))
        return {"messages": [{**message, "content": self._named(message["content"])} for message in messages]}

    def _named(self, block: Json) -> Json:
        """Content that is a resource, under its public URI."""
        if block["type"] != "resource":
            return block
        resource = block["resource"]
        return {**block, "resource": {**resource, "uri": self._names.public_uri(resource["uri"])}}

    async def _list_resources(self, _ctx: Context, _params: PaginatedRequestParams) -> Json:
        return {"resources": [{**each, "uri": self._names.public_uri(each["uri"])} for each in RESOURCES]}

    async def _list_templates(self, _ctx: Context, _params: PaginatedRequestParams) -> Json:
        listed = [{**each, "uriTemplate": self._names.public_uri(each["uriTemplate"])} for each in TEMPLATES]
        return {"resourceTemplates": listed}

    async def _read(self, _ctx: Context, params: ReadResourceRequestParams) -> Json:
        uri = str(params.uri)
        try:
            content = content_of(self._names.own_uri(uri) or "")
        except MCPError as exc:
            raise MCPError(code=exc.code, message=exc.message, data={"uri": uri}) from exc
        return {"contents": [{**content, "uri": uri}]}

    async def _change_tools(self, _: Call) -> Json:
        self._extra_tool = not self._extra_tool
        await self._bus.publish(ToolsListChanged())
        return said("tools changed")

    async def _change_prompts(self, _: Call) -> Json:
        self._extra_prompt = not self._extra_prompt
        await self._bus.publish(PromptsListChanged())
        return said("prompts changed")

    def _schema(self, name: str) -> Json | None:
        offered = TOOLS.get(self._names.own_name(name) or "")
        return offered.definition["inputSchema"] if offered is not None else None


def _complete_result(answer: Callable[[Context, Any], Awaitable[Any]]) -> Callable[[Context, Any], Awaitable[Any]]:
    """Say of a result that it is complete, where it does not say what it is and the client knows the word."""

    async def answered(ctx: Context, params: Any) -> Any:
        result = await answer(ctx, params)
        modern = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
        return {"resultType": "complete", **result} if modern and isinstance(result, dict) else result

    return answered


def _call(ctx: Context, params: CallToolRequestParams | GetPromptRequestParams) -> Call:
    raw = params.model_dump(by_alias=True, mode="json", exclude_none=True)
    return Call(ctx, raw.get("arguments", {}), raw.get("inputResponses", {}), raw.get("requestState"))


async def _nothing(_ctx: Context, _params: RequestParams) -> Json:
    return {}


async def _complete(_ctx: Context, params: CompleteRequestParams) -> Json:
    values = [value for value in ("paris", "park", "party") if value.startswith(params.argument.value)]
    return {"completion": {"values": values, "total": len(values), "hasMore": False}}


def main() -> None:
    """Serve until the process is ended."""
    port, namespace = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    server = Fixture(PublicNames(namespace)).server
    uvicorn.run(server.streamable_http_app(host=HOST), host=HOST, port=port, log_level="error", ws="none")


if __name__ == "__main__":
    main()
