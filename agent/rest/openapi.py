"""The REST API as an OpenAPI 3.1 document, made of the routes that the node really has: `/api/openapi.json`.

Registered by the wiring. What each operation takes and answers is written here once, and which scopes open it follows
from `agent.authority.routes`. The one rule: a route that is not described here is a fault (tests/attacks), and so is a
description without a route.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from agent import __version__
from agent.authority.routes import wanted_scopes
from agent.model import PEER_PATH, Json, PeerScope
from agent.peer_kind import PeerKind
from agent.rest.envelope import json_response
from agent.rest.security import OPEN_PATHS

OPENAPI_PATH: Final = "/api/openapi.json"
# Spoken in other protocols: MCP, and what nodes say to each other.
_OTHER_PROTOCOLS: Final = ("/mcp",)
# Files of the node's page, for browsers.
_PAGE: Final = frozenset({"/", "/ui", "/ui/", "/ui/{name}"})
EVENT_STREAM: Final = "text/event-stream"
_TEXT: Final[Json] = {"type": "string"}
_OBJECTS: Final[Json] = {"type": "array", "items": {"type": "object"}}
_TEXTS: Final[Json] = {"type": "array", "items": _TEXT}
# As `agent.routing.names` has it.
_NAME: Final[Json] = {"type": "string", "pattern": "^(?!.*__)[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"}


@dataclass(frozen=True, slots=True)
class Operation:
    """What a route does. `answers`: by status, the schema of `data` in the envelope; `plain`: answers without one.

    `query` and `path`: schemas of parameters. `body`: the schema of the JSON object that it takes.
    """

    summary: str
    answers: Mapping[int, Json] = field(default_factory=dict)
    plain: Mapping[int, tuple[str, Json]] = field(default_factory=dict)
    query: Mapping[str, Json] = field(default_factory=dict)
    path: Mapping[str, Json] = field(default_factory=dict)
    body: Json | None = None


def _object(**properties: Json) -> Json:
    """Fields are added, none is dropped, so other ones may be there."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def _closed(required: tuple[str, ...], **properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _optional(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


_STATE: Final = _object(status=_TEXT)
_ADDED: Final = _object(
    success={"const": True}, peer_name=_TEXT, peer_url=_TEXT, connected={"type": "boolean"}, message=_TEXT
)
# Shapes of the registry's own API, which has no envelope.
_SERVER: Final = _object(server=_object(name=_TEXT, description=_TEXT, version=_TEXT, remotes=_OBJECTS))
_SERVERS: Final = (
    "application/json",
    _object(servers={"type": "array", "items": _SERVER}, metadata=_object(count={"type": "integer"})),
)
_REFUSED: Final = "application/json", _object(error=_TEXT)
# The second of a path that is none.
_UNKNOWN: Final = "application/json", {"anyOf": [_object(error=_TEXT), {"$ref": "#/components/schemas/Error"}]}
_METADATA_OF_RESOURCE: Final = _object(resource=_TEXT, authorization_servers=_TEXTS)

