"""How a link stands, and what others may see of it: one frozen view, replaced whole at every change.

Owned by a link, which alone writes it. The one rule: whoever reads a view never meets half of a change, and whoever is
to hear of changes hears of each, but for those of a latency or of a waiting time.
"""

import asyncio
import logging
from dataclasses import replace

from agent.core.link_state import LinkEvent, LinkStanding, Lost, Opened, OpenFailed, advance
from agent.errors import MeshError
from agent.links.hello import Hello
from agent.links.link_hooks import LinkHooks
from agent.model import BackendSpec, LinkView, NodeIdentity, Offer, StdioTarget

log = logging.getLogger(__name__)


class LinkRecord:
    """See the module. `standing` is where it is in the table of states, `view` what others see."""

    __slots__ = ("_hooks", "standing", "view")

    def __init__(self, spec: BackendSpec, hooks: LinkHooks) -> None:
        self.standing = LinkStanding(is_child=isinstance(spec.target, StdioTarget))
        self.view = LinkView(spec)
        self._hooks = hooks

    def __repr__(self) -> str:
        return f"<LinkRecord {self.view.key} {self.view.state} {self.view.last_error!r}>"

    def advance(self, event: LinkEvent, **changes: object) -> None:
        """Move on in the table, and show that with whatever else changed in one step."""
        self.standing = advance(self.standing, event, now_s())
        self.show(state=self.standing.state, attempts=self.standing.attempts, **changes)

    def show(self, **changes: object) -> None:
        """Change fields of the view."""
        before, self.view = self.view, replace(self.view, **changes)  # type: ignore[arg-type]  # names are checked by replace itself
        if not changes.keys() <= {"latency_s", "next_attempt_at_s"} and before != self.view:
            self._hooks.changed()

    def ready(self, offer: Offer, hello: Hello, identity: NodeIdentity | None) -> None:
        """The first offer of a session has been read."""
        self.advance(
            Opened(),
            offer=offer,
            function_count=len(offer.tools),
            identity=identity,
            era=hello.era,
            has_tasks=hello.has_tasks,
            server_info=hello.server_info,
            last_error="",
            failure="",
            next_attempt_at_s=None,
            ready_at_s=now_s(),
        )
        self._hooks.dialled("ok")
        extra = {"backend": self.view.key, "tools": len(offer.tools), "era": hello.era.value}
        log.info("MCP link ready", extra=extra)

    def listed(self, offer: Offer) -> None:
        """Another offer has been read."""
        if offer.digest != self.view.offer.digest:
            log.info("MCP offer changed", extra={"backend": self.view.key, "tools": len(offer.tools)})
            self.show(offer=offer, function_count=len(offer.tools))

    def failed(self, failure: MeshError) -> None:
        """A dial failed, or a session ended."""
        was_up = self.view.ready_at_s is not None
        self.advance(
            Lost() if was_up else OpenFailed(retry_soon=retry_soon(failure)),
            last_error=str(failure),
            failure=type(failure).__name__,
            ready_at_s=None,
            reconnects=self.view.reconnects + was_up,
        )
        if was_up:
            self._hooks.reconnected(self.view.key)
        else:
            self._hooks.dialled(type(failure).__name__)
        level = logging.WARNING if self.standing.attempts <= 1 else logging.DEBUG
        log.log(level, "MCP link down", extra={"backend": self.view.key, "reason": str(failure)})

    def begin_anew(self) -> None:
        """A reload is no failure: it begins a new row of attempts, and a child that was about to be parked is not."""
        log.info("MCP link reloaded", extra={"backend": self.view.key})
        self.standing = LinkStanding(is_child=self.standing.is_child)
        self.show(state=self.standing.state, attempts=0, last_error="", failure="", ready_at_s=None)


def retry_soon(failure: BaseException | None) -> bool:
    """Whether another dial may help before somebody has done something."""
    return bool(getattr(failure, "retry_soon", True))


def now_s() -> float:
    """The event loop's clock."""
    return asyncio.get_running_loop().time()
