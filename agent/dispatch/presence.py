"""Which backends can be sent a call now, and whether it is worth while to wait for one that cannot yet.

Asked by `agent.dispatch.dispatcher` where a call finds no replica, or has failed at those that it found. The one rule:
what was sent to a backend and failed goes there again only when that has been linked anew since, or when its connection
was cut off and the link, which has lived on, has had an answer since.
"""

import math
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from agent.dispatch.callable_link import CallableLink
from agent.dispatch.renewals import UNDER_WAY
from agent.routing.table import Replica, Route


class Tried(NamedTuple):
    """When a call was sent to a backend, and when its connection was cut off."""

    at_s: float
    cut_off_at_s: float = math.inf


class Presence:
    """See the module.

    `link` finds one by backend; `members`: the backends that have been called for what a route leads to, also those
    that it does not lead to now; `is_listed`: whether the route tables have what a backend offers.
    """

    def __init__(
        self,
        link: Callable[[str], CallableLink | None],
        members: Callable[[Route], Collection[str]],
        is_listed: Callable[[str], bool],
    ) -> None:
        self._link = link
        self._members = members
        self._is_listed = is_listed

    def __repr__(self) -> str:
        return "<Presence>"

    def takes_calls(self, route: Route, replica: Replica) -> bool:
        """Whether it can be sent a call now. A server of ours that was away is listed first."""
        link = self._link(replica.backend_key)
        if link is None or not (view := link.view).connected or view.unheard:
            return False
        return route.away_since_s is None or replica.hops > 0

    def is_back(self, replica: Replica, tried: Mapping[str, Tried]) -> bool:
        """Whether what failed there once may be sent there again."""
        sent, link = tried.get(replica.backend_key), self._link(replica.backend_key)
        if sent is None or link is None or (up_since_s := link.view.ready_at_s) is None:
            return False
        return up_since_s > sent.at_s or link.heard_at_s >= sent.cut_off_at_s

    def leads_on(self, route: Route, tried: Mapping[str, Tried]) -> bool:
        """Whether one of its replicas can be sent a call that was not sent to it yet, or may be again."""
        return any(
            self.takes_calls(route, replica) and (replica.backend_key not in tried or self.is_back(replica, tried))
            for replica in route.replicas
        )

    def is_awaited(self, route: Route, tried: Mapping[str, Tried]) -> bool:
        """Whether a dial is under way that may lead to it, or was a moment ago, or a link is asked whether it lives."""
        if not route.owner or self.linked_at_s(route) > -math.inf:
            return True
        for key in self._members(route):
            if (link := self._link(key)) is None:
                continue
            view = link.view
            if view.state in UNDER_WAY:
                return True
            if not view.connected:
                continue
            if view.unheard:
                return True
            if key in tried and link.heard_at_s < tried[key].cut_off_at_s < math.inf:
                return True
        return False

    def linked_at_s(self, route: Route) -> float:
        """When the last link to it was made that the route tables do not show yet; minus infinity where none was.

        A server of ours is connected before the next table has what it lists; one that cannot be listed is not.
        """
        hops = {replica.backend_key: replica.hops for replica in route.replicas}
        found = -math.inf
        for key in self._members(route):
            link = self._link(key)
            if link is None or not (view := link.view).connected or view.unheard:
                continue
            is_away_here = route.away_since_s is not None and hops.get(key) == 0
            is_unlisted = any(fault.method == "tools/list" for fault in view.offer.faults)
            if (is_away_here and not is_unlisted) or not self._is_listed(key):
                found = max(found, view.ready_at_s or 0.0)
        return found

    def unheard_since_s(self, route: Route) -> float | None:
        """Since when the one has not answered that is kept all the same; None where there is no such one."""
        links = [self._link(replica.backend_key) for replica in route.replicas]
        unheard = [link for link in links if link is not None and link.view.unheard]
        return max((max(link.heard_at_s, link.view.ready_at_s or 0.0) for link in unheard), default=None)

    def hurry(self, route: Route) -> None:
        """A call waits: dial what may lead to it."""
        for key in self._members(route):
            if (link := self._link(key)) is not None:
                link.called()
