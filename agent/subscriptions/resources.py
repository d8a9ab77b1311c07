"""Subscriptions to resources: public URIs for clients, the backends' own for links; and all registries of a node.

One for the node: the endpoints subscribe, links follow. The one rule: an update of a resource below a followed URI goes
to that URI's subscribers, under its own public URI; updates that may have been missed count as one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from agent.client.streams import RESOURCES
from agent.errors import RpcError
from agent.links.follower import Watch
from agent.metrics import Metrics
from agent.model import AFFINITY_META_KEY, Json
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
from agent.subscriptions.sessions import SessionUpdates
from agent.subscriptions.tasks import TaskUpdates

URI_LEN_MAX: Final = 2_048
# An update of a resource deeper below a followed one is not recognised; each level costs a look-up.
PARENTS_MAX: Final = 32
# What may follow a URI when another one is below it.
_SEPARATORS: Final = "/?#"


class ResourceNews(NamedTuple):
    """A change of the resource with this public URI. `client`: as in `Subscriber.hears`."""

    uri: str
    client: str | None = None


class ResourceUpdates(SubscriptionRegistry[ResourceNews]):
    """Subscriptions to resources."""

    subject = RESOURCES
    name_len_max = URI_LEN_MAX

    def route(self, tables: Tables, name: str) -> Route | None:
        """As `SubscriptionRegistry.route`: the one that a read of the URI takes."""
        return tables().resolve_uri(name)

    def refusal_without_backend(self, name: str) -> RpcError:
        """As `SubscriptionRegistry.refusal_without_backend`."""
        return RpcError(INVALID_PARAMS, f"Unknown resource, or one without updates: {name!r}", {"uri": name})

    def may_have_missed(self, subscription: Subscription[ResourceNews], upstream: Upstream[ResourceNews]) -> None:  # noqa: ARG002 - an update says no more
        """As `SubscriptionRegistry.may_have_missed`: one update."""
        self._tell(subscription, ResourceNews(subscription.name))

    def updated(self, backend_key: str, name: str, params: Json) -> None:
        """A backend's resource has changed; one whose URI is too long counts as the followed one above it.

        What it told in the session of one client is for that client alone: it tells each in that one's own.
        """
        meta = params.get("_meta")
        told = meta.get(AFFINITY_META_KEY) if isinstance(meta, dict) else None
        client = told if isinstance(told, str) else None
        for followed in with_parents(name):
            if (upstream := self._upstream(backend_key, followed)) is not None:
                # News waits for clients that do not read: it has to be bounded in number and length.
                below = name[len(followed) :] if len(name) <= URI_LEN_MAX else ""
                for subscription in tuple(upstream.subscriptions):
                    news = ResourceNews(subscription.name + below, client)
                    for subscriber in tuple(subscription.subscribers):
                        if subscriber.hears(subscription.name, backend_key, client):
                            self._tell_one(subscriber, news)


def with_parents(uri: str) -> Iterator[str]:
    """The URI itself and those above it, with and without the separator in between."""
    yield uri
    places = [place for place, letter in enumerate(uri[:URI_LEN_MAX]) if letter in _SEPARATORS]
    for place in places[-PARENTS_MAX:]:
        if place + 1 < len(uri):
            yield uri[: place + 1]
        yield uri[:place]


@dataclass(frozen=True, slots=True)
class ClientUpdates:
    """The registries of the whole node."""

    resources: ResourceUpdates
    tasks: TaskUpdates
    sessions: SessionUpdates

    @classmethod
    def of_node(cls, node_id: str, link: Callable[[str], WatchingLink | None], metrics: Metrics) -> "ClientUpdates":
        """`node_id`: ours. `link`: by backend key."""
        return cls(
            ResourceUpdates(link, Counts(metrics.resources_followed, metrics.resource_told)),
            TaskUpdates(link, Counts(metrics.tasks_followed, metrics.task_told), own_node_id=node_id),
            SessionUpdates(link, Counts(lambda _number: None, lambda: None)),
        )

    @property
    def watches(self) -> tuple[Watch, ...]:
        """The registries that links follow."""
        return self.resources, self.tasks, self.sessions

    def routes_changed(self) -> None:
        """There are new route tables."""
        self.resources.routes_changed()
        self.tasks.routes_changed()
        self.sessions.routes_changed()
