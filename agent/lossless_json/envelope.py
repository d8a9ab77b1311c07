"""Reads a large call but for its arguments, which msgspec checks as JSON and skips without making objects of them.

Imported by `agent.server.request` at the first large body, since the library takes 15 ms and 1.5 MB. The one rule:
where anything is unusual, None is returned, and the body is read whole, within the limits and with the errors of that.
"""

from typing import Final

import msgspec
import orjson

from agent.lossless_json.exact import read_json
from agent.lossless_json.unread import ARGUMENTS, Unread
from agent.lossless_json.values import VALUES_MAX, holds_more_values
from agent.model import Json

_METHODS: Final = frozenset({"tools/call", "prompts/get"})
_ABSENT: Final = msgspec.Raw()


class _Request(msgspec.Struct):
    """The members of a request; of two with one name the last counts, as everywhere. Others are checked and dropped."""

    params: dict[str, msgspec.Raw]
    jsonrpc: msgspec.Raw = _ABSENT
    id: msgspec.Raw = _ABSENT
    method: msgspec.Raw = _ABSENT


_DECODER: Final = msgspec.json.Decoder(_Request)


def read_call(body: bytes) -> Json | None:
    """The message of a call, its arguments as `Unread`; None where it has to be read whole.

    `body` has passed `agent.lossless_json.writable`: msgspec looks at no UTF-8 of what it skips, and is recursive.
    """
    try:
        found = _DECODER.decode(body)
        arguments = found.params.get(ARGUMENTS)
        if arguments is None or not (raw := bytes(arguments)).startswith(b"{"):
            return None
        message = _read_rest(found)
    except (msgspec.MsgspecError, orjson.JSONDecodeError, RecursionError):
        return None
    if message is None or message["method"] not in _METHODS:
        return None
    message["params"][ARGUMENTS] = Unread(raw)
    return message


def _read_rest(found: _Request) -> Json | None:
    """All but the arguments, which are null there; None where a member is missing, or where that is too much, too."""
    envelope = {"jsonrpc": found.jsonrpc, "id": found.id, "method": found.method}
    if any(member is _ABSENT for member in envelope.values()):
        return None
    members: Json = {name: orjson.Fragment(bytes(member)) for name, member in envelope.items()}
    members["params"] = {
        name: None if name == ARGUMENTS else orjson.Fragment(bytes(member)) for name, member in found.params.items()
    }
    rest = orjson.dumps(members)
    if holds_more_values(rest, VALUES_MAX):
        return None
    message: Json = read_json(rest)
    return message if isinstance(message["method"], str) else None
