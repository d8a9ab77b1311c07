"""What a route and the backend of a replica say of each request to it, worked out at its first one.

Used by `agent.dispatch.dispatcher` for each attempt. The one rule: what is remembered depends on nothing but the route,
the replica and the backend's specification, which never change: others of them are other objects.
"""

from dataclasses import dataclass
from typing import Final

from agent.dispatch.param_headers import ParamHeaders
from agent.dispatch.retry import is_repeatable
from agent.model import BackendSpec, ServerSpec
from agent.routing.table import Replica, Route
from agent.tasks.versions import task_support

# Tools that are called at the same time are a few. Those of tables that are gone stay until there are so many.
_REMEMBERED_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class KnownRoute:
    """`own_timeout_s`: of its server, else of this node; `is_repeatable`: as `agent.dispatch.retry` has it.

    `asks_more`: of some requests, that they are tasks, or headers that repeat arguments.
    """

    route: Route
    replica: Replica
    spec: BackendSpec
    own_timeout_s: float
    is_repeatable: bool
    asks_more: bool


class KnownRoutes:
    """See the module. `call_timeout_s`: the node's."""

    def __init__(self, call_timeout_s: float) -> None:
        self._call_timeout_s = call_timeout_s
        self.param_headers = ParamHeaders()
        # By the identities of what each holds, which are therefore not given to others.
        self._known: dict[tuple[str, int, int, int], KnownRoute] = {}

    def __repr__(self) -> str:
        return f"<KnownRoutes {len(self._known)}>"

    def of(self, method: str, route: Route, replica: Replica, spec: BackendSpec) -> KnownRoute:
        """What is known of the requests of this method."""
        key = method, id(route), id(replica), id(spec)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _REMEMBERED_MAX:
                self._known.clear()
            known = self._known[key] = KnownRoute(
                route,
                replica,
                spec,
                self.own_timeout_s(spec),
                is_repeatable(method, route, replica),
                method == "tools/call"
                and (task_support(route.definition) == "required" or self.param_headers.asks(route)),
            )
        return known

    def own_timeout_s(self, spec: BackendSpec | None) -> float:
        """How long a request to this backend may take, whatever its caller wants."""
        own = spec.call_timeout_s if isinstance(spec, ServerSpec) else None
        return self._call_timeout_s if own is None else own
