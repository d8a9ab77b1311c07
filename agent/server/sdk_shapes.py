"""The SDK's judgement of params, for those that `agent.server.shapes` does not recognise: exact, with a reason.

Imported by `agent.server.validation` in a thread, when it is first needed. The one rule: no other module imports this
one, since that would cost every node a second and 40 MB at its start.
"""

from typing import Any, Final

from mcp_types.methods import parse_client_request, validate_client_request
from pydantic import ValidationError

from agent.errors import MCPError
from agent.mcp_terms import LATEST_HANDSHAKE_VERSION, PROTOCOL_VERSION_META_KEY
from agent.model import Json
from agent.rpc_codes import INVALID_PARAMS

# An error about params contains the place, whose names are the client's own.
_PLACE_LEN_MAX: Final = 128


def shaped(method: str, params: Json) -> Json:
    """The params of a request of the protocol, the filter of a subscription as the SDK reads it. Raises `MCPError`."""
    try:
        request = parse_client_request(method, params["_meta"][PROTOCOL_VERSION_META_KEY], params)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))[:_PLACE_LEN_MAX]
        # Pydantic lists the allowed values in an order that depends on what was imported first.
        reason = "Not a word of the protocol" if first["type"] == "literal_error" else first["msg"]
        raise MCPError(code=INVALID_PARAMS, message=f"{place}: {reason}") from exc
    if method != "subscriptions/listen":
        return params
    read: dict[str, Any] = request.params.notifications.model_dump(by_alias=True, mode="json", exclude_none=True)
    return {**params, "notifications": read}


def is_initialize(params: Json) -> bool:
    """Whether these are params of `initialize`."""
    try:
        validate_client_request("initialize", LATEST_HANDSHAKE_VERSION, params)
    except ValidationError:
        return False
    return True
