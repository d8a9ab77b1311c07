"""A mapping that never changes; another one is made from it without a copy of what is the same in both.

Route tables, and the nodes of fleets, are such mappings: a link's change concerns some names of many thousands. The
entries lie in chunks by the hash of their key, and only chunks in which something changes are copied. The one rule: a
chunk is never changed once it is in a mapping. There is no order; readers that want one sort.
"""

import math
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from itertools import chain
from typing import Any, Final, Generic, TypeVar

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

# So many entries at most for so many chunks. A few entries are one dictionary, and with 4,000 peers of three tools a
# chunk of 24,000 names is 190 entries.
SIZES: Final = ((64, 1), (1024, 16), (math.inf, 128))


class Chunked(Mapping[_Key, _Value], Generic[_Key, _Value]):
    """See the module. `chunks`: for a look-up without a call of a function, `chunks[hash(key) % len(chunks)].get(key)`.

    Hashes are a process's own: in another one it is made anew.
    """

    __slots__ = ("_len", "chunks")

    def __init__(self, chunks: tuple[dict[_Key, _Value], ...] = ({},)) -> None:
        self.chunks = chunks
        self._len = sum(map(len, chunks))

    @classmethod
    def of(cls, entries: Mapping[_Key, _Value]) -> "Chunked[_Key, _Value]":
        """The same entries."""
        return entries if isinstance(entries, Chunked) else cls().changed(entries)

    def changed(self, entries: Mapping[_Key, _Value | None]) -> "Chunked[_Key, _Value]":
        """With these entries, and without the keys whose value is None."""
        if not entries:
            return self
        chunks, copied = self._for(self._len + len(entries)), set[int]()
        for key, value in entries.items():
            place = hash(key) % len(chunks)
            if place not in copied:
                copied.add(place)
                chunks[place] = chunks[place].copy()
            if value is None:
                chunks[place].pop(key, None)
            else:
                chunks[place][key] = value
        return Chunked(tuple(chunks))

    def _for(self, count: int) -> list[dict[_Key, _Value]]:
        """The chunks that so many entries want; they only become more."""
        wanted = next(chunks for most, chunks in SIZES if count <= most)
        if wanted <= len(self.chunks):
            return list(self.chunks)
        chunks: list[dict[_Key, _Value]] = [{} for _ in range(wanted)]
        for key, value in self.items():
            chunks[hash(key) % wanted][key] = value
        return chunks

    def __reduce__(self) -> tuple[Any, ...]:
        return Chunked.of, (dict(self.items()),)

    def __repr__(self) -> str:
        return f"<Chunked {len(self)}>"

    def __getitem__(self, key: _Key) -> _Value:
        return self.chunks[hash(key) % len(self.chunks)][key]

    def __contains__(self, key: object) -> bool:
        return key in self.chunks[hash(key) % len(self.chunks)]

    def __iter__(self) -> Iterator[_Key]:
        return chain.from_iterable(self.chunks)

    def __len__(self) -> int:
        return self._len

    def get(self, key: _Key, default: Any = None) -> Any:
        """As of any mapping."""
        return self.chunks[hash(key) % len(self.chunks)].get(key, default)

    def items(self) -> ItemsView[_Key, _Value]:
        """As of any mapping."""
        return _Items(self)

    def values(self) -> ValuesView[_Value]:
        """As of any mapping."""
        return _Values(self)


class _Items(ItemsView[_Key, _Value]):
    """Those of a mapping look every key up."""

    _mapping: Chunked[_Key, _Value]

    def __iter__(self) -> Iterator[tuple[_Key, _Value]]:
        return chain.from_iterable(chunk.items() for chunk in self._mapping.chunks)


class _Values(ValuesView[_Value]):
    """Those of a mapping look every key up."""

    _mapping: Chunked[Any, _Value]

    def __iter__(self) -> Iterator[_Value]:
        return chain.from_iterable(chunk.values() for chunk in self._mapping.chunks)
