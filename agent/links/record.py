"""What a link shows of itself, and who hears of it: its standing in the table of states, its view, and the log.

Held by `agent.links.link`, whose task is the only writer; all others read `view`. The one rule: the standing and the
view change in the same step, and the mesh hears only of what peers and routes are made of.
"""

import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Final
from urllib.parse import urlsplit

from agent import clock
from agent.client.server_info import ServerInfo
from agent.config.values import is_loopback
from agent.errors import IdentityRefused, MeshError
from agent.links.crowd import NO_SILENCE, Crowd, Kind
from agent.links.dial import Knock
from agent.links.follower import Watch
from agent.links.offer_changes import LastOffers, names_of, offer_changes
from agent.links.pause import Pacing
from agent.links.session_offers import SessionOffers
from agent.links.state import (
    Blame,
    Closed,
    LinkEvent,
    LinkStanding,
    Lost,
    Opened,
    OpenFailed,
    ProbeAnswered,
    ProbeMissed,
    Reloaded,
    advance,
    held_down,
    is_calm,
)
from agent.model import (
    BackendSpec,
    HttpTarget,
    LinkState,
    LinkView,
    NodeIdentity,
    Offer,
    PeerSource,
    PeerSpec,
    ServerSpec,
    StdioTarget,
)
from agent.routing.about import about_of

log = logging.getLogger(__name__)


async def _nothing_to_settle() -> None:
    pass


@dataclass(frozen=True, slots=True)
class LinkHooks:
    """Callbacks: `changed` for what `_TOLD` names of a link's view, `dialled` for a dial, `reconnected` for a loss.

    `settled` returns when all changes up to now have had their effect on the lists of clients. `offers`: what single
    callers are offered. `shown`: for any change of the view but its latency. `crowd`, `last_offers`: of all links.
    `heard`: for the answer to a probe that went out in doubt. `knock`: at what is down; None, and only calls cut a
    back-off short. `pacing`: of all pauses.
    """

    changed: Callable[[str], object]
    dialled: Callable[[str], None]
    reconnected: Callable[[str], None]
    watches: tuple[Watch, ...] = ()
    settled: Callable[[], Awaitable[object]] = _nothing_to_settle
    offers: SessionOffers = field(default_factory=SessionOffers)
    shown: Callable[[], object] = lambda: None
    crowd: Crowd = field(default_factory=Crowd)
    last_offers: LastOffers = field(default_factory=LastOffers)
    heard: Callable[[], object] = lambda: None
    knock: Knock | None = None
    pacing: Pacing = field(default_factory=Pacing)


# What peers and routes are made of. The rest is for the status, which reads views: a peer that stays dead fails again
# and again, and is no news each time.
_TOLD: Final = attrgetter("connected", "failure", "identity", "has_tasks", "spec", "about", "offer")
# The latency that is shown is of a probe of this long ago at most, since a view is made anew for it ...
LATENCY_EVERY_S: Final = 30.0
# ... and of the last one where that differs so much.
LATENCY_STEP_S: Final = 0.1
_UNSHOWN: Final = frozenset({"latency_s", "next_attempt_at_s"})


def kind_of(spec: BackendSpec) -> Kind:
    """Who says when it is back, if anybody does."""
    if not isinstance(spec, PeerSpec):
        return Kind.OWN
    return Kind.ANNOUNCED if spec.source is PeerSource.DISCOVERY else Kind.NAMED


def is_here(spec: BackendSpec) -> bool:
    """Whether a server on this machine alone is meant. Peers are elsewhere, but for trials."""
    if not isinstance(spec, ServerSpec) or not isinstance(spec.target, HttpTarget):
        return False
    return is_loopback(urlsplit(spec.target.url).hostname or "")


