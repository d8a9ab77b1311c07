"""What workers are shown of a node: its links as they are, and which servers have lists that change."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from agent.app.crew_of import _Look
from agent.app.parts import Parts
from agent.mcp_terms import LATEST_MODERN_VERSION
from agent.model import HttpTarget, LinkState, LinkView, Offer, ServerScope, ServerSpec

SPEC = ServerSpec("kit", HttpTarget("http://127.0.0.1:9/mcp"), ServerScope.SERVICE)
LINKED = LinkView(
    SPEC, LinkState.READY, protocol_version=LATEST_MODERN_VERSION, ready_at_s=1.0, offer=Offer(digest="first")
)


class StandIn:
    """The parts of a node, with whatever links a test gives."""

    def __init__(self, *views: LinkView) -> None:
        self.views = views
        mesh = SimpleNamespace(views=lambda: self.views)
        dispatch = SimpleNamespace(apart=(frozenset({"peer:resting"}), frozenset()))
        access = SimpleNamespace(valid=(("token-of-clients",), ()))
        associations = SimpleNamespace(valid_secrets=lambda: (b"secret",))
        rest: Any = None
        given = {"mesh": mesh, "dispatch": dispatch, "access": access, "associations": associations}
        self.look = _Look(Parts(rest, rest, metrics=rest, **cast("dict[str, Any]", given)))


def test_picture_has_the_connected_links_and_what_is_valid_now() -> None:
    stand_in = StandIn(LINKED, replace(LINKED, spec=replace(SPEC, name="down"), state=LinkState.BACKOFF))
    picture = stand_in.look()
    assert picture.links.keys() == {"server:kit"}
    assert (picture.tokens, picture.secrets, picture.drained) == (
        ("token-of-clients",),
        (b"secret",),
        frozenset({"peer:resting"}),
    )


def test_what_answers_nothing_any_more_is_named_and_what_only_stops_is_not() -> None:
    down = replace(LINKED, state=LinkState.BACKOFF, ready_at_s=None)
    stand_in = StandIn(
        replace(LINKED, spec=replace(SPEC, name="unheard"), state=LinkState.SUSPECT, unheard=True),
        replace(down, spec=replace(SPEC, name="hangs"), failure="NoSignOfLife"),
        replace(down, spec=replace(SPEC, name="stops"), failure="Unreachable"),
        LINKED,
    )
    picture = stand_in.look()
    assert picture.silent == {"server:unheard", "server:hangs"}
    assert picture.links.keys() == {"server:kit"}


def test_server_whose_list_changes_while_it_is_linked_is_named_until_it_is_linked_anew() -> None:
    stand_in = StandIn(replace(LINKED, offer=Offer()))
    assert not stand_in.look().changing
    stand_in.views = (LINKED,)  # Its first list, which is no change.
    assert not stand_in.look().changing
    stand_in.views = (replace(LINKED, offer=Offer(digest="second")),)
    assert stand_in.look().changing == {"server:kit"}
    stand_in.views = (LINKED,)
    assert stand_in.look().changing == {"server:kit"}
    stand_in.views = (replace(LINKED, ready_at_s=2.0),)
    assert not stand_in.look().changing
