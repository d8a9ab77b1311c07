"""A head that has come before, known again at one look: all its bytes but its length and a node's proof. PURE.

Noted for a connection by both sides of HTTP, as the heads of one are alike: for a client's (`agent.server.fast_path`),
and for ours to a server (`agent.client.http.connection`). The one rule: what is known again is what those who search
through a head find in it; anything else is searched.
"""

import re
from typing import Final, Generic, NamedTuple, TypeVar

_H = TypeVar("_H")

_END: Final = b"\r\n\r\n"
_LENGTH_DIGITS_MAX: Final = 9
# Node.js as a client, uvicorn and hyper as servers write names in small letters.
_LENGTH: Final = re.compile(rb"\r\nContent-Length: ([0-9]{1,9})\r\n", re.IGNORECASE)
# Where a node's proof does not stand last, its heads are not known again.
_PROOF_LINE: Final = b"\r\nMesh-Proof: "
_PROOF_BYTES_MAX: Final = 256
_PROOF_MARKS: Final = b"._-"
# No head that is known again has so many bytes more than the one that it is known by.
OWN_BYTES_MAX: Final = _LENGTH_DIGITS_MAX + _PROOF_BYTES_MAX


class Beginning(NamedTuple, Generic[_H]):
    """What a connection's bytes begin with: a head of `head_bytes`, and after it a body of `body_bytes`.

    `proof`: what a node shows with this one message (`agent.identity.association`), in place of what the head has.
    """

    head: _H
    head_bytes: int
    body_bytes: int
    proof: str | None


class SameHead(NamedTuple):
    """What stands before the length in a head, and after it; up to the proof, where it has one."""

    before: bytes
    after: bytes
    is_proven: bool

    def again(self, data: bytes, head: _H) -> Beginning[_H] | None:
        """What `data` begins with, if it is this head, which was read as `head`."""
        before, after, is_proven = self
        if not data.startswith(before):
            return None
        end = len(before)
        digits = data[end : end + _LENGTH_DIGITS_MAX].partition(b"\r")[0]
        end += len(digits)
        if not digits.isdigit() or not data.startswith(after, end):
            return None
        end += len(after)
        if not is_proven:
            # As the class makes it, without a call in between.
            return tuple.__new__(Beginning, (head, end, int(digits), None))
        begin, end = end, data.find(_END, end, end + _PROOF_BYTES_MAX + len(_END))
        shown = data[begin:end]
        if end < 0 or not shown.translate(None, _PROOF_MARKS).isalnum():
            return None
        return tuple.__new__(Beginning, (head, end + len(_END), int(digits), shown.decode()))


def same_head(head: bytes) -> SameHead | None:
    """How a whole head is known again; None where it is not."""
    length = _LENGTH.search(head)
    if length is None:
        return None
    begin, end = length.span(1)
    after, line, rest = head[end:].partition(_PROOF_LINE)
    if _PROOF_LINE in head[:begin] or (line and rest.find(_END) != rest.find(b"\r")):
        return None
    return SameHead(head[:begin], after + line, is_proven=bool(line))
