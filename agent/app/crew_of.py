"""The crew of a node: the processes beside its own, joined with its parts.

Called by `agent.app.workers` where `MESH_WORKERS` is more than 1. The one rule: what workers have to know is read from
the parts, which know nothing of them.
"""

import os
from functools import partial
from typing import Final

from agent.app.listener_tls import outbound_of
from agent.app.parts import Parts
from agent.client.capabilities import declared_features
from agent.config.load import Settings
from agent.links.probe import NoSignOfLife
from agent.logs import kept_lines
from agent.model import LinkView, NodeIdentity
from agent.server.sessions.sealed_id import is_sealed
from agent.server.sessions.session import ServerSession
from agent.server.sessions.table import BY_CLIENT, REVOKED
from agent.workers.crew import Crew
from agent.workers.gate import Gate
from agent.workers.picture import Picture, Setup, link_shown
from agent.workers.recovered import lost_attempt

# Asks nothing of a client.
_HARMLESS: Final = "extensions"


def crew_of(settings: Settings, own: NodeIdentity, key_seed: bytes, state_key: bytes, parts: Parts) -> Crew:
    """The crew, which begins with its `run`. `key_seed`, `state_key`: see `agent.workers.picture.Setup`."""
    sessions = parts.endpoint.sessions
    crew = Crew(
        settings.workers,
        _setup(settings, own, key_seed, state_key, parts.policy.host_names),
        Gate(parts.policy),
        look=_Look(parts),
        routes=lambda: parts.mesh.routes.tools,
        metrics=parts.metrics,
        used=sessions.used,
        keep_lines=kept_lines().add_all,
    )
    sessions.watch = _Watch(crew)
    parts.dispatch.lost = lost_attempt
    return crew


class _Look:
    """Makes the picture of now."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        # Of each server's link: since when it is up, what it listed first, and whether that has changed.
        self._first: dict[str, tuple[float | None, str, bool]] = {}

    def __call__(self) -> Picture:
        parts = self._parts
        known = parts.mesh.views()
        views = [view for view in known if view.connected]
        self._first = {view.key: self._compared(view) for view in views if view.identity is None}
        changing = frozenset(key for key, (_, _, has_changed) in self._first.items() if has_changed)
        drained, far = parts.dispatch.apart
        links = {view.key: link_shown(view) for view in views if not view.unheard}
        silent = frozenset(view.key for view in known if _is_silent(view))
        return Picture(*parts.access.valid, parts.associations.valid_secrets(), links, drained, far, changing, silent)

    def _compared(self, view: LinkView) -> tuple[float | None, str, bool]:
        since_s, first, has_changed = self._first.get(view.key, (None, "", False))
        now = view.offer.digest
        if since_s != view.ready_at_s or not first:
            return view.ready_at_s, now, False
        return since_s, first, has_changed or now != first


def _is_silent(view: LinkView) -> bool:
    """Whether its calls under way will not be answered."""
    return view.unheard or (not view.connected and view.failure == NoSignOfLife.__name__)


def _setup(
    settings: Settings, own: NodeIdentity, key_seed: bytes, state_key: bytes, host_names: frozenset[str]
) -> Setup:
    consul_token = settings.consul.token
    return Setup(
        own=own,
        key_seed=key_seed,
        state_key=state_key,
        call_timeout_s=settings.call_timeout_s,
        weight=settings.weight,
        service_name=settings.service_name,
        list_page_size=settings.list_page_size,
        notices=settings.notices,
        errors=settings.errors,
        log_level=settings.log_level,
        log_format=settings.log_format,
        log_secrets=(*settings.tokens, *settings.peer_tokens, *((consul_token,) if consul_token else ())),
        host_names=host_names,
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