OPERATIONS: Final[Mapping[tuple[str, str], Operation]] = {
    ("GET", "/healthz"): Operation(
        "Whether the process lives, and whether its servers file is refused.", plain={200: ("application/json", _STATE)}
    ),
    ("GET", "/readyz"): Operation(
        "Whether the node serves; 503 while it starts or drains.",
        plain={200: ("application/json", _STATE), 503: ("application/json", _STATE)},
    ),
    ("GET", "/metrics"): Operation("Metrics for Prometheus (docs/metrics.md).", plain={200: ("text/plain", _TEXT)}),
    ("GET", OPENAPI_PATH): Operation(
        "This document.", plain={200: ("application/json", _object(openapi=_TEXT, paths={"type": "object"}))}
    ),
    ("GET", "/api/v1/mcp/peers"): Operation(
        "Every peer with its state, source, last error, next attempt and latency.",
        answers={200: _object(peers=_OBJECTS, suppressed=_TEXTS)},
    ),
    ("POST", "/api/v1/mcp/peers"): Operation(
        "Add or change a peer: 201 connected, 200 changed, 202 saved and not connected yet; 409 for a "
        "name that is taken, this node itself, an ID that is known at another URL and not proven at this one, and "
        "what is to be a node of this mesh by `kind` and does not prove it.",
        answers={200: _ADDED, 201: _ADDED, 202: _ADDED},
        body=_closed(
            ("peer_name", "peer_url"),
            peer_name=_NAME,
            peer_url={"type": "string", "minLength": 1, "maxLength": 2048},
            auth_token=_optional({"type": "string", "maxLength": 4096, "pattern": "^[!-~]*$"}),
            scope={"enum": [scope.value for scope in PeerScope]},
            kind=_optional({"enum": [kind.value for kind in PeerKind]}),
        ),
    ),
    ("DELETE", "/api/v1/mcp/peers/{peer_name}"): Operation(
        "Remove a peer, or undo what operators ordered about it.",
        answers={200: _object(success={"const": True}, peer_name=_TEXT, message=_TEXT, suppressed=_TEXTS)},
        path={"peer_name": _NAME},
        query={"forget": {"enum": ["0", "1"]}},
    ),
    ("GET", "/api/v1/mcp/servers"): Operation(
        "Every server and peer with its functions.", answers={200: _object(servers=_OBJECTS)}
    ),
    ("POST", "/api/v1/mcp/servers/{name}/login"): Operation(
        "Begin a login at a server that wants OAuth; the answer has the URL for a browser.",
        answers={200: _object(authorization_url=_TEXT, redirect_uri=_TEXT)},
        path={"name": _NAME},
        body=_object(redirect_uri={**_TEXT, "minLength": 1}),
    ),
    ("POST", "/api/v1/mcp/servers/{name}/login/finish"): Operation(
        "Finish it with the URL that the browser was led to.",
        answers={200: _object(server=_TEXT, connected={"type": "boolean"})},
        path={"name": _NAME},
        body=_object(redirected_to={**_TEXT, "minLength": 1}),
    ),
    ("DELETE", "/api/v1/mcp/servers/{name}/login"): Operation(
        "Forget the tokens of a server.", answers={200: _object(server=_TEXT)}, path={"name": _NAME}
    ),
    ("GET", "/api/v1/mcp/status"): Operation(
        "The node, its peers, conflicts and findings, as `mesh-agent status` shows them.",
        answers={
            200: _object(
                self={"type": "object"},
                **dict.fromkeys(("peers", "departed", "conflicts", "left_out", "findings"), _OBJECTS),
            )
        },
    ),
    ("GET", "/api/v1/mcp/pins"): Operation(
        "Pinned definitions, those that have changed with the difference, and suspicious ones.",
        answers={200: _object(mode=_TEXT, pins=_OBJECTS, changed=_OBJECTS, suspected=_OBJECTS)},
        query={"server": _TEXT, "name": _TEXT},
    ),
    ("POST", "/api/v1/mcp/pins/approve"): Operation(
        "Pin what a server lists now in the place of what was pinned.",
        answers={200: _object(approved=_OBJECTS)},
        body=_closed(("server",), server={**_TEXT, "minLength": 1}, name=_optional({**_TEXT, "minLength": 1})),
    ),
    ("GET", "/api/v1/mcp/audit"): Operation(
        "The newest records of the audit, oldest first; at most 500.",
        answers={200: _object(records=_OBJECTS)},
        query={"count": {"type": "integer", "minimum": 1, "maximum": 500}},
    ),
    ("GET", "/api/v1/mcp/events"): Operation(
        "What changes, as server-sent events of one JSON object each, for as long as the connection stays.",
        plain={200: (EVENT_STREAM, _TEXT), 503: ("application/json", {"$ref": "#/components/schemas/Error"})},
    ),
    ("GET", "/api/v1/mcp/ping"): Operation(
        "How long the way to a peer, server or tool takes, by each replica.",
        answers={200: _object(name=_TEXT, kind=_TEXT, ways=_OBJECTS)},
        query={"name": {**_TEXT, "minLength": 1}},
    ),
    ("GET", "/api/v1/mcp/logs"): Operation(
        "The newest lines of the log as server-sent events, with `follow` those that come, too.",
        plain={200: (EVENT_STREAM, _TEXT), 503: ("application/json", {"$ref": "#/components/schemas/Error"})},
        query={"level": {"enum": ["debug", "info", "warning", "error"]}, "follow": {"enum": ["0", "1"]}},
    ),
    ("GET", "/api/v1/mcp/debug"): Operation(
        "What the process does: threads, and where each task waits.",
        answers={
            200: _object(
                version=_TEXT,
                python=_TEXT,
                threads=_OBJECTS,
                task_count={"type": "integer"},
                tasks=_OBJECTS,
                settings=_OBJECTS,
            )
        },
    ),
    ("POST", "/ui/login"): Operation("Have a browser's token kept in a cookie.", answers={200: _object()}),
    ("POST", "/ui/logout"): Operation("Forget that token.", answers={200: _object()}),
    ("GET", "/v0.1/servers"): Operation(
        "The servers of the mesh, as the MCP Registry API v0.1 lists them.",
        plain={200: _SERVERS, 400: _REFUSED},
        query=dict.fromkeys(("cursor", "search", "version", "updated_since", "include_deleted"), _TEXT)
        | {"limit": {"type": "integer", "minimum": 1}},
    ),
    ("GET", "/v0.1/servers/{name}/versions"): Operation(
        "The same of one server, which has one version: the one that runs.",
        plain={200: _SERVERS, 404: _UNKNOWN},
        path={"name": _TEXT},
    ),
    ("GET", "/v0.1/servers/{name}/versions/{version}"): Operation(
        "One server; `latest` is a version, too.",
        plain={200: ("application/json", _SERVER), 404: _UNKNOWN},
        path={"name": _TEXT, "version": _TEXT},
    ),
    ("GET", "/.well-known/mcp/server-card.json"): Operation(
        "The card of this mesh (SEP-2127); also at /mcp/server-card.",
        plain={200: ("application/mcp-server-card+json", _object(name=_TEXT, version=_TEXT, remotes=_OBJECTS))},
    ),
    ("GET", "/.well-known/ai-catalog.json"): Operation(
        "The cards of this mesh and of its servers.",
        plain={200: ("application/ai-catalog+json", _object(specVersion=_TEXT, entries=_OBJECTS))},
    ),
    ("GET", "/llms.txt"): Operation("What an agent has to know of this node.", plain={200: ("text/plain", _TEXT)}),
    ("GET", "/.well-known/oauth-protected-resource"): Operation(
        "Where clients get tokens, if there is an issuer (RFC 9728).",
        plain={200: ("application/json", _METADATA_OF_RESOURCE)},
    ),
    ("GET", "/.well-known/oauth-protected-resource/{path}"): Operation(
        "The same, for one path.",
        plain={200: ("application/json", _METADATA_OF_RESOURCE)},
        path={"path": _TEXT},
    ),
}


