"""What servers may ask of a caller (elicitation, sampling, roots): what it declared, and what that allows.

Used where a server's question arrives: by the clients to servers with sessions, by whoever forwards the questions of a
stateless server, and by the front that puts them to a caller with a session. Both eras name the features alike. The one
rule: a caller is asked only what it declared; else the server, or the caller, hears the protocol's own error.
"""

from typing import Final

from mcp_types.jsonrpc import INVALID_PARAMS, METHOD_NOT_FOUND

from agent.lossless_json.exact import is_deeper_than
from agent.model import Json

# The requests that a server may answer with questions (MCP 2026-07-28, multi-round-trip requests).
MAY_ASK: Final = frozenset({"tools/call", "prompts/get", "resources/read"})

_WAYS: Final = {"elicitation": ("form", "url"), "sampling": ("tools", "context"), "roots": ()}
_FEATURE_OF: Final = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}
# What a caller declares that can be asked anything. Many servers list only what such a caller could use.
EVERY_FEATURE: Final[Json] = {name: {way: {} for way in ways} for name, ways in _WAYS.items()}

# What is said of a way is an empty object today, or a few options; it has to be written anew for each session.
_WAY_NESTING_MAX: Final = 8


def declared_features(capabilities: object, *, tells_changes: bool = False) -> Json:
    """Of a caller's capabilities those that let servers ask, as `initialize` may declare them; empty for none.

    Left out is what we could not keep to for the caller: tasks, extensions, and changes of roots of a caller that
    cannot tell of them.
    """
    if not isinstance(capabilities, dict):
        return {}
    declared = {name: capabilities[name] for name in _WAYS if isinstance(capabilities.get(name), dict)}
    features = {
        name: {way: _written_of(known[way]) for way in _WAYS[name] if way in known} for name, known in declared.items()
    }
    if tells_changes and "roots" in features and declared["roots"].get("listChanged") is True:
        features["roots"]["listChanged"] = True
    return features


def _written_of(way: object) -> object:
    """What a caller says of a way of being asked; of what is nested without sense only that there is the way."""
    return {} if is_deeper_than(way, _WAY_NESTING_MAX) else way


def undeclared_features(capabilities: object, questions: object) -> Json:
    """What a caller with these capabilities would have to declare for these `inputRequests`; empty for nothing.

    A method of which we know nothing may be one of an extension, and is between caller and server.
    """
    features = capabilities if isinstance(capabilities, dict) else {}
    needed: Json = {}
    for question in questions.values() if isinstance(questions, dict) else ():
        method, params = (
            (question.get("method"), question.get("params")) if isinstance(question, dict) else (None, None)
        )
        params = params if isinstance(params, dict) else {}
        if isinstance(method, str) and method in _FEATURE_OF and refusal(features, method, params) is not None:
            ways = needed.setdefault(_FEATURE_OF[method], {})
            ways |= {way: {} for way in _ways_needed(method, params)}
    return needed


def _ways_needed(method: str, params: Json) -> tuple[str, ...]:
    match method:
        case "elicitation/create":
            mode = params.get("mode", "form")
            return (mode,) if isinstance(mode, str) and mode in _WAYS["elicitation"] else ()
        case "sampling/createMessage":
            return ("tools",) if _wants_tools(params) else ()
        case _:
            return ()


def _wants_tools(params: Json) -> bool:
    return params.get("tools") is not None or params.get("toolChoice") is not None


def refusal(features: Json, method: str, params: Json) -> tuple[int, str] | None:
    """The error (code, message) for a question that a caller with these features may not be asked; None if it may."""
    known = features.get(_FEATURE_OF.get(method, ""))
    if not isinstance(known, dict):
        return METHOD_NOT_FOUND, f"The client did not declare that it can be asked {method[:80]}"
    match method:
        case "elicitation/create":
            # Forms are what an empty object means; another way has to be named (MCP 2025-11-25, elicitation).
            mode = params.get("mode", "form")
            if not isinstance(mode, str) or mode not in (known or {"form": {}}):
                return INVALID_PARAMS, "The client did not declare this mode of elicitation"
        case "sampling/createMessage":
            if _wants_tools(params) and "tools" not in known:
                return INVALID_PARAMS, "The client did not declare sampling.tools"
    return None
