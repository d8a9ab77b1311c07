"""PURE: the servers of a mesh as entries of the MCP Registry API v0.1, and a page of them.

Called by `agent.registry.routes`. Shapes and limits are those of the registry's OpenAPI document (version 2025-12-01)
and of server.json (2025-12-11): a name is `namespace/name`, the namespace a host in reverse, a description has 1 to 100
characters, a version is no range. The one rule: whatever a server says of itself, an entry is one that strict clients
read; VS Code drops a whole list for its first entry that is none.
"""

import base64
import binascii
import ipaddress
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final
from urllib.parse import quote, urlsplit

import orjson

from agent.harmless_text import one_line
from agent.model import SINGLE_PATH, Json
from agent.routing.about import about_in
from agent.routing.origins import listed_origin
from agent.routing.table import Route, RouteTable

SCHEMA: Final = "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"
OFFICIAL_META_KEY: Final = "io.modelcontextprotocol.registry/official"
MESH_META_KEY: Final = "mesh-agent/server"
LATEST: Final = "latest"
# As the official registry has them.
PAGE_DEFAULT: Final = 30
PAGE_MAX: Final = 100
DESCRIPTION_LEN_MAX: Final = 100
TITLE_LEN_MAX: Final = 100
URL_LEN_MAX: Final = 255
CURSOR_LEN_MAX: Final = 1_024
SEARCH_LEN_MAX: Final = 200
# No public name of a server has a dot.
WHOLE_NAME: Final = "mesh.all"
_NO_VERSION: Final = "0.0.0"
_RANGE: Final = re.compile(r"[\^~<>=*|\s]|(^|\.)[xX](\.|$)")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_URL: Final = re.compile(r"https?://[!-~]+")
_ICON_TYPES: Final = frozenset({"image/png", "image/jpeg", "image/jpg", "image/svg+xml", "image/webp"})
_ICON_SIZE: Final = re.compile(r"\d+x\d+|any")
_THEMES: Final = frozenset({"light", "dark"})
_TOOLS_NAMED_MAX: Final = 3


class PageRefused(ValueError):
    """A limit or cursor that is none."""


def namespace_of(public_url: str | None, service_name: str) -> str:
    """The first part of all names: the host of the mesh's own URL in reverse, else one that no DNS has."""
    host = (urlsplit(public_url).hostname or "") if public_url else ""
    if "." not in host or _is_address(host) or not _HOST.fullmatch(host):
        return f"local.{service_name}"
    return ".".join(reversed(host.split(".")))


def server_entries(
    table: RouteTable,
    *,
    base: str,
    namespace: str,
    headers: Sequence[Json],
    whole: Json,
    since: str,
    hidden: frozenset[str] = frozenset(),
) -> list[Json]:
    """Every listed server of `table` by name, and the mesh as one server.

    `base`: the URL in front of `/mcp`. `headers`: what a client has to send. `whole`: `description` and `version` of
    the mesh. `since`: from when the entries are, RFC 3339. `hidden`: owners of routes that are left out.
    """
    tools = _tools_by_owner(table)
    remote = {"type": "streamable-http", "url": f"{base}/mcp", **({"headers": list(headers)} if headers else {})}
    about = {"title": "The whole mesh", **whole}
    found = [_entry(f"{namespace}/{WHOLE_NAME}", about, remote, since)]
    for route in table.servers.values():
        if route.listed and route.away_since_s is None and route.owner not in hidden:
            url = f"{base}{SINGLE_PATH}{quote(route.public_name)}"
            said = {
                **_described(route, tools[route.owner]),
                "meta": {MESH_META_KEY: {"tools": len(tools[route.owner])}},
            }
            found.append(_entry(f"{namespace}/{route.public_name}", said, {**remote, "url": url}, since))
    return sorted(found, key=lambda entry: str(entry["server"]["name"]))


def page_of(entries: Sequence[Json], query: Mapping[str, str]) -> Json:
    """A `ServerList`. `query`: `cursor`, `limit`, `search` and `version`. Raises `PageRefused`.

    A cursor carries what was searched for: clients send the next one alone. `updated_since` and `include_deleted`
    change nothing, since any entry may have changed and none is deleted.
    """
    asked = {name: query.get(name, "") for name in ("search", "version")}
    after = ""
    if cursor := query.get("cursor", ""):
        after, asked = _read_cursor(cursor)
    limit = _limit(query.get("limit"))
    rest = [entry for entry in entries if entry["server"]["name"] > after and _fits(entry["server"], asked)]
    shown = rest[:limit]
    metadata: Json = {"count": len(shown)}
    if len(rest) > limit:
        metadata["nextCursor"] = _cursor(shown[-1]["server"]["name"], asked)
    return {"servers": shown, "metadata": metadata}


