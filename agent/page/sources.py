"""Where the page's feed looks: links, the servers behind them, this node, and what an operator may have to look at.

Called by the wiring with the parts of a node. The one rule: nothing here changes by itself as time goes on, so that the
feed can tell by comparing whether anything happened.
"""

from collections.abc import Callable, Sequence

from agent import __version__
from agent.call_history import CallHistory
from agent.config.servers_file import LeftOut
from agent.control.membership import MembershipView
from agent.control.operator import OverrideService
from agent.control.pinning import Pinning
from agent.control.reconciler import Mesh
from agent.dispatch.dispatcher import Dispatch
from agent.model import Json
from agent.page.feed import Sources
from agent.rest.descriptions import describe_notes, describe_unused_entry, names_behind
from discovery.model import is_listed


def sources_of(
    history: CallHistory,
    dispatch: Dispatch,
    orders: OverrideService,
    *,
    mesh: Mesh,
    membership: Callable[[], MembershipView],
    state: Callable[[], str],
    url: str,
    left_out: Callable[[], Sequence[LeftOut]],
    servers_fault: Callable[[], str],
    pinning: Pinning,
) -> Sources:
    """Those of a node; the parameters are as those of `agent.rest.status.NodeStatus`."""

    def node() -> Json:
        own, view = mesh.own, membership()
        return {
            "name": own.name,
            "node_id": own.node_id,
            "version": __version__,
            "state": state(),
            "url": url,
            "maintenance": mesh.maintenance.own,
            "tools": len(mesh.routes.listed_tools()),
            "discovery": {
                "mode": view.mode,
                "up": view.source.up,
                "registered": is_listed(view.source, view.registrar),
                "last_error": view.source.last_error or view.registrar.last_error,
            },
            "servers_file_fault": servers_fault() or None,
            "servers_left_out": [describe_unused_entry(entry) for entry in left_out()],
            "suppressed": sorted({one.name for one in orders.suppressions}),
            "departed": [
                {"name": one.name, "state": "failed" if one.failed else "left", "last_error": one.last_error}
                for one in mesh.departed()
            ],
        }

    def notes() -> Json:
        return describe_notes(mesh, pinning, membership())

    return Sources(mesh.views, _ServersBehind(mesh), node, notes, history, dispatch.groups, dispatch.in_flight)


class _ServersBehind:
    """The names of the servers behind each peer; made anew when the table of routes is another one."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._table: object = None
        self._found: dict[str, list[str]] = {}

    def __call__(self) -> dict[str, list[str]]:
        if self._table is not (table := self._mesh.routes):
            self._table, self._found = table, names_behind(table)
        return self._found
