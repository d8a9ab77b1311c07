"""A value that takes a second to make, because an import does: made in a thread when it is first needed.

For what only some requests or settings need of FastMCP, the SDK, pydantic or Consul's library, so that a node starts
without them and the loop never stands still. What the start and these imports leave in memory is kept from the garbage
collector. The one rule: a value is made once, however many requests wait for it.
"""

import asyncio
import ctypes
import gc
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Generic, TypeVar

T = TypeVar("T")
# One for all: threads that import packages which need each other may find them half made.
_TURN: Final = threading.Lock()
# A block of such a size, of a large body, has pages of its own, which go back to the kernel with it. The C library
# would raise the limit at the first one that it frees, and keep the next ones (mallopt(3)).
_M_MMAP_THRESHOLD: Final = -3
_LARGE_BLOCK_BYTES: Final = 1 << 20
# Threads that work at once would each fill a region of memory of its own, up to 2 MB that stay so; what they
# ask the C library for is little, and one of them runs at a time.
_M_ARENA_MAX: Final = -8


class _Memory:
    """Whether the start has settled it. `gc.get_freeze_count` would count all frozen objects, tens of milliseconds."""

    settled = False


def settle_memory() -> None:
    """Keep the collector away from what start-up built: p99 of a call falls to a third (docs/performance.md)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 1_000)
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            library = ctypes.CDLL(None)
            library.mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)
            library.mallopt(_M_ARENA_MAX, 1)
    _Memory.settled = True


def give_back_memory() -> None:
    """Give the kernel what the C library holds and nothing uses: 4 KB of each link that was opened, in 0.3 ms.

    Where the library has no such function, nothing happens.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


class Late(Generic[T]):
    """`make` is called in a thread, by the first of those that wait for the value."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: list[T] = []

    def __repr__(self) -> str:
        return f"<Late made={bool(self._made)}>"

    async def get(self) -> T:
        """The value. Raises what `make` raises, and tries again at the next call then."""
        return self._made[0] if self._made else await asyncio.to_thread(self._once)

    def _once(self) -> T:
        with _TURN:
            if not self._made:
                self._made.append(self._make())
                if _Memory.settled:  # The collector need not walk this either.
                    gc.freeze()
            return self._made[0]
