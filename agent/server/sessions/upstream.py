"""The sessions that servers keep for single clients of ours: their notices there reach the client, on its GET stream.

Called by `agent.server.sessions.requests` after each call, and for subscriptions to resources. The one rule: nothing is
followed for a client that has no session of its own at any server, and no call waits for what is.
"""

import contextlib
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, TypeAlias

import orjson

from agent.client.affinity import affinity_key
from agent.client.jsonrpc import LIST_CHANGES
from agent.client.sessions.pool import ELICITED, SESSION_ENDED
from agent.dispatch.client_events import Place, UpstreamEvents
from agent.dispatch.dispatcher import CallableLink
from agent.errors import MeshError, RpcError
from agent.links.session_offers import SessionOffers
from agent.lossless_json.exact import read_json
from agent.mcp_terms import CLIENT_CAPABILITIES_META_KEY
from agent.model import ClientEvent, Json
from agent.routing.table import Route, RouteTable
from agent.server.sessions.session import ServerSession
from agent.server.sessions.tasks import status_note
from agent.server.task_seal import TaskSeal
from agent.subscriptions.registry import Subscriber
from agent.subscriptions.resources import ClientUpdates
from agent.subscriptions.sessions import SessionNews, session_name
from agent.subscriptions.tasks import TaskNews
from agent.tasks.ids import ENDED
from agent.tasks.versions import as_before

# Of one client: servers that have a session for it.
FOLLOWED_MAX: Final = 64

StartTask: TypeAlias = Callable[[Coroutine[Any, Any, None], str], object]


class UpstreamSessions:
    """See the module. `link`: by backend key. `start_task`: for work that no call waits for."""

    def __init__(
        self,
        offers: SessionOffers,
        link: Callable[[str], CallableLink | None],
        updates: ClientUpdates,
        routes: Callable[[], RouteTable],
        events: UpstreamEvents,
        *,
        start_task: StartTask,
        seal: TaskSeal,
    ) -> None:
        """`of_sessions` and `of_tasks` make subscribers to what `updates` has, by the names of the table `routes`.

        `seal`: on the IDs of tasks that clients get.
        """
        self._seal = seal
        self.of_sessions = partial(updates.sessions.subscriber, routes)
        self.of_tasks = partial(updates.tasks.subscriber, routes)
        self._offers = offers
        self._link = link
        self._events = events
        self._start_task = start_task

    def __repr__(self) -> str:
        return f"<UpstreamSessions {self._offers!r}>"

    def follow(self, session: ServerSession, place: Place) -> None:
        """Follow what the server of `place` tells in its session with this client, if there is one."""
        if not self._offers:
            return
        affinity, link = _affinity(session), self._link(place.backend)
        if link is None or not self._offers.has_session(place.backend, affinity):
            return
        name = session_name(place.backend, place.server, affinity, is_node=link.view.identity is not None)
        if session.upstream is None:
            session.upstream = self.of_sessions(partial(self._told, session, affinity))
        if name not in session.upstream.names and len(session.upstream.names) < FOLLOWED_MAX:
            self._start_task(_followed(session.upstream, name), "follow a session with a server")

    def follow_task(self, session: ServerSession, task_id: str) -> None:
        """Notify the client of how a task of its session stands, until that has ended."""
        if session.tasks is None:
            session.tasks = self.of_tasks(partial(self._task_changed, session))
        if len(session.tasks.names) < FOLLOWED_MAX:
            self._start_task(_followed(session.tasks, self._seal.opened(task_id)), "follow a task")

    def _task_changed(self, session: ServerSession, news: TaskNews) -> None:
        shown = self._seal.shown_in(session.grant.realm, news.task_id)
        task = {**read_json(news.params), "taskId": shown}
        session.task_talks.seen(as_before(task))
        if not session.task_talks.is_cancelled(shown):
            session.tell(status_note(task))
        if task.get("status") in ENDED and session.tasks is not None:
            session.tasks.remove([news.task_id])

    def subscribed(self, session: ServerSession, route: Route | None, uri: str) -> None:
        """Let servers that keep a session for this client know there that it subscribes to a resource."""
        for replica in () if route is None else route.replicas:
            link = self._link(replica.backend_key)
            if link is not None and route is not None:
                place = Place(replica.backend_key, route.owner)
                self._start_task(self._tell_of(session, place, replica.remote_name), f"subscribe to {uri[:64]}")

    async def _tell_of(self, session: ServerSession, place: Place, uri: str) -> None:
        params: Json = {"uri": uri, "_meta": {CLIENT_CAPABILITIES_META_KEY: session.declared_to_servers}}
        try:
            await self._events.tell(place, _affinity(session), ClientEvent.SUBSCRIBED, params)
        except MeshError:
            return  # The subscription that all callers share is there all the same.
        self.follow(session, place)

    def _told(self, session: ServerSession, affinity: str, news: SessionNews) -> None:
        backend = news.name.partition(" ")[0]
        if news.method == ELICITED:
            session.tell(orjson.dumps({"jsonrpc": "2.0", "method": ELICITED, "params": news.params}))
        elif news.method in LIST_CHANGES:
            self._offers.used(backend, affinity)
            self._tell_of_list(session, news.method)
        elif news.method == SESSION_ENDED and self._offers.of(affinity):
            self._offers.closed(backend, affinity)
            for method in LIST_CHANGES:
                self._tell_of_list(session, method)

    def _tell_of_list(self, session: ServerSession, method: str) -> None:
        if session.notices:
            session.tell(orjson.dumps({"jsonrpc": "2.0", "method": method}))


async def _followed(subscriber: Subscriber[Any], name: str) -> None:
    with contextlib.suppress(RpcError):  # Too many; such notices are a courtesy.
        await subscriber.add([name])


def _affinity(session: ServerSession) -> str:
    key = affinity_key({}, session.id)
    assert key is not None, "a session has one"
    return key
