"""The sessions that servers keep for single clients of ours: their notices there reach the client, on its GET stream.

Called by `agent.server.sessions.requests` after each call, and for subscriptions to resources, which are made in such a
session too. The one rule: nothing is followed for a client that has no session of its own at any server, and no call
waits for what is.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, TypeAlias

import orjson

from agent import clock
from agent.client.affinity import affinity_key
from agent.client.jsonrpc import LIST_CHANGES
from agent.client.protocol import Request
from agent.client.sessions.dedicated import ELICITED, SESSION_ENDED
from agent.dispatch.callable_link import CallableLink
from agent.dispatch.client_events import CalledBackend, UpstreamEvents
from agent.errors import MeshError, RpcError
from agent.links.session_offers import ANY_OWN_LISTS, OWN_LISTS, SessionOffers
from agent.lossless_json.exact import read_json
from agent.mcp_terms import CLIENT_CAPABILITIES_META_KEY
from agent.model import AFFINITY_META_KEY, CLIENT_METHOD, SUBSCRIBED_THERE, ClientEvent, Json
from agent.routing.table import ContributionKind, Route, RouteTable
from agent.server.sessions.session import ServerSession
from agent.server.sessions.tasks import status_note
from agent.server.task_seal import TaskSeal
from agent.subscriptions.registry import SETTLE_TIMEOUT_S, Subscriber
from agent.subscriptions.resources import ClientUpdates
from agent.subscriptions.sessions import SessionNews, session_name
from agent.subscriptions.tasks import TaskNews
from agent.tasks.ids import ENDED
from agent.tasks.versions import as_legacy

# Of one client: servers that have a session for it.
FOLLOWED_MAX: Final = 64
# The first list of an adopted session waits so long for what other nodes know of its client.
RECALL_TIMEOUT_S: Final = 2.0
# After a restart thousands of sessions are adopted at once, and most nodes have nothing for single clients.
NOTHING_FOR_S: Final = 10.0

StartTask: TypeAlias = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]


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
        self._routes = routes
        self._nothing_until_s: dict[str, float] = {}  # By node; as many as there have been peers.
        self._link = link
        self._events = events
        self._begin = start_task

    def __repr__(self) -> str:
        return f"<UpstreamSessions {self._offers!r}>"

    @staticmethod
    def client_of(session: ServerSession) -> str:
        """The affinity that stands for a client's session everywhere."""
        key = affinity_key({}, session.id)
        assert key is not None, "a session has one"
        return key

    def _start_task(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None] | None:
        try:
            return self._begin(work, name)
        except RuntimeError:
            work.close()  # The node is stopping, and begins nothing any more.
            return None

    def follow(self, session: ServerSession, target: CalledBackend) -> None:
        """Follow what the server of `target` tells in its session with this client, if there is one."""
        if not self._offers:
            return
        if self._offers.has_session(target.backend, affinity := self.client_of(session)):
            self._follow(session, target, affinity)

    def _follow(self, session: ServerSession, target: CalledBackend, affinity: str) -> None:
        link = self._link(target.backend)
        if link is None:
            return
        name = session_name(target.backend, target.server, affinity, is_node=link.view.identity is not None)
        if session.upstream is None:
            session.upstream = self.of_sessions(partial(self._told, session, affinity))
        if name not in session.upstream.names and len(session.upstream.names) < FOLLOWED_MAX:
            self._start_task(_followed(session.upstream, name), "follow a session with a server")

    async def recall(self, session: ServerSession) -> bool:
        """Ask other nodes what the client of an adopted session gained at their servers; whether it is anything.

        Once for each such session, and a node that has nothing of the kind for anyone once in `NOTHING_FOR_S`.
        """
        turn = session.adopted
        if turn is None:
            return False
        async with turn:
            if session.adopted is not None:
                affinity, now_s = self.client_of(session), clock.now_s()
                parts = self._routes().parts.items()
                peers = [key for key, part in parts if part.source.kind is ContributionKind.MESH_PEER]
                async with asyncio.TaskGroup() as group:
                    for key in peers:
                        if self._nothing_until_s.get(key, 0.0) <= now_s:
                            group.create_task(self._recall_at(key, affinity), name=f"what {key} has for a client")
                session.adopted = None
            return bool(self._offers.of(self.client_of(session)))

    async def _recall_at(self, key: str, affinity: str) -> None:
        link = self._link(key)
        if link is None:
            return
        asked: Json = {"event": ClientEvent.LISTS.value, "_meta": {AFFINITY_META_KEY: affinity}}
        try:
            answer = await link.request(Request.within(CLIENT_METHOD, asked, timeout_s=RECALL_TIMEOUT_S))
        except MeshError:
            return
        if answer.get(ANY_OWN_LISTS) is False:
            self._nothing_until_s[key] = clock.now_s() + NOTHING_FOR_S
        if answer.get(OWN_LISTS) is not True:
            return
        self._offers.opened(key, affinity)
        await link.read_as_caller(affinity)

    def follow_task(self, session: ServerSession, task_id: str) -> None:
        """Notify the client of how a task of its session stands, until that has ended."""
        if session.tasks is None:
            session.tasks = self.of_tasks(partial(self._task_changed, session))
        if len(session.tasks.names) < FOLLOWED_MAX:
            self._start_task(_followed(session.tasks, self._seal.opened(task_id)), "follow a task")

    def _task_changed(self, session: ServerSession, news: TaskNews) -> None:
        shown = self._seal.shown_in(session.grant.realm, news.task_id)
        task = {**read_json(news.params), "taskId": shown}
        session.task_talks.seen(as_legacy(task))
        if not session.task_talks.is_cancelled(shown):
            session.tell(status_note(task))
        if task.get("status") in ENDED and session.tasks is not None:
            session.tasks.remove([news.task_id])

    async def subscribe(self, session: ServerSession, route: Route | None, uri: str) -> None:
        """Subscribe to a resource where servers keep a session for this client; waits for that as `Subscriber.add`."""
        told = self._tell_servers(session, route, uri, ClientEvent.SUBSCRIBED)
        if told:
            await asyncio.wait(told, timeout=SETTLE_TIMEOUT_S)

    def unsubscribe(self, session: ServerSession, route: Route | None, uri: str) -> None:
        """Undo that, some time."""
        self._tell_servers(session, route, uri, ClientEvent.UNSUBSCRIBED)

    def _tell_servers(
        self, session: ServerSession, route: Route | None, uri: str, event: ClientEvent
    ) -> list[asyncio.Task[None]]:
        told: list[asyncio.Task[None] | None] = []
        for replica in () if route is None else route.replicas:
            if route is not None and self._link(replica.backend_key) is not None:
                target = CalledBackend(replica.backend_key, route.owner)
                work = self._tell_of(session, target, replica.remote_name, uri, event)
                told.append(self._start_task(work, f"tell that a client {event} {uri[:64]}"))
        return [task for task in told if task is not None]

    async def _tell_of(
        self, session: ServerSession, target: CalledBackend, remote_uri: str, uri: str, event: ClientEvent
    ) -> None:
        params: Json = {"uri": remote_uri, "_meta": {CLIENT_CAPABILITIES_META_KEY: session.declared_to_servers}}
        affinity = self.client_of(session)
        try:
            answer = await self._events.tell(target, affinity, event, params)
        except MeshError:
            return  # The subscription that all callers share is there all the same.
        if answer.get(SUBSCRIBED_THERE) is True and session.subscriber is not None:
            session.subscriber.told_in_own_session(uri, target.backend)
            self._follow(session, target, affinity)  # The server's end of that session comes there.

    def _told(self, session: ServerSession, affinity: str, news: SessionNews) -> None:
        backend = news.name.partition(" ")[0]
        if news.method == SESSION_ENDED and session.subscriber is not None:
            session.subscriber.own_session_ended(backend)
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
