"""`mesh-agent resources ls|read` and `prompts ls|get`, and how any list of a node is read to its end.

Called by `agent.cli.parser`. The one rule: what is binary is written to a file or a pipe as it is, never to a terminal.
"""

import base64
import binascii
import json
import sys
from argparse import Namespace
from typing import Any, Final

from agent.cli.client import node_of
from agent.cli.mcp import Json, Talk, talk_with
from agent.cli.output import CliFailed, Exit, did_you_mean, print_json
from agent.cli.table import print_list
from agent.errors import RpcError
from agent.harmless_text import many_lines, one_line

PAGE_TIMEOUT_S: Final = 60.0  # A node answers with what it knows already.
READ_TIMEOUT_S: Final = 600.0
PAGES_MAX: Final = 1000


async def listed(client: Talk, kind: str, method: str = "") -> list[Json]:
    """Every page of a list: of tools, prompts, resources or resourceTemplates."""
    entries: list[Json] = []
    seen: set[str] = set()
    params: Json = {}
    while len(seen) < PAGES_MAX:
        page = await client.request(method or f"{kind}/list", params, PAGE_TIMEOUT_S)
        found, cursor = page.get(kind), page.get("nextCursor")
        entries += [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
        if not isinstance(cursor, str) or cursor in seen:
            return entries
        seen.add(cursor)
        params = {"cursor": cursor}
    raise CliFailed(Exit.TOOL, f"the node's list of {kind} has more than {PAGES_MAX} pages")


def list_resources(args: Namespace) -> int:
    """Print the resources and the templates of URIs."""

    async def both(client: Talk) -> tuple[list[Json], list[Json]]:
        templates = await listed(client, "resourceTemplates", "resources/templates/list")
        return await listed(client, "resources"), templates

    resources, templates = talk_with(node_of(args), both)
    if args.json:
        print_json(resources=resources, templates=templates)
        return Exit.OK
    rows = [[one.get("uri"), one.get("name"), one.get("mimeType"), one.get("description")] for one in resources]
    rows += [
        [one.get("uriTemplate"), one.get("name"), one.get("mimeType"), one.get("description")] for one in templates
    ]
    print_list(args.output, ["URI", "NAME", "TYPE", "DESCRIPTION"], rows, empty="no resources")
    return Exit.OK


def read_resource(args: Namespace) -> int:
    """Print a resource, binary parts too where stdout is no terminal. Raises `CliFailed`."""

    async def read(client: Talk) -> Json:
        try:
            return await client.request("resources/read", {"uri": args.uri}, READ_TIMEOUT_S)
        except RpcError as exc:
            raise await _unknown(client, exc, "resource", args.uri) from exc

    result = talk_with(node_of(args), read)
    if args.json:
        print_json(result=result)
        return Exit.OK
    contents = result.get("contents")
    for part in contents if isinstance(contents, list) else ():
        _write_part(part if isinstance(part, dict) else {})
    return Exit.OK


def list_prompts(args: Namespace) -> int:
    """Print the prompts."""

    async def prompts_of(client: Talk) -> list[Json]:
        return await listed(client, "prompts")

    prompts = talk_with(node_of(args), prompts_of)
    if args.json:
        print_json(prompts=prompts)
        return Exit.OK
    rows = [[one.get("name"), _arguments(one), one.get("description")] for one in prompts]
    print_list(args.output, ["NAME", "ARGUMENTS", "DESCRIPTION"], rows, empty="no prompts")
    return Exit.OK


def get_prompt(args: Namespace) -> int:
    """Print the messages that a prompt makes of its arguments. Raises `CliFailed`."""
    arguments = dict(_pair(pair) for pair in args.pairs)

    async def get(client: Talk) -> Json:
        try:
            return await client.request("prompts/get", {"name": args.name, "arguments": arguments}, READ_TIMEOUT_S)
        except RpcError as exc:
            raise await _unknown(client, exc, "prompt", args.name) from exc

    result = talk_with(node_of(args), get)
    if args.json:
        print_json(result=result)
        return Exit.OK
    messages = result.get("messages")
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        text = content.get("text") if isinstance(content, dict) else None
        shown = many_lines(text, len(text)) if isinstance(text, str) else f"[{one_line(json.dumps(content), 200)}]"
        print(f"{one_line(str(message.get('role')))}: {shown}" if isinstance(message, dict) else "-")
    return Exit.OK


async def _unknown(client: Talk, exc: RpcError, kind: str, name: str) -> CliFailed | RpcError:
    """The failure with the nearest names, where the node knows no such thing; otherwise the failure itself."""
    if not exc.message.startswith(f"Unknown {kind}"):
        return exc
    key = "uri" if kind == "resource" else "name"
    known = [one.get(key) for one in await listed(client, f"{kind}s")]
    return CliFailed(Exit.TOOL, exc.message + did_you_mean(name, known), error=f"unknown_{kind}")


def _write_part(part: Json) -> None:
    text, blob = part.get("text"), part.get("blob")
    if isinstance(text, str):
        print(many_lines(text, len(text)))
    elif isinstance(blob, str) and not sys.stdout.isatty():
        try:
            content = base64.b64decode(blob, validate=True)
        except binascii.Error as exc:
            raise CliFailed(Exit.TOOL, f"a part of the resource is not base64: {exc}") from exc
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
    else:
        size = len(blob) * 3 // 4 if isinstance(blob, str) else 0
        print(f"[{one_line(str(part.get('mimeType')))}, about {size} bytes; write it to a file with > FILE]")


def _arguments(prompt: Json) -> str:
    named = prompt.get("arguments")
    entries = [one for one in named if isinstance(one, dict)] if isinstance(named, list) else []
    return ", ".join(f"{one.get('name')}{'' if one.get('required') is True else '?'}" for one in entries)


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise CliFailed(Exit.USAGE, f"{text!r} is not key=value")
    return key, value
