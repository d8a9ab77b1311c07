"""One cheap knock at a server that was away: whether a dial may find it.

Called by a link between its dials, for all that it dials (`agent.links.pause`). A connection that is refused costs a
tenth of a dial; a proxy's page, one request that means nothing. The one rule: a knock says that a dial is worth while,
and never what is there.
"""

import asyncio
from typing import Final

from agent.client.http.open_pool import open_pool
from agent.client.outbound import Outbound
from agent.errors import MeshError, Unreachable
from agent.model import HttpTarget

# One that takes longer hangs, which a dial finds out better.
RETURN_KNOCK_TIMEOUT_S: Final = 1.0

# By which proxies say that what is behind them is away.
_AWAY: Final = frozenset({502, 503, 504})


def tells_by_a_knock(failure: BaseException | None) -> bool:
    """Whether a knock is answered as the dial was that failed so, for as long as the server is away."""
    return isinstance(failure, Unreachable) and (failure.refused or failure.http_status in _AWAY)


async def may_be_back(target: HttpTarget, outbound: Outbound, *, refused: bool) -> bool:
    """Whether a server that `refused` a connection, or that a proxy said was away, is so no longer."""
    try:
        async with asyncio.timeout(RETURN_KNOCK_TIMEOUT_S):
            with open_pool(target, connect_timeout_s=RETURN_KNOCK_TIMEOUT_S, outbound=outbound) as pool:
                if refused:
                    await pool.reach()
                    return True
                return await pool.knock() not in _AWAY
    except TimeoutError:
        return True
    except MeshError:
        return False
