"""The processes beside this one, joined with the parts of a node: what they have to know, what they count, their end.

Made by the wiring where `MESH_WORKERS` is more than 1. The one rule: the parts of a node know nothing of workers; what
these have to know is read from the parts here.
"""

import os
import secrets
from dataclasses import dataclass
from functools import partial
from typing import Final

from agent.app.access import Access
from agent.app.listener_tls import outbound_of
from agent.client.capabilities import declared_features
from agent.config.load import Settings
from agent.control.reconciler import Mesh
from agent.dispatch.dispatcher import Dispatch
from agent.dispatch.request_state import RequestStates
from agent.identity.keeper import AssociationKeeper
from agent.logs import kept_lines
from agent.metrics import Metrics
from agent.model import NodeIdentity
from agent.rest.security import EdgePolicy
from agent.server.endpoint import Endpoint
from agent.server.fast_path.serving import FastServer
from agent.server.sessions.sealed_id import is_sealed
from agent.server.sessions.session import ServerSession
from agent.server.sessions.table import BY_CLIENT, REVOKED
from agent.state.identity import NodeState
from agent.workers.crew import Crew
from agent.workers.gate import Gate
from agent.workers.picture import Picture, Setup, link_shown

_KEY_BYTES: Final = 32
# Asks nothing of a client.
_HARMLESS: Final = "extensions"


@dataclass(frozen=True, slots=True)
class Joined:
    """The parts of a node that workers are joined with."""

    mesh: Mesh
    dispatch: Dispatch
    metrics: Metrics
    access: Access
    associations: AssociationKeeper

    def picture(self) -> Picture:
        """What workers have to know of them now."""
        drained, far = self.dispatch.apart
        links = {view.key: link_shown(view) for view in self.mesh.views() if view.connected}
        return Picture(*self.access.valid, self.associations.valid_secrets(), links, drained, far)


class Workers:
    """See the module. `states`: for the dispatch of this process; `start` is called with the server of its port."""

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
    def crew(self) -> Crew | None:
        """None where this process is the only one."""
        return self._crew

    def prepare(self, policy: EdgePolicy, endpoint: Endpoint, joined: Joined) -> None:
        """Join them with the parts of the node. `endpoint`: that of clients."""
        if self._settings.workers == 1:
            return

        crew = self._crew = Crew(
            self._settings.workers,
            self._setup(policy),
            Gate(policy),
            look=joined.picture,
            routes=lambda: joined.mesh.routes.tools,
            metrics=joined.metrics,
            used=endpoint.sessions.used,
            keep_line=kept_lines().add,
        )
        endpoint.sessions.watch = _Watch(crew)

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

    def _setup(self, policy: EdgePolicy) -> Setup:
        settings = self._settings
        consul_token = settings.consul.token
        return Setup(
            own=self._identity,
            key_seed=self._state.key.seed,
            state_key=self._state_key,
            call_timeout_s=settings.call_timeout_s,
            weight=settings.weight,
            service_name=settings.service_name,
            name_len_max=settings.name_len_max,
            list_page_size=settings.list_page_size,
            notices=settings.notices,
            errors=settings.errors,
            log_level=settings.log_level,
            log_format=settings.log_format,
            log_secrets=(*settings.tokens, *settings.peer_tokens, *((consul_token,) if consul_token else ())),
            host_names=policy.host_names,
            is_closed=settings.tokens_file is not None,
            traces_url=settings.traces_url,
            dial_allow=settings.dial_allow,
            dial_deny=settings.dial_deny,
            outbound=outbound_of(settings, os.environ),
        )


class _Watch:
    """Says which sessions workers may serve: those whose ID says all, and whose client cannot be asked anything."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew

    def begun(self, session: ServerSession) -> None:
        """As `agent.server.sessions.table.SessionWatch`."""
        crew, session_id = self._crew, session.id
        if not is_sealed(session_id) or declared_features(session.capabilities).keys() - {_HARMLESS}:
            return
        session.elsewhere = partial(crew.cancel, session_id)
        session.leveled = partial(crew.session_over, session_id, ended=False)
        crew.session_begun(session_id)

    def over(self, session: ServerSession, why: str) -> None:
        """As `agent.server.sessions.table.SessionWatch`."""
        self._crew.session_over(session.id, ended=why in (BY_CLIENT, REVOKED))
