"""Results of calls that a client of 2025-11-25 made as tasks and that were answered at once: kept until it asks.

In that era the client decides what is a task, in 2026-07-28 the server does; so an answer may be there where the client
has to be given a task. Used by `agent.api.legacy_requests`, one for an endpoint. The one rule: a result belongs to the
session that it was got in, for ten minutes at most, and to nobody else.
"""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from agent.model import Json

HELD_S: Final = 600.0
# Of one session: whoever lets more lie does not want them.
OF_SESSION_MAX: Final = 32
# Of one endpoint. One result has at most as much.
BYTES_MAX: Final = 64 << 20
_POLL_MS: Final = 100


@dataclass(frozen=True, slots=True)
class HeldResult:
    """A task of 2025-11-25 that has ended, and its result as JSON."""

    task: Json
    result: bytes
    session_id: str
    until_s: float


class HeldResults:
    """Sole writer: the event loop, through the methods. Times are loop time."""

    def __init__(self) -> None:
        self._held: dict[str, HeldResult] = {}  # By task ID, the oldest first.
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<HeldResults {len(self._held)} of {self._bytes} bytes>"

    @staticmethod
    def new_id() -> str:
        """A task ID that no node gives to a task of a server, and that nobody guesses."""
        return f"mesh1/held/{secrets.token_urlsafe(24)}"

    def keep(self, task_id: str, result: bytes, session_id: str, now_s: float, *, failed: bool) -> Json:
        """Keep a result; returns the task as its client is to see it first."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        task: Json = {"taskId": task_id, "createdAt": at, "lastUpdatedAt": at}
        task |= {"ttl": int(HELD_S * 1000), "pollInterval": _POLL_MS}
        of_session = [known for known, one in self._held.items() if one.session_id == session_id]
        for known in of_session[: max(0, len(of_session) + 1 - OF_SESSION_MAX)]:
            self._drop(known)
        self._held[task_id] = HeldResult(
            {**task, "status": "failed" if failed else "completed"}, result, session_id, now_s + HELD_S
        )
        self._bytes += len(result)
        for known, one in tuple(self._held.items()):
            if one.until_s > now_s and self._bytes <= BYTES_MAX:
                break
            self._drop(known)
        return {**task, "status": "working"}  # Every task begins so (MCP 2025-11-25, tasks).

    def find(self, task_id: str, session_id: str, now_s: float) -> HeldResult | None:
        """The result of this session's task, if it is still here."""
        held = self._held.get(task_id)
        return held if held is not None and held.session_id == session_id and held.until_s > now_s else None

    def _drop(self, task_id: str) -> None:
        self._bytes -= len(self._held.pop(task_id).result)