def version_of(entries: Iterable[Json], name: str, version: str) -> Json | None:
    """The entry of that name and version; None where there is none."""
    found = next((entry for entry in entries if entry["server"]["name"] == name), None)
    return found if found is not None and version in (LATEST, found["server"]["version"]) else None


def clean_version(text: str) -> str:
    """A version that a registry takes: none of a range, which it refuses."""
    return _NO_VERSION if not text or text == LATEST or _RANGE.search(text) else text[:URL_LEN_MAX]


def short(text: str, chars_max: int) -> str:
    """On one line, cut where it is too long."""
    return one_line(" ".join(text.split()), chars_max)


def _entry(name: str, about: Json, remote: Json, since: str) -> Json:
    server: Json = {
        "$schema": SCHEMA,
        "name": name,
        "description": short(about["description"], DESCRIPTION_LEN_MAX),
        "version": clean_version(about.get("version", "")),
        "remotes": [remote],
    }
    if title := short(about.get("title", ""), TITLE_LEN_MAX):
        server["title"] = title
    if _URL.fullmatch(website := about.get("websiteUrl", "")):
        server["websiteUrl"] = website
    if icons := list(_icons(about.get("icons", ()))):
        server["icons"] = icons
    meta: Json = {"status": "active", "publishedAt": since, "updatedAt": since, "isLatest": True}
    return {"server": server, "_meta": {OFFICIAL_META_KEY: meta, **about.get("meta", {})}}


def _described(route: Route, tools: Sequence[str]) -> Json:
    """What a server says of itself, with a description in any case."""
    about = about_in(route.definition)
    first_line = next((line for line in about.get("instructions", "").splitlines() if line.strip()), "")
    named = ", ".join(sorted(tools)[:_TOOLS_NAMED_MAX]) + (", ..." if len(tools) > _TOOLS_NAMED_MAX else "")
    count = "1 tool" if len(tools) == 1 else f"{len(tools)} tools"
    made = f"{count} of {route.public_name}: {named}" if tools else f"The server {route.public_name}"
    texts = (about.get("description", ""), first_line, made)
    return {**about, "description": next(text for text in texts if short(text, DESCRIPTION_LEN_MAX))}


def _tools_by_owner(table: RouteTable) -> Mapping[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for route in table.tools.values():
        if route.listed and route.replicas:
            own = listed_origin(route.definition).get("tool")
            found[route.owner].append(own if isinstance(own, str) else route.replicas[0].remote_name)
    return found


def _icons(icons: Iterable[Json]) -> Iterator[Json]:
    """Those that a registry may have: by https, of a known type."""
    for icon in icons:
        src, kind, sizes, theme = (icon.get(name) for name in ("src", "mimeType", "sizes", "theme"))
        if not (isinstance(src, str) and _URL.fullmatch(src) and src.startswith("https:") and len(src) <= URL_LEN_MAX):
            continue
        found: Json = {"src": src}
        if isinstance(kind, str):
            if kind not in _ICON_TYPES:
                continue
            found["mimeType"] = kind
        if isinstance(theme, str) and theme in _THEMES:
            found["theme"] = theme
        if isinstance(sizes, list) and all(isinstance(size, str) and _ICON_SIZE.fullmatch(size) for size in sizes):
            found["sizes"] = sizes
        yield found


def _fits(server: Json, asked: Mapping[str, str]) -> bool:
    wanted = asked["search"].casefold()
    texts = (server["name"], server.get("title", ""), server["description"])
    is_found = not wanted or any(wanted in text.casefold() for text in texts)
    return is_found and asked["version"] in ("", LATEST, server["version"])


def _limit(text: str | None) -> int:
    if text is None:
        return PAGE_DEFAULT
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise PageRefused("limit has to be a whole number from 1 on")
    return min(int(text), PAGE_MAX)


def _cursor(after: str, asked: Mapping[str, str]) -> str:
    known = {name: value[:SEARCH_LEN_MAX] for name, value in asked.items() if value}
    return base64.urlsafe_b64encode(orjson.dumps([after, known])).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[str, dict[str, str]]:
    try:
        told = orjson.loads(base64.b64decode(cursor[:CURSOR_LEN_MAX] + "=" * (-len(cursor) % 4), b"-_", validate=True))
    except (ValueError, binascii.Error):
        told = None
    match told:
        case [str(after), dict(known)] if all(isinstance(value, str) for value in known.values()):
            return after, {name: known.get(name, "") for name in ("search", "version")}
    raise PageRefused("The cursor is none that this registry gave")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
