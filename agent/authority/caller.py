"""The caller of the request that is being served: its grant, the rest of its allowance, the recorder of what it does.

Set by `agent.rest.security` for each request; read by the servers of both eras, which list and call in its name. Tasks
that a request starts inherit it. The one rule: it is set anew for every request, and nothing that serves several
callers reads it.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Protocol

from agent.authority.allowance import Allowance
from agent.authority.grant import ANYONE, Grant


class Recorder(Protocol):
    """Keeps the record of what callers do (`agent.audit`). Nothing here waits."""

    @property
    def records_calls(self) -> bool:
        """Whether calls are recorded."""
        ...

    def call(self, who: str, method: str, name: str, outcome: str) -> None:
        """A call has ended. `name`: of the tool, prompt or resource."""
        ...

    def refusal(self, who: str, what: str, why: str) -> None:
        """A request was refused because its caller may not make it."""
        ...


class Unrecorded:
    """The recorder where there is no record."""

    records_calls = False

    def call(self, who: str, method: str, name: str, outcome: str) -> None:
        """Nothing is kept."""

    def refusal(self, who: str, what: str, why: str) -> None:
        """Nothing is kept."""


UNRECORDED: Final = Unrecorded()


@dataclass(slots=True, eq=False)
class Caller:
    """See the module. `allowance`: None where the grant has no limits."""

    grant: Grant
    recorder: Recorder = UNRECORDED
    allowance: Allowance | None = None


# Before `agent.rest.security` has set one: nothing is served then.
_UNSET: Final = Caller(ANYONE)
_CALLER: Final[ContextVar[Caller]] = ContextVar("caller", default=_UNSET)
serve_for = _CALLER.set
caller = _CALLER.get