class LinkRecord:
    """See the module. `standing`: in the table of states; `view`: the frozen snapshot for all others."""

    __slots__ = (
        "_heard",
        "_hooks",
        "_in_doubt",
        "_is_here",
        "_kind",
        "_latency_due_s",
        "_server_info",
        "_silence",
        "heard_at_s",
        "standing",
        "view",
    )

    def __init__(self, spec: BackendSpec, hooks: LinkHooks) -> None:
        self.standing = LinkStanding(is_child=isinstance(spec.target, StdioTarget))
        self.view = LinkView(spec)
        self._hooks = hooks
        self._kind = kind_of(spec)  # As it was when it went down.
        self._latency_due_s = 0.0
        self._server_info: ServerInfo | None = None  # That of the last answer to a probe.
        self._silence = NO_SILENCE  # The last one, and what all links had heard when the last probe went out.
        self._heard = 0
        self._in_doubt = False
        self._is_here = is_here(spec)
        self.heard_at_s = -math.inf  # The last answer to a probe.

    def __repr__(self) -> str:
        return f"<LinkRecord {self.view.key} {self.view.state} {self.view.last_error!r}>"

    def advance(self, event: LinkEvent, **changes: object) -> None:
        """Move on in the table, and change the view in the same step."""
        now_s = clock.now_s()
        before, self.standing = self.standing, advance(self.standing, event, now_s)
        if before is not self.standing:
            if before.state is not LinkState.BACKOFF:
                self._kind = kind_of(self.view.spec)
            self._hooks.crowd.note(before, self.standing, self._kind, here=self._is_here)
        kept = {"attempts": self.standing.attempts, "unheard": self.standing.unheard}
        self.show(state=self.standing.state, **kept, **changes)

    def show(self, **changes: object) -> None:
        """Change fields of the view; an answered probe, every few seconds, mostly changes none but the latency."""
        if all(getattr(self.view, name) == value for name, value in changes.items()):
            return
        before, self.view = self.view, replace(self.view, **changes)  # type: ignore[arg-type]  # names are checked by replace itself
        if not changes.keys() <= _UNSHOWN:
            self._hooks.shown()
            if _TOLD(before) != _TOLD(self.view):
                self._hooks.changed(self.view.key)

    def alive(self, latency_s: float, server_info: ServerInfo) -> None:
        """A probe was answered; as nearly always, that changes nothing but how long it took."""
        if not self.standing.is_child:
            self._hooks.crowd.hear(here=self._is_here)
        if server_info is not self._server_info or not is_calm(self.standing):
            self._server_info = server_info
            self.advance(ProbeAnswered(), has_tasks=server_info.has_tasks)
        shown_s, now_s = self.view.latency_s, clock.now_s()
        self.heard_at_s = now_s
        if self._in_doubt:
            self._in_doubt = False
            self._hooks.heard()
        if shown_s is None or abs(latency_s - shown_s) > LATENCY_STEP_S or now_s >= self._latency_due_s:
            self._latency_due_s = now_s + LATENCY_EVERY_S
            self.show(latency_s=latency_s)

    def asked(self) -> None:
        """A probe goes out in doubt."""
        self._in_doubt = True
        self._heard = self._hooks.crowd.judges(here=self._is_here).heard

    def missed(self, *, busy: bool, silent: bool) -> bool:
        """A probe was not answered. `silent`: nor refused, so that it may be this node that does not hear.

        Returns whether it is unheard from now on: kept for that reason alone.
        """
        if not self.standing.misses:
            crowd = self._hooks.crowd
            self._silence = crowd.silence(clock.now_s(), here=self._is_here)
            if silent and not self.standing.is_child:
                crowd.ask()
        blame = self._blame() if silent else Blame.THEIRS
        return self._missed(ProbeMissed(busy=busy, refused=not silent, blame=blame))

    def ended_in_silence(self) -> bool:
        """As `missed`: the other side has ended the stream of changes, and is gone if this node can hear."""
        is_unheard = self.missed(busy=False, silent=True)
        return self._missed(ProbeMissed(blame=self._blame(), ended=True)) or is_unheard

    def _blame(self) -> Blame:
        crowd, unheard = self._hooks.crowd, self.standing.unheard
        return crowd.blame(self._silence, self._heard, clock.now_s(), unheard=unheard, here=self._is_here)

    def _missed(self, event: ProbeMissed) -> bool:
        was_unheard = self.standing.unheard
        self.advance(event)
        return self.standing.unheard and not was_unheard

    def ready(self, offer: Offer, server_info: ServerInfo, identity: NodeIdentity | None) -> None:
        """The first offer of a new client has been read."""
        last, said = self.view.offer, server_info
        # The servers of another node speak for themselves.
        about = about_of(said.server_info, said.instructions, said.capabilities) if identity is None else {}
        self.advance(
            Opened(),
            offer=offer,
            identity=identity,
            protocol_version=server_info.protocol_version,
            has_tasks=server_info.has_tasks,
            lists_may_differ=server_info.lists_may_differ,
            server_info=server_info.server_info,
            about=about,
            last_error="",
            said_error="",
            failure="",
            claimed="",
            next_attempt_at_s=None,
            ready_at_s=clock.now_s(),
        )
        self._hooks.dialled("ok")
        extra = {"backend": self.view.key, "tools": len(offer.tools), "era": server_info.era.value}
        log.info("MCP link ready", extra=extra)
        if last.digest:
            self._say_changes(last)
        elif (known := self._hooks.last_offers.take(self.view.key)) is not None:
            self._say(offer_changes(known, names_of(offer)))

    def listed(self, offer: Offer) -> None:
        """Another offer has been read."""
        before = self.view.offer
        if offer != before:
            self.show(offer=offer)
        self._say_changes(before)

    def closed(self) -> None:
        """The end; what was offered is remembered."""
        self.advance(Closed())
        self._hooks.last_offers.keep(self.view.key, self.view.offer)

    def _say_changes(self, before: Offer) -> None:
        now = self.view.offer
        if now.digest != before.digest:
            self._say(offer_changes(names_of(before), names_of(now)) or {"changed": ["definitions of a long list"]})

    def _say(self, changes: dict[str, list[str]]) -> None:
        if changes:
            extra = {"backend": self.view.key, "tools": len(self.view.offer.tools), **changes}
            log.info("MCP offer changed", extra=extra)

    def failed(self, failure: MeshError) -> None:
        """A dial failed, or the client was lost."""
        was_up = self.view.ready_at_s is not None
        reason = str(failure) or type(failure).__name__
        is_same = reason == self.view.last_error
        self.advance(
            Lost(short=failure.short) if was_up else OpenFailed(short=failure.short),
            last_error=reason,
            said_error=failure.words("it"),
            failure=type(failure).__name__,
            claimed=failure.claimed if isinstance(failure, IdentityRefused) else "",
            ready_at_s=None,
            reconnects=self.view.reconnects + was_up,
        )
        if held := held_down(self.standing, clock.now_s()):
            reason += held
            self.show(last_error=reason, said_error=self.view.said_error + held)
        if was_up:
            self._hooks.reconnected(self.view.key)
        else:
            self._hooks.dialled(type(failure).__name__)
        # The end of each session is said, as its beginning is; of dials in vain, the first. A lack of our own counts as
        # no attempt: other words are news.
        is_news = self.standing.attempts <= 1 and not (failure.short and (is_same or self.standing.attempts))
        level = logging.WARNING if is_news or was_up else logging.DEBUG
        log.log(level, "MCP link down", extra={"backend": self.view.key, "reason": reason})

    def begin_anew(self) -> None:
        """A reload is no failure: it begins a new row of attempts, and keeps a failing child from being parked."""
        log.info("MCP link reloaded", extra={"backend": self.view.key})
        self.advance(Reloaded(), last_error="", said_error="", failure="", ready_at_s=None)
