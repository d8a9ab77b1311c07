"""A task group for what mostly has no task: as `asyncio.TaskGroup`, without 150 bytes for the tasks that there are not.

Used where a link holds a group for hours and begins a task in it now and then. The one rule: it behaves as the standard
one does; only what its tasks are kept in differs, and that a failure leaves no circle for the garbage collector.
"""

import asyncio
from typing import Any


class SmallTaskGroup(asyncio.TaskGroup):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self._tasks: Any = _Tasks()  # Added to, discarded from and walked through, which it can do as a set does.

    @property
    def tasks(self) -> tuple[asyncio.Task[Any], ...]:
        """Those that have not ended."""
        return tuple(self._tasks)

    async def __aexit__(self, *exc_info: Any) -> None:  # noqa: PYI036 - as typeshed has it for the standard one
        """As the standard one; what it raises is not held by the frames that its traceback has, as theirs is."""
        try:
            await super().__aexit__(*exc_info)
        except BaseException as failure:
            failure.__traceback__ = None
            raise
        finally:
            del exc_info


class _Tasks(dict[asyncio.Task[Any], None]):
    """A set of tasks in their order; empty it takes a third of one."""

    __slots__ = ()

    def add(self, task: asyncio.Task[Any]) -> None:
        """As `set.add`."""
        self[task] = None

    def discard(self, task: asyncio.Task[Any]) -> None:
        """As `set.discard`."""
        self.pop(task, None)
        if not self:
            self.clear()  # Else it keeps the room for those that it had.
