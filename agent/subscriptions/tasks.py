"""Subscriptions to tasks: public IDs for clients, the servers' own for links.

One for the node: the endpoints subscribe, links follow. A server's notification carries what `tasks/get` would answer,
and is passed on with names as clients know them. The one rule: a task that has ended stays ended, and a subscriber that
may have missed an update gets the task's present state.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import orjson

from agent.client.streams import TASKS
from agent.errors import RpcError
from agent.lossless_json.exact import is_deeper_than
from agent.model import Json
from agent.routing.table import Route
from agent.rpc_codes import INVALID_PARAMS
from agent.subscriptions.registry import (
    Counts,
    Subscription,
    SubscriptionRegistry,
    Tables,
    Upstream,
    WatchingLink,
)
from agent.tasks.ids import ENDED, TASK_ID_BYTES_MAX, TaskIdRefused, task_route

log = logging.getLogger(__name__)

# A notification is written anew, and once more within its frame; results pass deeper than that.
NESTING_MAX: Final = 240
# Added by the stream that brought it, not by the task's server.
_SUBSCRIPTION_ID_META_KEY: Final = "io.modelcontextprotocol/subscriptionId"


@dataclass(frozen=True, slots=True)
class TaskNews:
    """A task by its public ID, and as JSON the params of `notifications/tasks`."""

    task_id: str
    params: bytes


class TaskUpdates(SubscriptionRegistry[TaskNews]):
    """Subscriptions to tasks. `own_node_id`: marks the IDs of our own servers' tasks."""

    subject = TASKS
    name_len_max = TASK_ID_BYTES_MAX

    def __init__(self, link: Callable[[str], WatchingLink | None], counts: Counts, *, own_node_id: str) -> None:
        super().__init__(link, counts)
        self._own_node_id = own_node_id

    def route(self, tables: Tables, name: str) -> Route | None:
        """As `SubscriptionRegistry.route`: the backend that keeps the task."""
        try:
            return task_route("tasks/get", name, tables(), self._own_node_id)
        except TaskIdRefused:
            return None

    def refusal_without_backend(self, name: str) -> RpcError:
        """As `SubscriptionRegistry.refusal_without_backend`."""
        return RpcError(INVALID_PARAMS, f"Unknown task, or one that no server reports on: {name[:128]!r}")

    def may_have_missed(self, subscription: Subscription[TaskNews], upstream: Upstream[TaskNews]) -> None:  # noqa: ARG002 - the others do no harm
        """As `SubscriptionRegistry.may_have_missed`: the link has to read the task's present state."""
        upstream.owed = True
        self._changed.add(upstream.backend_key)

    def updated(self, backend_key: str, name: str, params: Json) -> None:
        """A backend's notification of a task's present state."""
        upstream = self._upstream(backend_key, name)
        # Two streams overlap while a set of tasks changes, and an answer may overtake them both.
        if upstream is None or (upstream.over and params.get("status") not in ENDED):
            return
        upstream.over, upstream.owed = params.get("status") in ENDED, False
        if is_deeper_than(params, NESTING_MAX):
            log.warning("MCP task update cannot be passed on, clients can only poll it", extra={"backend": backend_key})
            return
        for subscription in tuple(upstream.subscriptions):
            if (news := self._news(subscription, upstream, params)) is not None:
                self._tell(subscription, news)

    def _news(
        self, subscription: Subscription[TaskNews], upstream: Upstream[TaskNews], params: Json
    ) -> TaskNews | None:
        """The notification as this endpoint's clients know it; None when no route leads there any more."""
        route = self.route(subscription.tables, subscription.name)
        replica = (
            next((one for one in route.replicas if one.backend_key == upstream.backend_key), None) if route else None
        )
        if route is None or replica is None:
            return None
        task = {member: value for member, value in params.items() if member not in ("resultType", "_meta")}
        meta = params.get("_meta")
        if isinstance(meta, dict) and (kept := {k: v for k, v in meta.items() if k != _SUBSCRIPTION_ID_META_KEY}):
            task["_meta"] = kept
        task = route.uris(replica).result("tasks/get", task)
        return TaskNews(subscription.name, orjson.dumps({**task, "taskId": subscription.name}))
