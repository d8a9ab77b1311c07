"""The processes beside this one, as the wiring has them: none by default, and then nothing of them is imported.

Made by `agent.app.node`, filled by `agent.app.crew_of`. The one rule: the parts of a node know nothing of workers; what
these have to know is read from the parts there.
"""

import secrets
from typing import TYPE_CHECKING, Final

from agent.app.parts import Parts
from agent.config.load import Settings
from agent.dispatch.request_state import RequestStates
from agent.model import NodeIdentity
from agent.server.fast_path.serving import FastServer
from agent.state.identity import NodeState

if TYPE_CHECKING:
    from agent.workers.crew import Crew

_KEY_BYTES: Final = 32


class Workers:
    """See the module. `states`: for the dispatch of this process."""

    def __init__(self, settings: Settings, identity: NodeIdentity, state: NodeState) -> None:
        self._settings = settings
        self._identity = identity
        self._state = state
        key = secrets.token_bytes(_KEY_BYTES)
        self._state_key = key
        self.states: Final = RequestStates(key)
        self._crew: Crew | None = None

    def __repr__(self) -> str:
        return f"<Workers {self._crew!r}>"

    @property
    def crew(self) -> "Crew | None":
        """None where this process is the only one."""
        return self._crew

    def prepare(self, parts: Parts) -> None:
        """Join them with the parts of the node."""
        if self._settings.workers > 1:
            from agent.app.crew_of import crew_of  # noqa: PLC0415 - most nodes are one process

            self._crew = crew_of(self._settings, self._identity, self._state.key.seed, self._state_key, parts)

    async def run(self, server: FastServer) -> None:
        """Keep them in front of the server of this node's port, until cancelled."""
        if self._crew is not None:
            await self._crew.run(server)

    def nudge(self) -> None:
        """What they have to know has changed."""
        if self._crew is not None:
            self._crew.nudge()

    def leave(self) -> None:
        """The node stops."""
        if self._crew is not None:
            self._crew.leave()

    async def finished(self) -> None:
        """Wait until none is left, after `leave`."""
        if self._crew is not None:
            await self._crew.finished()

    def cut_off(self) -> None:
        """End what is under way in them."""
        if self._crew is not None:
            self._crew.cut_off()
