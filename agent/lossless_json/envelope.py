"""Reads a large call but for its arguments, which msgspec checks as JSON and skips without making objects of them.

Imported by `agent.server.request` at the first large body, since the library takes 15 ms and 1.5 MB. The one rule:
where anything is unusual, the body is read by its outline (`agent.lossless_json.outline`); and where that cannot be
done, None is returned, and it is read whole, within the limits and with the errors of that.
"""

from collections.abc import Generator
from typing import Final

import msgspec
import orjson

from agent.lossless_json.exact import read_json
from agent.lossless_json.half_pairs import may_have_half_pairs, without_pairs
from agent.lossless_json.outline import CALLS, read_outline
from agent.lossless_json.unread import ARGUMENTS, Unread
from agent.model import Json

# With more beside its arguments a body is read by its outline: msgspec makes an object of each member of the params.
REST_BYTES_MAX: Final = 64 << 10
# What had less at another node has no more here, which may have added 64 KiB, and written `9e15` as 9000000000000000.0.
REST_FROM_NODE_BYTES_MAX: Final = 5 * REST_BYTES_MAX
_ABSENT: Final = msgspec.Raw()


class _Arguments(msgspec.Struct):
    """Of all params only these; the others are checked, and dropped."""

    arguments: msgspec.Raw


class _Outline(msgspec.Struct):
    """Of a request only its arguments."""

    params: _Arguments


class _Request(msgspec.Struct):
    """The members of a request; of two with one name the last counts, as everywhere. Others are checked and dropped."""

    params: dict[str, msgspec.Raw]
    jsonrpc: msgspec.Raw = _ABSENT
    id: msgspec.Raw = _ABSENT
    method: msgspec.Raw = _ABSENT


class _Nothing(msgspec.Struct):
    """An object, all of whose members are checked, and dropped."""


_CHECK: Final = msgspec.json.Decoder(_Nothing)
_OUTLINE: Final = msgspec.json.Decoder(_Outline)
_DECODER: Final = msgspec.json.Decoder(_Request)


def read_message(body: bytes, *, from_node: bool = False) -> Generator[None, None, Json | str | None]:
    """The steps to a message, or to why it is refused; None where it has to be read whole.

    `body` has passed `agent.lossless_json.writable`: msgspec looks at no UTF-8 of what it skips, and is recursive.
    `from_node`: another node sent it, and left the arguments unread, too.
    """
    call = yield from read_call(body, from_node=from_node)
    if call is not None:
        return call
    if not (yield from is_object(body)):
        return None
    return (yield from read_outline(body, from_node=from_node))


def read_call(body: bytes, *, from_node: bool = False) -> Generator[None, None, Json | None]:
    """The steps to the message of a call with little beside its arguments, those as `Unread`; None for all else."""
    rest_bytes_max = REST_FROM_NODE_BYTES_MAX if from_node else REST_BYTES_MAX
    try:
        raw = memoryview(_OUTLINE.decode(body).params.arguments)
        if bytes(raw[:1]) != b"{" or len(body) - len(raw) > rest_bytes_max:
            return None
        yield
        message = _read_rest(_DECODER.decode(body))
    except (msgspec.MsgspecError, orjson.JSONDecodeError, RecursionError):
        return None
    if message is None or message["method"] not in CALLS:
        return None
    message["params"][ARGUMENTS] = Unread(raw)
    return message


def is_object(body: bytes) -> Generator[None, None, bool]:
    """Whether it is one JSON object, perhaps with halves of surrogate pairs where they may be."""
    yield
    if _is_checked(body):
        return True
    if not may_have_half_pairs(body):
        return False
    checked = yield from without_pairs(body)
    return checked is not None and _is_checked(checked)


def _is_checked(text: bytes | bytearray) -> bool:
    try:
        _CHECK.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


def _read_rest(found: _Request) -> Json | None:
    """All but the arguments, which are null there; None where a member is missing."""
    envelope = {"jsonrpc": found.jsonrpc, "id": found.id, "method": found.method}
    if any(member is _ABSENT for member in envelope.values()):
        return None
    members: Json = {name: orjson.Fragment(bytes(member)) for name, member in envelope.items()}
    members["params"] = {
        name: None if name == ARGUMENTS else orjson.Fragment(bytes(member)) for name, member in found.params.items()
    }
    message: Json = read_json(orjson.dumps(members))
    return message if isinstance(message["method"], str) else None
