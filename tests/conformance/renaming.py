"""Renames one MCP message on its way between the conformance suite and a node.

The suite asks for the fixture's own names, a node serves public ones. Called by `renaming_proxy.py`. The one rule: only
a name in a place that holds a name is touched, and a name in an answer that is not public is spoiled, so that a node
which lets its backend's own names through is found out.
"""

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any

from tests.conformance.names import PublicNames

Json = dict[str, Any]

SPOILED = "NOT-PUBLIC "
_BASE64 = re.compile(r"=\?base64\?(.*)\?=", re.DOTALL)
_NAMED = frozenset({"tools/call", "prompts/get"})
_LOCATED = frozenset({"resources/read", "resources/subscribe", "resources/unsubscribe"})


def renamed_request(names: PublicNames, message: Any) -> Any:
    """A client's message with public names in it."""
    if not isinstance(message, dict) or not isinstance(message.get("params"), dict):
        return message
    method, params = message.get("method"), message["params"]
    if method in _NAMED:
        params = _with(params, "name", names.public_name)
    elif method in _LOCATED:
        params = _with(params, "uri", names.public_uri)
    elif method == "completion/complete" and isinstance(params.get("ref"), dict):
        ref = _with(_with(params["ref"], "name", names.public_name), "uri", names.public_uri)
        params = {**params, "ref": ref}
    elif method == "subscriptions/listen":
        params = _with_subscriptions(params, names.public_uri)
    return {**message, "params": params}


def renamed_header(names: PublicNames, method: str | None, value: str) -> str:
    """The value of Mcp-Name, plain or wrapped as base64, right or wrong."""
    rename = names.public_name if method in _NAMED else names.public_uri if method in _LOCATED else None
    if rename is None:
        return value
    if wrapped := _BASE64.fullmatch(value.strip()):
        try:
            own = base64.b64decode(wrapped[1], validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return value
        return f"=?base64?{base64.b64encode(rename(own).encode()).decode()}?="
    return value.replace(value.strip(), rename(value.strip())) if value.strip() else value


def renamed_answer(names: PublicNames, method: str | None, message: Any) -> Any:
    """A server's message with the fixture's own names in it; `method` is what the client had asked for."""

    def own_name(public: str) -> str:
        return names.own_name(public) or SPOILED + public

    def own_uri(public: str) -> str:
        return names.own_uri(public) or SPOILED + public

    if not isinstance(message, dict):
        return message
    if isinstance(message.get("result"), dict):
        return {**message, "result": _renamed_result(names, method, message["result"], own_uri)}
    if isinstance(message.get("error"), dict):
        data = message["error"].get("data")
        if isinstance(data, dict) and (method in _NAMED or method in _LOCATED):
            data = _with(_with(data, "name", own_name), "uri", own_uri)
            return {**message, "error": {**message["error"], "data": data}}
        return message
    params = message.get("params")
    if message.get("method") == "notifications/resources/updated" and isinstance(params, dict):
        return {**message, "params": _with(params, "uri", own_uri)}
    if message.get("method") == "notifications/subscriptions/acknowledged" and isinstance(params, dict):
        return {**message, "params": _with_subscriptions(params, own_uri)}
    return message


def _renamed_result(names: PublicNames, method: str | None, result: Json, own_uri: Callable[[str], str]) -> Json:
    match method:
        case "tools/list" | "prompts/list":
            return _listed(result, method.removesuffix("/list"), "name", names.own_name)
        case "resources/list":
            return _listed(result, "resources", "uri", names.own_uri)
        case "resources/templates/list":
            return _listed(result, "resourceTemplates", "uriTemplate", names.own_uri)
        case "resources/read" if isinstance(result.get("contents"), list):
            return {**result, "contents": [_with(content, "uri", own_uri) for content in result["contents"]]}
        case "tools/call" if isinstance(result.get("content"), list):
            return {**result, "content": [_renamed_block(block, own_uri) for block in result["content"]]}
        case "prompts/get" if isinstance(result.get("messages"), list):
            messages = [
                {**message, "content": _renamed_block(message["content"], own_uri)} for message in result["messages"]
            ]
            return {**result, "messages": messages}
    return result


def _renamed_block(block: Any, own_uri: Callable[[str], str]) -> Any:
    """A block of content, a resource's link or embedded contents under their own URIs."""
    match block:
        case {"type": "resource_link"}:
            return _with(block, "uri", own_uri)
        case {"type": "resource", "resource": dict(resource)}:
            return {**block, "resource": _with(resource, "uri", own_uri)}
    return block


def _listed(result: Json, key: str, field: str, own: Callable[[str], str | None]) -> Json:
    """The fixture's entries of a list under their own names; a node's own tools and resources are left out."""
    if not isinstance(result.get(key), list):
        return result
    named = [(entry, own(entry[field])) for entry in result[key]]
    return {**result, key: [{**entry, field: name} for entry, name in named if name is not None]}


def _with_subscriptions(params: Json, rename: Callable[[str], str]) -> Json:
    wanted = params.get("notifications")
    if not isinstance(wanted, dict) or not isinstance(wanted.get("resourceSubscriptions"), list):
        return params
    uris = [rename(uri) for uri in wanted["resourceSubscriptions"]]
    return {**params, "notifications": {**wanted, "resourceSubscriptions": uris}}


def _with(params: Json, field: str, rename: Callable[[str], str]) -> Json:
    value = params.get(field)
    return {**params, field: rename(value)} if isinstance(value, str) else params
