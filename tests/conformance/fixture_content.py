"""What the conformance fixture offers that needs no conversation: plain tools, resources, prompts and their contents.

Served by `fixture_server.py`. The suite fixes every name and most values in here; it looks for them by name. The one
rule: nothing in here asks the client for anything; tools that do are in `fixture_rounds.py`.
"""

import asyncio
import base64
import struct
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS

Json = dict[str, Any]

# The suite wants to see that messages arrive while a call runs, not all at its end.
STEP_S = 0.05


@dataclass(frozen=True)
class Call:
    """One tools/call or prompts/get: the request, and in which round of questions."""

    ctx: ServerRequestContext[Any, Any]
    arguments: Json
    answers: Json = field(default_factory=dict)
    state: str | None = None

    @property
    def capabilities(self) -> Json:
        """What the client declared for this request."""
        declared = self.ctx.session.client_capabilities
        return declared.model_dump(by_alias=True, exclude_none=True) if declared is not None else {}


Answer = Callable[[Call], Awaitable[Json]]


@dataclass(frozen=True)
class Tool:
    """A definition as it is listed, and what answers a call."""

    definition: Json
    answer: Answer


TOOLS: dict[str, Tool] = {}


def tool(name: str, description: str, schema: Json | None = None) -> Callable[[Answer], Answer]:
    """Offer the decorated function as a tool."""

    def offer(answer: Answer) -> Answer:
        definition = {"name": name, "description": description, "inputSchema": schema or {"type": "object"}}
        TOOLS[name] = Tool(definition, answer)
        return answer

    return offer


def text(value: str) -> Json:
    """Text content."""
    return {"type": "text", "text": value}


def said(value: str) -> Json:
    """A tool's result that is one text."""
    return {"content": [text(value)]}


