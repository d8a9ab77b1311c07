"""The sessions of HTTP+SSE over one pool, and what they share.

Made by `agent.client.http.sse_connect` for `agent.client.http.sse_session`. The one rule: a request ID is used once
among them.
"""

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.client.pending import PendingRequests


class Siblings:
    """The sessions over one pool. IDs are unique among them, because some servers know one stream only.

    Those answer whatever is posted on the stream that was opened last; its session hands the answer on.
    """

    __slots__ = ("ids", "pending")

    def __init__(self) -> None:
        self.ids = itertools.count(1)
        self.pending: list[PendingRequests] = []
