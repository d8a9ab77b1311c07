"""Reads a large call but for its arguments, which msgspec checks as JSON and skips without making objects of them.

Imported by `agent.server.request` at the first large body, since the library takes 15 ms and 1.5 MB. The one rule:
where anything is unusual, None is returned, and the body is read whole, within the limits and with the errors of that.
"""

from typing import Any, Final

import msgspec
import orjson

from agent.lossless_json.exact import read_json
from agent.lossless_json.unread import ARGUMENTS, Unread
from agent.lossless_json.values import VALUES_MAX, holds_more_values
from agent.model import Json

_METHODS: Final = frozenset({"tools/call", "prompts/get"})
_METHOD_BYTES_MAX: Final = 64  # With every character escaped.
_ABSENT: Final = msgspec.Raw()


class _Params(msgspec.Struct, forbid_unknown_fields=True):
    """What the protocol has. Others are unusual: 4 MiB hold 400,000 of them, and their names alone took 170 MB here."""

    arguments: msgspec.Raw = _ABSENT
    name: msgspec.Raw = _ABSENT
    meta: msgspec.Raw = msgspec.field(default=_ABSENT, name="_meta")
    task: msgspec.Raw = _ABSENT
    request_state: msgspec.Raw = msgspec.field(default=_ABSENT, name="requestState")
    input_responses: msgspec.Raw = msgspec.field(default=_ABSENT, name="inputResponses")


class _Request(msgspec.Struct):
    """The members of a request; of two with one name the last counts, as everywhere. Others are checked and dropped."""

    params: _Params
    jsonrpc: msgspec.Raw = _ABSENT
    id: msgspec.Raw = _ABSENT
    method: msgspec.Raw = _ABSENT


_DECODER: Final = msgspec.json.Decoder(_Request)
_OF_PARAMS: Final = [(field.name, field.encode_name) for field in msgspec.structs.fields(_Params)]


def read_call(body: bytes, values_max: int = VALUES_MAX) -> Json | None:
    """The message of a call, its arguments as `Unread`; None where it has to be read whole.

    `body` has passed `agent.lossless_json.writable`: msgspec looks at no UTF-8 of what it skips, and is recursive.
    `values_max`: of all but the arguments.
    """
    try:
        found = _DECODER.decode(body)
        raw = bytes(found.params.arguments)
        return _read_rest(found, raw, values_max) if raw.startswith(b"{") else None
    except (msgspec.MsgspecError, orjson.JSONDecodeError, RecursionError):
        return None


def _read_rest(found: _Request, raw: bytes, values_max: int) -> Json | None:
    """The message; None where it is no call, a member is missing, or all but its arguments is too much, too."""
    members = {"jsonrpc": found.jsonrpc, "id": found.id, "method": found.method}
    if not _is_call(found.method) or any(member is _ABSENT for member in members.values()):
        return None
    given = [(name, getattr(found.params, field)) for field, name in _OF_PARAMS]
    params = {name: member for name, member in given if member is not _ABSENT and name != ARGUMENTS}
    if holds_more_values(b",".join((*members.values(), *params.values())), values_max):
        return None
    message: Json = {name: _read(member) for name, member in members.items()}
    message["params"] = {name: _read(member) for name, member in params.items()} | {ARGUMENTS: Unread(raw)}
    return message


def _is_call(method: msgspec.Raw) -> bool:
    """Told before anything else is read, which would be read again."""
    text = bytes(method)
    return text.startswith(b'"') and len(text) <= _METHOD_BYTES_MAX and read_json(text) in _METHODS


def _read(member: msgspec.Raw) -> Any:
    return read_json(memoryview(member))
