"""Lists everything with Python's MCP SDK 2: one JSON object, see strict.py."""

import asyncio
import json
import sys

import httpx2
from driver import headers, told
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

LISTS = {
    "tools": ("list_tools", "tools", "name"),
    "resources": ("list_resources", "resources", "uri"),
    "resource_templates": ("list_resource_templates", "resource_templates", "uri_template"),
    "prompts": ("list_prompts", "prompts", "name"),
}


async def main(url: str, token: str = "") -> None:
    answers = {}
    async with (
        httpx2.AsyncClient(headers=headers(token), timeout=30) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        for name, (method, key, identity) in LISTS.items():
            try:
                answers[name] = {"ok": True, "names": await listed(getattr(client, method), key, identity)}
            except Exception as exc:  # noqa: BLE001 - a refusal of any kind is the verdict
                answers[name] = {"ok": False, "error": told(exc)}
    print(json.dumps(answers))


async def listed(method: object, key: str, identity: str) -> list[str]:
    names, cursor = [], None
    while True:
        page = await method(cursor=cursor)
        names += [str(getattr(entry, identity)) for entry in getattr(page, key)]
        cursor = page.next_cursor
        if not cursor:
            return names


asyncio.run(main(*sys.argv[1:]))
