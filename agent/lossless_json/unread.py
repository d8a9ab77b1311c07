"""The arguments of a large call, which stay the JSON that they came as: read, they take up to forty times their bytes.

Made by `agent.server.request`, sent on by `agent.client.jsonrpc`; what has to look into arguments calls `arguments_in`.
The one rule: an `Unread` is one JSON object on one line that `read_json` reads and orjson could write again, as
`agent.lossless_json.envelope` has checked; so it breaks neither the message nor the line that it is put into. Once
read, what was read is what is sent: of two members with one name no server may take another one than we did.
"""

from typing import Any, Final

from agent.errors import MCPError
from agent.lossless_json.exact import read_json
from agent.lossless_json.values import VALUES_MAX, holds_more_values
from agent.model import Json
from agent.rpc_codes import INVALID_PARAMS

ARGUMENTS: Final = "arguments"
_LINE_BREAKS: Final = bytes.maketrans(b"\r\n", b"  ")


class Unread:
    """One JSON object as bytes. `value`: the same, once it was read; not to be changed."""

    __slots__ = ("raw", "value")

    def __init__(self, raw: bytes) -> None:
        # In JSON they are white space wherever they stand; over a pipe they would end the message.
        self.raw: Final = raw.translate(_LINE_BREAKS) if b"\n" in raw or b"\r" in raw else raw
        self.value: Json | None = None

    def __repr__(self) -> str:
        return f"<Unread {len(self.raw)} bytes>"

    def read(self) -> Json:
        """The object, which is read once. Raises `MCPError` where that would take too much memory."""
        if self.value is None:
            if holds_more_values(self.raw, VALUES_MAX):
                words = f"arguments: more than {VALUES_MAX} values, and this call has to be looked into"
                raise MCPError(code=INVALID_PARAMS, message=words)
            self.value = read_json(self.raw)
        return self.value


def arguments_in(params: Json) -> Any:
    """The arguments, read where they were not; None for none. Raises `MCPError` as `Unread.read`."""
    arguments = params.get(ARGUMENTS)
    return arguments.read() if isinstance(arguments, Unread) else arguments


def with_arguments_read(params: Json) -> Json:
    """The same params with their arguments read. Raises `MCPError` as `Unread.read`."""
    arguments = params.get(ARGUMENTS)
    return {**params, ARGUMENTS: arguments.read()} if isinstance(arguments, Unread) else params