def red_dot() -> str:
    """A picture of one pixel, base64."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixel = zlib.compress(b"\0\xff\0\0")
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")
    return base64.b64encode(png).decode()


def silence() -> str:
    """A sound of eight samples, base64."""
    samples = b"\x80" * 8
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 8000, 1, 8)
    body = b"WAVE" + form + struct.pack("<4sI", b"data", len(samples)) + samples
    return base64.b64encode(b"RIFF" + struct.pack("<I", len(body)) + body).decode()


IMAGE: Json = {"type": "image", "data": red_dot(), "mimeType": "image/png"}
AUDIO: Json = {"type": "audio", "data": silence(), "mimeType": "audio/wav"}


def embedded(uri: str, mime_type: str, value: str) -> Json:
    """Content that is a resource."""
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime_type, "text": value}}


# The first tool of the list is the one that the suite calls without arguments to look at headers.
@tool("test_simple_text", "Answers with a text")
async def _simple_text(_: Call) -> Json:
    return said("This is a simple text response for testing.")


@tool("test_image_content", "Answers with a picture")
async def _image(_: Call) -> Json:
    return {"content": [IMAGE]}


@tool("test_audio_content", "Answers with a sound")
async def _audio(_: Call) -> Json:
    return {"content": [AUDIO]}


@tool("test_embedded_resource", "Answers with a resource")
async def _embedded(_: Call) -> Json:
    return {"content": [embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")]}


@tool("test_multiple_content_types", "Answers with a text, a picture and a resource")
async def _mixed(_: Call) -> Json:
    resource = embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}')
    return {"content": [text("Multiple content types test:"), IMAGE, resource]}


@tool("test_error_handling", "Always fails")
async def _error(_: Call) -> Json:
    return {**said("This tool intentionally returns an error for testing"), "isError": True}


@tool("test_tool_with_progress", "Reports 0, 50 and 100 of 100")
async def _progress(call: Call) -> Json:
    for done in (0, 50, 100):
        await call.ctx.session.report_progress(done, 100)
        await asyncio.sleep(STEP_S)
    return said("done")


@tool("test_tool_with_logging", "Logs three messages at level info")
async def _logging(call: Call) -> Json:
    for message in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await call.ctx.session.send_log_message("info", message, related_request_id=call.ctx.request_id)
        await asyncio.sleep(STEP_S)
    return said("logged")


@tool("test_logging_tool", "Logs one message, which only those may see who asked for a level")
async def _one_log(call: Call) -> Json:
    await call.ctx.session.send_log_message("info", "Tool was called", related_request_id=call.ctx.request_id)
    return said("logged")


@tool("test_reconnection", "Answers at once; this server has no store of events to resume a stream from")
async def _reconnection(_: Call) -> Json:
    return said("no interruption")


@tool(
    "test_x_mcp_header",
    "Echoes an argument that travels in a header too",
    {
        "type": "object",
        "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
        "required": ["region"],
    },
)
async def _header(call: Call) -> Json:
    return said(f"region {call.arguments.get('region')}")


@tool(
    "json_schema_2020_12_tool",
    "Has a schema of many keywords, which must arrive as they are",
    {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            }
        },
        "properties": {
            "name": {"type": "string"},
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"},
            "email": {"type": "string"},
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": False,
    },
)
async def _schema(call: Call) -> Json:
    return said(", ".join(sorted(call.arguments)))


RESOURCES: list[Json] = [
    {"uri": "test://static-text", "name": "text", "description": "A text", "mimeType": "text/plain"},
    {"uri": "test://static-binary", "name": "binary", "description": "A picture", "mimeType": "image/png"},
    {"uri": "test://watched-resource", "name": "watched", "description": "To subscribe to", "mimeType": "text/plain"},
]
TEMPLATES: list[Json] = [
    {
        "uriTemplate": "test://template/{id}/data",
        "name": "data",
        "description": "Data by number",
        "mimeType": "application/json",
    }
]


def content_of(uri: str) -> Json:
    """What is at `uri`. Raises MCPError for what is nowhere."""
    match uri:
        case "test://static-text":
            value = "This is the content of the static text resource."
            return {"uri": uri, "mimeType": "text/plain", "text": value}
        case "test://static-binary":
            return {"uri": uri, "mimeType": "image/png", "blob": red_dot()}
        case "test://watched-resource":
            return {"uri": uri, "mimeType": "text/plain", "text": "Nothing has happened."}
    number = uri.removeprefix("test://template/").removesuffix("/data")
    if uri == f"test://template/{number}/data" and number and "/" not in number:
        value = f'{{"id":"{number}","templateTest":true,"data":"Data for ID: {number}"}}'
        return {"uri": uri, "mimeType": "application/json", "text": value}
    raise MCPError(code=INVALID_PARAMS, message="Resource not found", data={"uri": uri})


PROMPTS: list[Json] = [
    {"name": "test_simple_prompt", "description": "A text"},
    {
        "name": "test_prompt_with_arguments",
        "description": "A text of two arguments",
        "arguments": [{"name": name, "description": "A word", "required": True} for name in ("arg1", "arg2")],
    },
    {
        "name": "test_prompt_with_embedded_resource",
        "description": "A resource and a text",
        "arguments": [{"name": "resourceUri", "description": "Which resource", "required": True}],
    },
    {"name": "test_prompt_with_image", "description": "A picture and a text"},
    {"name": "test_input_required_result_prompt", "description": "A text, after a question"},
]


def messages_of(name: str, arguments: Json) -> list[Json]:
    """The messages of a prompt that asks nothing. Raises MCPError for unknown names."""
    match name:
        case "test_simple_prompt":
            contents = [text("This is a simple prompt for testing.")]
        case "test_prompt_with_arguments":
            first, second = arguments.get("arg1"), arguments.get("arg2")
            contents = [text(f"Prompt with arguments: arg1='{first}', arg2='{second}'")]
        case "test_prompt_with_embedded_resource":
            resource = embedded(
                str(arguments.get("resourceUri")), "text/plain", "Embedded resource content for testing."
            )
            contents = [resource, text("Please process the embedded resource above.")]
        case "test_prompt_with_image":
            contents = [IMAGE, text("Please analyze the image above.")]
        case _:
            raise MCPError(code=INVALID_PARAMS, message=f"Unknown prompt: {name}")
    return [{"role": "user", "content": content} for content in contents]
