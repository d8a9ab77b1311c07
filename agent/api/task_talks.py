"""What the requests of one session about its tasks have to know of each other.

Kept by `agent.api.legacy_session` once a task is asked about, read by `agent.api.session_tasks`. The one rule: what one
request has told the client, or has begun to ask it, no other contradicts or asks again.
"""

from dataclasses import dataclass, field
from typing import Final
from weakref import WeakValueDictionary

# Of one session; beyond it the oldest is told as its server tells it.
CANCELLED_MAX: Final = 256


@dataclass(slots=True, weakref_slot=True, eq=False)
class Talk:
    """What is put to the client about one task: whether that is being done, and the questions that were answered."""

    asking: bool = False
    answered: set[str] = field(default_factory=set)


class TaskTalks:
    """See the module. Sole writer: the requests of the session, in the event loop."""

    def __init__(self) -> None:
        self._cancelled: dict[str, None] = {}  # By ID, the oldest first.
        self._talks: WeakValueDictionary[str, Talk] = WeakValueDictionary()

    def __repr__(self) -> str:
        return f"<TaskTalks {len(self._talks)} open, {len(self._cancelled)} cancelled>"

    def about(self, task_id: str) -> Talk:
        """The one talk about a task, which lasts as long as somebody holds it."""
        talk = self._talks.get(task_id)
        if talk is None:
            talk = self._talks[task_id] = Talk()
        return talk

    def is_cancelled(self, task_id: str) -> bool:
        """Whether the client was told that its task is cancelled, whatever its server does with it."""
        return task_id in self._cancelled

    def note_cancelled(self, task_id: str) -> None:
        """The client is told so now."""
        self._cancelled[task_id] = None
        if len(self._cancelled) > CANCELLED_MAX:
            del self._cancelled[next(iter(self._cancelled))]
