"""The steps from the links that are there to those that are wanted."""

from dataclasses import replace
from typing import assert_never

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.links.actions import Action, CloseLink, OpenLink, RelabelLink, RenewLink, reconcile
from agent.model import (
    BackendSpec,
    HttpTarget,
    PeerScope,
    PeerSource,
    PeerSpec,
    ServerScope,
    ServerSpec,
    StdioTarget,
)

NAMES = st.sampled_from(["a", "b", "c", "d"])
TARGETS = st.builds(HttpTarget, st.sampled_from(["http://x/mcp", "http://y/mcp"]), token=st.sampled_from([None, "t"]))
PEERS = st.builds(
    PeerSpec,
    NAMES,
    TARGETS,
    st.sampled_from(PeerSource),
    st.sampled_from(PeerScope),
    st.sampled_from([(), ("x",)]),
    st.sampled_from([None, "id1", "id2"]),
    st.booleans(),
    st.sampled_from(["", "s1", "s2"]),
    st.sampled_from([1, 3]),
)
SERVERS = st.builds(
    ServerSpec,
    NAMES,
    TARGETS | st.builds(StdioTarget, st.sampled_from(["cat", "dog"])),
    st.sampled_from(ServerScope),
    call_timeout_s=st.sampled_from([None, 1.0]),
)
SPECS = st.lists(PEERS | SERVERS, max_size=6).map(lambda specs: {spec.key: spec for spec in specs})
PEER = PeerSpec("a", HttpTarget("http://x/mcp"), PeerSource.DISCOVERY, sighting="s1")
SERVER = ServerSpec("a", StdioTarget("cat"), ServerScope.NODE)


def _applied(actions: tuple[Action, ...], actual: dict[str, BackendSpec]) -> dict[str, BackendSpec]:
    """What a supervisor makes of it: it refuses to open what is open and to close what is not."""
    links = dict(actual)
    for action in actions:
        match action:
            case OpenLink(spec=spec):
                assert spec.key not in links
                links[spec.key] = spec
            case CloseLink(key=key):
                del links[key]
            case RenewLink(spec=spec) | RelabelLink(spec=spec):
                assert spec.key in links
                links[spec.key] = spec
            case _:
                assert_never(action)
    return links


@given(SPECS, SPECS)
def test_applying_the_actions_gives_what_is_wanted_and_then_there_are_none(
    desired: dict[str, BackendSpec], actual: dict[str, BackendSpec]
) -> None:
    after = _applied(reconcile(desired, actual), actual)
    assert after == desired
    assert reconcile(desired, after) == ()


@given(SPECS, SPECS)
def test_the_actions_do_not_depend_on_the_order_of_the_maps_and_closes_come_first(
    desired: dict[str, BackendSpec], actual: dict[str, BackendSpec]
) -> None:
    actions = reconcile(desired, actual)
    assert actions == reconcile(dict(reversed(desired.items())), dict(reversed(actual.items())))
    closes = [isinstance(action, CloseLink) for action in actions]
    assert closes == sorted(closes, reverse=True)


def _only(wanted: BackendSpec, present: BackendSpec) -> Action:
    (action,) = reconcile({wanted.key: wanted}, {present.key: present})
    return action


def test_a_link_to_another_target_or_identity_is_renewed() -> None:
    for wanted in (
        replace(PEER, target=HttpTarget("http://y/mcp")),
        replace(PEER, source=PeerSource.OVERRIDE, target=HttpTarget("http://x/mcp", token="t")),
        replace(PEER, scope=PeerScope.MESH),
        replace(PEER, expected_node_id="id"),
        replace(PEER, is_mesh_node=True),
    ):
        assert _only(wanted, PEER) == RenewLink(wanted)


def test_a_server_with_another_command_or_scope_is_renewed_and_with_another_time_limit_only_relabelled() -> None:
    renewed = replace(SERVER, target=StdioTarget("dog"))
    assert _only(renewed, SERVER) == RenewLink(renewed)
    rescoped = replace(SERVER, scope=ServerScope.SERVICE)
    assert _only(rescoped, SERVER) == RenewLink(rescoped)
    patient = replace(SERVER, call_timeout_s=9.0)
    assert _only(patient, SERVER) == RelabelLink(patient)


def test_a_new_weight_keeps_the_session_and_is_no_reason_to_dial() -> None:
    heavier = replace(PEER, weight=3)
    assert reconcile({"peer:a": heavier}, {"peer:a": PEER}) == (RelabelLink(heavier),)


def test_maintenance_keeps_the_session_and_is_no_reason_to_dial() -> None:
    resting = replace(PEER, maintenance="new disks")
    assert reconcile({"peer:a": resting}, {"peer:a": PEER}) == (RelabelLink(resting),)
    assert reconcile({"peer:a": PEER}, {"peer:a": resting}) == (RelabelLink(PEER),)


def test_a_new_alias_or_source_keeps_the_session() -> None:
    for wanted in (replace(PEER, aliases=("b",)), replace(PEER, source=PeerSource.OVERRIDE)):
        assert _only(wanted, PEER) == RelabelLink(wanted, sighted=False)


def test_another_token_is_tried_at_once_at_a_client_of_its_own() -> None:
    given = replace(PEER, source=PeerSource.OVERRIDE)
    changed = replace(given, target=HttpTarget("http://x/mcp", token="t"))
    assert _only(changed, given) == RenewLink(changed)
    assert _only(given, changed) == RenewLink(given)


@pytest.mark.parametrize("source", [PeerSource.OVERRIDE, PeerSource.STATIC])
def test_a_node_that_the_catalog_knows_too_or_no_longer_keeps_its_session(source: PeerSource) -> None:
    alone = replace(PEER, source=source)
    known = replace(alone, is_mesh_node=True, expected_node_id="id1")
    assert _only(known, alone) == RelabelLink(known, sighted=False)
    assert _only(alone, known) == RelabelLink(alone, sighted=False)
    another = replace(known, expected_node_id="id2")
    assert _only(another, known) == RenewLink(another)
    discovered = replace(known, source=PeerSource.DISCOVERY)
    assert _only(alone, discovered) == RelabelLink(alone, sighted=False)
    assert _only(discovered, alone) == RelabelLink(discovered, sighted=False)


def test_a_new_sighting_cuts_a_wait_short_and_a_lost_one_does_not() -> None:
    again = replace(PEER, sighting="s2")
    assert _only(again, PEER) == RelabelLink(again, sighted=True)
    gone = replace(PEER, sighting="")
    assert _only(gone, PEER) == RelabelLink(gone, sighted=False)


def test_a_server_and_a_peer_of_one_name_are_two_links() -> None:
    assert reconcile({SERVER.key: SERVER}, {PEER.key: PEER}) == (
        CloseLink(PEER.key, "it is no longer wanted"),
        OpenLink(SERVER),
    )
