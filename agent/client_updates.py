"""All that clients of a node may be told unasked but changes of lists: of resources, and of tasks.

Made by the wiring, read by the endpoints, whose streams and sessions subscribe, and by links, which follow. The one
rule: both kinds are alike in everything but what `agent.subscriptions` leaves to them.
"""

from collections.abc import Callable
from dataclasses import dataclass

from agent.links.following import Watch
from agent.metrics import Metrics
from agent.resource_updates import ResourceUpdates
from agent.subscriptions import Counts, WatchingLink
from agent.task_updates import TaskUpdates


@dataclass(frozen=True, slots=True)
class ClientUpdates:
    """One of each for the whole node."""

    resources: ResourceUpdates
    tasks: TaskUpdates

    @classmethod
    def of_node(cls, node_id: str, link: Callable[[str], WatchingLink | None], metrics: Metrics) -> "ClientUpdates":
        """`node_id`: ours. `link`: by backend key."""
        return cls(
            ResourceUpdates(link, Counts(metrics.resources_followed, metrics.resource_told)),
            TaskUpdates(link, Counts(metrics.tasks_followed, metrics.task_told), own_node_id=node_id),
        )

    @property
    def watches(self) -> tuple[Watch, ...]:
        """What links follow."""
        return self.resources, self.tasks

    def routes_changed(self) -> None:
        """The route tables are others."""
        self.resources.routes_changed()
        self.tasks.routes_changed()
