"""Reads a large body without making objects of what no node looks at: msgspec checks that all of it is JSON.

Imported by `agent.server.request` at the first large body, since the library takes 15 ms and 1.5 MB. The one rule:
nothing is read of a body that is not proven to be JSON, as orjson would have it, and what is refused costs its bytes.
"""

import re
from collections.abc import Generator
from typing import Any, Final

import msgspec

from agent.lossless_json.half_pairs import may_have_half_pairs, without_pairs
from agent.lossless_json.outline import BodyRefused, read_batch, read_outline
from agent.lossless_json.writable import LEVELS_MAX, writable
from agent.rpc_codes import PARSE_ERROR

_BEGIN: Final = re.compile(rb"[ \t\r\n]*+(.?)", re.DOTALL)


class _Object(msgspec.Struct):
    """An object, all of whose members are checked, and dropped."""


class _List(msgspec.Struct, array_like=True):
    """The same of a list."""


_OBJECT: Final = msgspec.json.Decoder(_Object)
_LIST: Final = msgspec.json.Decoder(_List)


def read_message(
    body: bytes, *, from_node: bool = False, batch_len_max: int = 0
) -> Generator[None, None, dict[str, Any] | list[Any]]:
    """The steps to a message, or to those of a batch; an empty list for JSON that is neither. Raises `BodyRefused`.

    `from_node`: another node sent it. `batch_len_max`: so many messages may come in a list; 0: none may.
    """
    begin = _BEGIN.match(body)
    assert begin is not None, "it may be empty"
    is_list = begin[1] == b"["
    if is_list and not batch_len_max:
        return []
    if not (yield from writable(body)):  # msgspec looks at no UTF-8 of what it skips, and is recursive.
        what = f"the body is not UTF-8, or nested more than {LEVELS_MAX} levels deep"
        raise BodyRefused(400, f"Parse error: {what}", PARSE_ERROR)
    if not (yield from _is_checked(body, _LIST if is_list else _OBJECT)):
        return []
    if is_list:
        return (yield from read_batch(body, batch_len_max))
    return (yield from read_outline(body, from_node=from_node))


def _is_checked(body: bytes, decoder: msgspec.json.Decoder[Any]) -> Generator[None, None, bool]:
    """Whether it is an object, or a list; raises `BodyRefused` for no JSON. Halves of pairs may be where they may."""
    yield
    fault = _fault(body, decoder)
    if fault and may_have_half_pairs(body):
        checked = yield from without_pairs(body)
        if checked is not None:
            yield
            fault = _fault(checked, decoder)
    if fault:
        raise BodyRefused(400, f"Parse error: {fault}", PARSE_ERROR)
    return fault is None


def _fault(text: bytes | bytearray, decoder: msgspec.json.Decoder[Any]) -> str | None:
    """What is wrong, empty for JSON of another kind. No exception, which would hold the text through its traceback."""
    try:
        decoder.decode(text)
    except msgspec.ValidationError:
        return ""
    except (msgspec.MsgspecError, RecursionError) as exc:
        return str(exc)
    return None
