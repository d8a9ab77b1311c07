"""What the MCP Registry API (OpenAPI 2025-12-01), server.json and server cards demand, as far as a mesh uses it.

Written from the published documents, whose texts are not here; closed where those leave room, so that a mesh says
nothing that a strict client does not know. Used by the tests of the registry. The one rule: a limit here is a published
one.
"""

from typing import Any, Final

Schema = dict[str, Any]
_NAME: Final[Schema] = {
    "type": "string",
    "pattern": "^[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+$",
    "minLength": 3,
    "maxLength": 200,
}
_SHORT: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": 100}
_URL: Final[Schema] = {"type": "string", "pattern": r"^https?://[^\s]+$"}
# A version must be no range and, of a package, not `latest`; a registry refuses both here, too.
_VERSION: Final[Schema] = {
    "type": "string",
    "minLength": 1,
    "maxLength": 255,
    "not": {"anyOf": [{"const": "latest"}, {"pattern": r"^[\^~<>=]|\*|\s|(^|\.)[xX](\.|$)"}]},
}
_ICON: Final[Schema] = {
    "type": "object",
    "required": ["src"],
    "additionalProperties": False,
    "properties": {
        "src": {"type": "string", "pattern": "^https://", "maxLength": 255},
        "mimeType": {"enum": ["image/png", "image/jpeg", "image/jpg", "image/svg+xml", "image/webp"]},
        "sizes": {"type": "array", "items": {"type": "string", "pattern": r"^(\d+x\d+|any)$"}},
        "theme": {"enum": ["light", "dark"]},
    },
}
_INPUT: Final[Schema] = {
    "description": {"type": "string"},
    "isRequired": {"type": "boolean"},
    "isSecret": {"type": "boolean"},
    "format": {"enum": ["string", "number", "boolean", "filepath"]},
    "value": {"type": "string"},
}
_HEADER: Final[Schema] = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string"},
        **_INPUT,
        "variables": {
            "type": "object",
            "additionalProperties": {"type": "object", "additionalProperties": False, "properties": _INPUT},
        },
    },
}


def _remote(**more: Schema) -> Schema:
    return {
        "type": "object",
        "required": ["type", "url"],
        "additionalProperties": False,
        "properties": {
            "type": {"const": "streamable-http"},
            "url": _URL,
            "headers": {"type": "array", "items": _HEADER},
            **more,
        },
    }


_SERVER: Final[Schema] = {
    "type": "object",
    "required": ["$schema", "name", "description", "version", "remotes"],
    "additionalProperties": False,
    "properties": {
        "$schema": {"const": "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"},
        "name": _NAME,
        "description": _SHORT,
        "title": _SHORT,
        "version": _VERSION,
        "websiteUrl": _URL,
        "icons": {"type": "array", "items": _ICON},
        "remotes": {"type": "array", "minItems": 1, "items": _remote()},
    },
}
_TIME: Final[Schema] = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"}
SERVER_RESPONSE: Final[Schema] = {
    "type": "object",
    "required": ["server", "_meta"],
    "additionalProperties": False,
    "properties": {
        "server": _SERVER,
        "_meta": {
            "type": "object",
            "required": ["io.modelcontextprotocol.registry/official"],
            "properties": {
                "io.modelcontextprotocol.registry/official": {
                    "type": "object",
                    "required": ["status", "isLatest", "publishedAt"],
                    "additionalProperties": False,
                    "properties": {
                        "status": {"enum": ["active", "deprecated", "deleted"]},
                        "isLatest": {"type": "boolean"},
                        "publishedAt": _TIME,
                        "updatedAt": _TIME,
                    },
                }
            },
        },
    },
}
SERVER_LIST: Final[Schema] = {
    "type": "object",
    "required": ["servers", "metadata"],
    "additionalProperties": False,
    "properties": {
        "servers": {"type": "array", "items": SERVER_RESPONSE},
        "metadata": {
            "type": "object",
            "required": ["count"],
            "additionalProperties": False,
            "properties": {"count": {"type": "integer"}, "nextCursor": {"type": "string", "minLength": 1}},
        },
    },
}
# experimental-ext-server-card, as of July 2026.
SERVER_CARD: Final[Schema] = {
    "type": "object",
    "required": ["$schema", "name", "description", "version"],
    "additionalProperties": False,
    "properties": {
        "$schema": {
            "pattern": r"^https://static\.modelcontextprotocol\.io/schemas/v1/server-card\.schema\.json$",
            "type": "string",
        },
        "name": _NAME,
        "description": _SHORT,
        "title": _SHORT,
        "version": _VERSION,
        "remotes": {
            "type": "array",
            "items": _remote(supportedProtocolVersions={"type": "array", "items": {"type": "string"}}),
        },
        "_meta": {"type": "object"},
    },
}
