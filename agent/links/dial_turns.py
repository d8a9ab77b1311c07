"""Whose turn it is to dial, when many links want to at once.

Taken by every link for each dial; the supervisor makes the places. The one rule: a dial is work in its first moments
and mere waiting after that, so whoever dials somebody silent gives the place up and holds nobody back.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

# A dial within one network takes some milliseconds. Behind 200 peers that say nothing, for 5 s each, one that answers
# waited 20 s for its turn; now it is 2 s.
TURN_S: Final = 0.5


@asynccontextmanager
async def turn(places: asyncio.Semaphore) -> AsyncGenerator[None, None]:
    """Wait for a place and hold it, for `TURN_S` at most; what is done in it may go on."""
    await places.acquire()
    held = True

    def give_up() -> None:
        nonlocal held
        if held:
            held = False
            places.release()

    timer = asyncio.get_running_loop().call_later(TURN_S, give_up)
    try:
        yield
    finally:
        timer.cancel()
        give_up()
