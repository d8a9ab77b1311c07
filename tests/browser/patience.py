"""What the tests of the page allow for the machine, which other tests share.

The one rule: of several changes the quickest is judged, for whatever else the machine does makes each one slower and
none quicker.
"""

import asyncio
from collections.abc import Awaitable

# The first test of a file waits for a browser and its nodes; were it given up, all of the others would have none.
TIMEOUT_S = 180
# How soon a change has to be on the screen, beside what a busy machine adds.
SEEN_WITHIN_S = 1.0 + 2.0


async def seconds_until(shown: Awaitable[None]) -> float:
    """How long this took."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await shown
    return loop.time() - began_s