class OpenApi:
    """Serves the document. `app`: the application, whose routes it describes."""

    def __init__(self, app: web.Application) -> None:
        self._app = app
        self._document: Json | None = None

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""
        return [web.get(OPENAPI_PATH, self.show)]

    async def show(self, _request: web.Request) -> web.Response:
        """GET /api/openapi.json."""
        if self._document is None:
            self._document = document_of(self._app)
        return json_response(self._document)


def routes_of(app: web.Application) -> Iterator[tuple[str, str]]:
    """Method and path of each route that speaks HTTP for itself; HEAD comes with GET."""
    for route in app.router.routes():
        path = route.resource.canonical if route.resource is not None else ""
        if route.method not in ("HEAD", "*") and path not in _PAGE and not path.startswith(_OTHER_PROTOCOLS):
            yield route.method, path


def document_of(app: web.Application) -> Json:
    """The document. Raises `KeyError` for a route that is not described."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "MCP Mesh Agent",
            "version": __version__,
            "description": "One node. MCP itself is spoken at /mcp and below; nodes talk to each other at " + PEER_PATH,
        },
        "paths": paths_of(sorted(routes_of(app))),
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": _ERROR},
        },
    }


def paths_of(routes: Iterable[tuple[str, str]]) -> dict[str, Json]:
    """The `paths` of the document for these routes. Raises `KeyError` for a route that is not described."""
    paths: dict[str, Json] = {}
    for method, path in routes:
        paths.setdefault(path, {})[method.lower()] = _described(method, path, OPERATIONS[method, path])
    return paths


_ERROR: Final = _object(
    success={"const": False}, message=_TEXT, error=_object(code=_TEXT, detail={"description": "by `code`"})
)


def _described(method: str, path: str, operation: Operation) -> Json:
    answers = {
        str(status): _answer("application/json", _object(success={"const": True}, message=_TEXT, data=data))
        for status, data in operation.answers.items()
    }
    answers |= {str(status): _answer(*plain) for status, plain in operation.plain.items()}
    error = _answer("application/json", {"$ref": "#/components/schemas/Error"})
    answers |= {"4XX": error, "507": error} if operation.body is not None else {"4XX": error}
    needs_token = path not in OPEN_PATHS and not path.startswith("/.well-known/oauth-")
    found: Json = {
        "operationId": f"{method.lower()}_{path.strip('/.').replace('/', '_').replace('-', '_').translate(_NO_BRACES)}",
        "summary": operation.summary,
        "responses": answers,
        # Any of the scopes is enough; none where the node has no tokens.
        "security": [*({"token": [scope]} for scope in sorted(wanted_scopes(method, path)) if needs_token), {}],
    }
    parameters = [
        *({"name": name, "in": "path", "required": True, "schema": schema} for name, schema in operation.path.items()),
        *({"name": name, "in": "query", "schema": schema} for name, schema in operation.query.items()),
    ]
    if parameters:
        found["parameters"] = parameters
    if operation.body is not None:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": operation.body}}}
    return found


_NO_BRACES: Final = str.maketrans("", "", "{}.")


def _answer(media_type: str, schema: Json) -> Json:
    return {"description": "", "content": {media_type: {"schema": schema}}}
