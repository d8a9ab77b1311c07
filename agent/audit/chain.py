"""PURE: one record of the audit as a line, and whether lines are an unbroken chain.

Written by `agent.audit.trail`, checked by `mesh-agent audit verify`. Each record has the SHA-256 of the one before it
and its own, over its JSON with sorted members; so no line can be changed, moved or taken out without changing all that
follow. A user who can write the file can make all of them anew: the newest hash stands in the node's log as well, for
comparison. The one rule: a record holds names and outcomes, never a secret, an argument or a result.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import orjson

# In the place of a hash before the first record.
NOTHING_BEFORE: Final = "0" * 64
_MEMBERS: Final = frozenset({"seq", "time", "act", "who", "prev"})


class ChainBroken(Exception):
    """The lines are not as they were written; `number` is the first bad one's in its file, from 1."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(f"line {number}: {why}")
        self.number = number


@dataclass(frozen=True, slots=True)
class Head:
    """The newest record of a chain: how many there are with it, and its hash."""

    seq: int = 0
    hash: str = NOTHING_BEFORE


def record_line(head: Head, time: str, act: str, who: str, fields: dict[str, Any]) -> tuple[bytes, Head]:
    """The line of a record that follows `head`, with its end; and the new head. `time`: as RFC 3339 has it."""
    seq = head.seq + 1
    record: dict[str, Any] = {**fields, "seq": seq, "time": time, "act": act, "who": who, "prev": head.hash}
    record.pop("hash", None)
    own = _hash_of(record)
    return _written({**record, "hash": own}) + b"\n", Head(seq, own)


def read_line(line: bytes) -> tuple[dict[str, Any], Head]:
    """A record and itself as the head of what follows. Raises ValueError where it is none, or was changed."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as exc:
        raise ValueError("is no JSON") from exc
    if not isinstance(record, dict) or not record.keys() >= _MEMBERS or type(record["seq"]) is not int:
        raise ValueError("is no record of an audit")
    own = record.pop("hash", None)
    if own != _hash_of(record) or _written({**record, "hash": own}) != line.rstrip(b"\n"):
        raise ValueError("was changed")
    return record, Head(record["seq"], own)


def checked(lines: Iterable[bytes], before: Head | None = None) -> Iterator[tuple[dict[str, Any], Head]]:
    """Each record of a file and the head after it. `before`: the head of the file before; None where that is gone.

    Raises `ChainBroken`.
    """
    for number, line in enumerate(lines, start=1):
        try:
            record, head = read_line(line)
        except ValueError as exc:
            raise ChainBroken(number, str(exc)) from exc
        if before is not None and (record["prev"], record["seq"]) != (before.hash, before.seq + 1):
            raise ChainBroken(number, f"does not follow record {before.seq}: what was between is gone")
        before = head
        yield record, head


def _written(record: dict[str, Any]) -> bytes:
    return orjson.dumps(record, option=orjson.OPT_SORT_KEYS)


def _hash_of(record: dict[str, Any]) -> str:
    return hashlib.sha256(_written(record)).hexdigest()
