"""The parts of a node that the processes beside it are joined with.

Made by `agent.app.node`, read by `agent.app.crew_of`. The one rule: they are looked at, and know nothing of it.
"""

from dataclasses import dataclass

from agent.app.access import Access
from agent.control.reconciler import Mesh
from agent.dispatch.dispatcher import Dispatch
from agent.identity.keeper import AssociationKeeper
from agent.metrics import Metrics
from agent.rest.security import EdgePolicy
from agent.server.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Parts:
    """See the module. `endpoint`: that of clients; `policy`: of the edge."""

    policy: EdgePolicy
    endpoint: Endpoint
    mesh: Mesh
    dispatch: Dispatch
    metrics: Metrics
    access: Access
    associations: AssociationKeeper
