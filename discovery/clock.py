"""The one clock of discovery: the running event loop's, in monotonic seconds, which a test may run by itself.

Read by the thin shells, as `clock.now_s()`; decisions take the figure as an argument.
"""

import asyncio


def now_s() -> float:
    """Seconds of the running loop's clock; only differences mean something."""
    return asyncio.get_running_loop().time()
