"""Which server requests (elicitation, sampling, roots) a caller accepts, by the capabilities that it declared.

Used where a server request arrives: in the clients to servers with sessions, where a stateless server's request is
forwarded, and where one is put to a caller with a session. Both eras name the features alike. The one rule: a caller
gets only the requests that it declared; for any other, the server or the caller gets the protocol's own error.
"""

from typing import Final

from agent.lossless_json.exact import is_deeper_than
from agent.mcp_terms import CLIENT_CAPABILITIES_META_KEY
from agent.model import TASKS_EXTENSION, UI_EXTENSION, Json
from agent.rpc_codes import INVALID_PARAMS, METHOD_NOT_FOUND

# The requests that a server may answer with `input_required` (MCP 2026-07-28, multi-round-trip requests).
MAY_ASK: Final = frozenset({"tools/call", "prompts/get", "resources/read"})

_MODES: Final = {"elicitation": ("form", "url"), "sampling": ("tools", "context"), "roots": ()}
_FEATURE_OF: Final = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}
# The capability of a client that shows the pages of MCP Apps: SEP-1865 knows no other type of page. No server can ask
# anything by it, so a session that all callers share may have it.
PAGE_TYPE: Final = "text/html;profile=mcp-app"
SHOWS_PAGES: Final[Json] = {"extensions": {UI_EXTENSION: {"mimeTypes": [PAGE_TYPE]}}}
# The capabilities of a caller with every feature. Many servers list only what its caller could use.
EVERY_FEATURE: Final[Json] = {name: {mode: {} for mode in modes} for name, modes in _MODES.items()} | SHOWS_PAGES
# The params of what a link itself asks a stateless server for: its lists, and what it announces.
ASKED_FOR_ALL: Final[Json] = {
    "_meta": {
        CLIENT_CAPABILITIES_META_KEY: {
            **EVERY_FEATURE,
            "extensions": {**SHOWS_PAGES["extensions"], TASKS_EXTENSION: {}},
        }
    }
}

# The server requests that may be made as tasks (MCP 2025-11-25, tasks), by the feature that permits them.
_AS_TASKS: Final[Json] = {"elicitation": {"create": {}}, "sampling": {"createMessage": {}}}

# A mode is an empty object today, or a few options; it has to be serialized for each session.
_MODE_NESTING_MAX: Final = 8


def declared_features(capabilities: object, *, sends_list_changed: bool = False) -> Json:
    """Those of a caller's capabilities that matter to a session with a server, as `initialize` may declare them.

    These are what permits server requests, and that it shows pages; empty for none. Left out is what we cannot honour
    for the caller: tasks, other extensions, and `roots.listChanged` of a caller that cannot send that notification.
    """
    if not isinstance(capabilities, dict):
        return {}
    declared = {name: capabilities[name] for name in _MODES if isinstance(capabilities.get(name), dict)}
    features = {
        name: {mode: _bounded(known[mode]) for mode in _MODES[name] if mode in known}
        for name, known in declared.items()
    }
    if sends_list_changed and "roots" in features and declared["roots"].get("listChanged") is True:
        features["roots"]["listChanged"] = True
    extensions = capabilities.get("extensions")
    if isinstance(extensions, dict) and isinstance(pages := extensions.get(UI_EXTENSION), dict):
        features["extensions"] = {UI_EXTENSION: _bounded(pages)}
    return features


def shows_pages(capabilities: object) -> bool:
    """Whether a caller that declared these capabilities shows the pages of MCP Apps."""
    extensions = capabilities.get("extensions") if isinstance(capabilities, dict) else None
    pages = extensions.get(UI_EXTENSION) if isinstance(extensions, dict) else None
    types = pages.get("mimeTypes") if isinstance(pages, dict) else None
    return isinstance(types, list) and PAGE_TYPE in types


def with_pages(capabilities: object) -> Json:
    """The capabilities of a caller that shows pages without declaring it."""
    declared: Json = capabilities if isinstance(capabilities, dict) else {}
    extensions = declared.get("extensions")
    others = extensions if isinstance(extensions, dict) else {}
    return {**declared, "extensions": {**others, **SHOWS_PAGES["extensions"]}}


def with_client_tasks(features: Json) -> Json:
    """The features as 2025-11-25 declares them: what a caller accepts, it accepts as a task too.

    The node keeps these tasks (`agent.client.sessions.client_tasks`), whatever the caller itself knows of tasks.
    """
    requests = {feature: how for feature, how in _AS_TASKS.items() if feature in features}
    return {**features, "tasks": {"list": {}, "cancel": {}, "requests": requests}} if requests else features


def permits_requests(features: Json) -> bool:
    """Whether a caller with these features accepts any server request."""
    return not features.keys().isdisjoint(_MODES)


def _bounded(mode: object) -> object:
    """A mode as declared; an empty object for one that is nested too deeply."""
    return {} if is_deeper_than(mode, _MODE_NESTING_MAX) else mode


def undeclared_features(capabilities: object, requests: object) -> Json:
    """What a caller with these capabilities would still have to declare for these `inputRequests`; empty for nothing.

    An unknown method may be one of an extension, and is between caller and server.
    """
    features = capabilities if isinstance(capabilities, dict) else {}
    needed: Json = {}
    for request in requests.values() if isinstance(requests, dict) else ():
        method, params = (request.get("method"), request.get("params")) if isinstance(request, dict) else (None, None)
        params = params if isinstance(params, dict) else {}
        if isinstance(method, str) and method in _FEATURE_OF and refusal(features, method, params) is not None:
            modes = needed.setdefault(_FEATURE_OF[method], {})
            modes |= {mode: {} for mode in _modes_needed(method, params)}
    return needed


def _modes_needed(method: str, params: Json) -> tuple[str, ...]:
    match method:
        case "elicitation/create":
            mode = params.get("mode", "form")
            return (mode,) if isinstance(mode, str) and mode in _MODES["elicitation"] else ()
        case "sampling/createMessage":
            return ("tools",) if _wants_tools(params) else ()
        case _:
            return ()


def _wants_tools(params: Json) -> bool:
    return params.get("tools") is not None or params.get("toolChoice") is not None


def refusal(features: Json, method: str, params: Json) -> tuple[int, str] | None:
    """The error (code, message) for a server request that these features do not permit; None where they do."""
    known = features.get(_FEATURE_OF.get(method, ""))
    if not isinstance(known, dict):
        return METHOD_NOT_FOUND, f"The client did not declare that it can be asked {method[:80]}"
    match method:
        case "elicitation/create":
            # An empty object means forms; another mode has to be named (MCP 2025-11-25, elicitation).
            mode = params.get("mode", "form")
            if not isinstance(mode, str) or mode not in (known or {"form": {}}):
                return INVALID_PARAMS, "The client did not declare this mode of elicitation"
        case "sampling/createMessage":
            if _wants_tools(params) and "tools" not in known:
                return INVALID_PARAMS, "The client did not declare sampling.tools"
    return None
