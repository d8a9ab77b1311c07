"""What holds for every catalog, whatever operators say: one link a node, never ourselves, and an override wins."""

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.config.values import StaticPeer
from agent.control.candidates import CatalogReader, DiscoveredPeer, url_key
from agent.control.selection import Selection, select
from agent.model import HttpTarget, NodeIdentity, Override, PeerScope, PeerSource, Suppression
from agent.routing.names import is_valid_name
from discovery.model import Catalog, Health, Instance, InstanceKey

OWN = NodeIdentity("0a" * 16, "home")
NODE_IDS = [OWN.node_id, "11" * 16, "22" * 16]
ADDRESSES = ["10.0.0.1", "10.0.0.2", "fd00::1", "127.0.0.1", "bad address"]
URLS = ["http://10.0.0.1:8000/mcp", "http://10.0.0.2:8000/mcp", "http://[fd00::1]:8000/mcp/", "http://else/mcp"]
NAMES = ["home", "a", "b", "srv", "a-11111111", "bad__name", "web:1"]
VALID_NAMES = st.sampled_from([name for name in NAMES if is_valid_name(name)])

META = st.fixed_dictionaries(
    {},
    optional={
        "node_id": st.sampled_from(NODE_IDS),
        "name": st.sampled_from(NAMES),
        "epoch": st.sampled_from(["1", "2", "x"]),
    },
)
INSTANCES = st.builds(
    Instance,
    st.builds(InstanceKey, st.just("dc1"), st.sampled_from(["m1", "m2"]), st.sampled_from(NAMES)),
    st.sampled_from(ADDRESSES),
    st.just(8000),
    st.sampled_from(Health),
    META,
)
CATALOGS = st.lists(INSTANCES, max_size=6, unique_by=lambda instance: instance.key).map(
    lambda instances: Catalog(tuple(sorted(instances, key=lambda instance: instance.key)))
)
OVERRIDES = st.lists(
    st.builds(Override, VALID_NAMES, st.builds(HttpTarget, st.sampled_from(URLS)), st.sampled_from(PeerScope)),
    max_size=3,
    unique_by=lambda override: override.name,
)
STATICS = st.lists(
    st.builds(StaticPeer, VALID_NAMES, st.sampled_from(URLS)), max_size=2, unique_by=lambda static: static.name
)
SUPPRESSIONS = st.lists(
    st.builds(Suppression, VALID_NAMES, st.sampled_from([None, *NODE_IDS]), st.sampled_from([None, *NAMES])), max_size=2
)
WORLDS = st.fixed_dictionaries(
    {
        "catalog": CATALOGS,
        "overrides": OVERRIDES,
        "statics": STATICS,
        "suppressions": SUPPRESSIONS,
        "server_names": st.sets(st.just("srv")),
        "learned": st.dictionaries(st.sampled_from(URLS), st.sampled_from(NODE_IDS)),
    }
)


def _selected(world: dict[str, Any], before: Selection, connected: set[str]) -> Selection:
    rest = {key: value for key, value in world.items() if key != "catalog"}
    return select(world["catalog"], OWN, previous=before.peers, connected=connected, **rest)


def _keys(selection: Selection) -> set[str]:
    return {spec.key for spec in selection.peers}


# The same world twice is how it mostly goes: things stay, links come up.
STEPS = st.tuples(WORLDS, WORLDS | st.none(), st.sets(VALID_NAMES.map("peer:{}".format)))


def _steps(steps: tuple[dict[str, Any], dict[str, Any] | None, set[str]]) -> tuple[dict[str, Any], Selection]:
    first, second, connected = steps
    world = second or first
    return world, _selected(world, _selected(first, Selection(), set()), connected)


@given(STEPS)
def test_no_two_peers_have_one_name_one_node_or_one_override(steps: Any) -> None:
    world, selection = _steps(steps)
    names = [spec.name for spec in selection.peers]
    assert names == sorted(set(names))
    assert all(is_valid_name(name) for name in names)
    nodes = Counter(
        spec.expected_node_id or world["learned"].get(spec.target.url)
        for spec in selection.peers
        if spec.source is PeerSource.DISCOVERY
    )
    del nodes[None]
    assert all(count == 1 for count in nodes.values())
    plain = [url_key(spec.target.url) for spec in selection.peers if spec.expected_node_id is None]
    assert len(plain) == len(set(plain))


@given(STEPS)
def test_a_discovered_node_that_an_operator_named_gets_no_link_of_its_own(steps: Any) -> None:
    world, selection = _steps(steps)
    named = [spec for spec in selection.peers if spec.source is not PeerSource.DISCOVERY]
    urls = {url_key(spec.target.url) for spec in named}
    for spec in selection.peers:
        if spec.source is PeerSource.DISCOVERY:
            assert url_key(spec.target.url) not in urls
    up = steps[2]
    known = {world["learned"].get(spec.target.url) for spec in named if spec.key in up} - {None}
    assert not known & {s.expected_node_id for s in selection.peers if s.source is PeerSource.DISCOVERY}


@given(STEPS)
def test_we_never_dial_ourselves_as_far_as_we_know(steps: Any) -> None:
    _, selection = _steps(steps)
    world = steps[1] or steps[0]
    for spec in selection.peers:
        assert spec.expected_node_id != OWN.node_id
        if spec.source is PeerSource.DISCOVERY and spec.expected_node_id is None:
            assert world["learned"].get(spec.target.url) != OWN.node_id


@given(STEPS)
def test_every_override_is_dialled_as_written_or_is_an_alias_of_one_or_leads_to_ourselves(steps: Any) -> None:
    world, selection = _steps(steps)
    by_name = {spec.name: spec for spec in selection.peers}
    said = {finding.name for finding in selection.findings}
    for override in world["overrides"]:
        spec = by_name.get(override.name)
        if spec is not None and spec.source is PeerSource.OVERRIDE:
            assert (spec.target.url, spec.scope) == (override.target.url, override.scope)
            assert spec.target.token == override.target.token or spec.is_mesh_node
        else:
            assert override.name in said


@given(STEPS)
def test_a_token_goes_where_an_operator_has_given_it_and_a_node_id_is_expected_where_the_catalog_says_so(
    steps: Any,
) -> None:
    world, selection = _steps(steps)
    given = {override.name: override.target.token for override in world["overrides"]}
    for spec in selection.peers:
        assert spec.target.token == (given[spec.name] if spec.source is PeerSource.OVERRIDE else None)
    expected = {(url_key(s.target.url), s.expected_node_id) for s in selection.peers if s.expected_node_id is not None}
    found = CatalogReader().read(world["catalog"], OWN.node_id)
    assert expected <= {(url_key(c.url), c.node_id) for c in found if isinstance(c, DiscoveredPeer)}


@given(STEPS)
def test_an_alias_means_one_thing(steps: Any) -> None:
    world, selection = _steps(steps)
    words = [spec.name for spec in selection.peers] + [alias for spec in selection.peers for alias in spec.aliases]
    assert len(words) == len(set(words))
    assert not {alias for spec in selection.peers for alias in spec.aliases} & world["server_names"]


@given(STEPS)
def test_selecting_again_with_the_same_world_changes_nothing(steps: Any) -> None:
    world, selection = _steps(steps)
    # A link that is up has not found ourselves at its other end.
    learned = {url: node_id for url, node_id in world["learned"].items() if node_id != OWN.node_id}
    world = {**world, "learned": learned}
    again = _selected(world, selection, _keys(selection))
    if _keys(again) != _keys(selection):  # What led to ourselves may be linked now, which is news of its own.
        again = _selected(world, again, _keys(again))
    assert _selected(world, again, _keys(again)) == again


@given(STEPS)
def test_what_delete_would_suppress_is_gone_afterwards(steps: Any) -> None:
    world, selection = _steps(steps)
    for name, removed in selection.discovered.items():
        spec = next(spec for spec in selection.peers if spec.name == name)
        rest = {
            **world,
            "overrides": [o for o in world["overrides"] if o.name != name and o.name not in spec.aliases],
            "statics": [],
            "suppressions": [*world["suppressions"], *removed],
        }
        after = _selected(rest, selection, {s.key for s in selection.peers})
        gone = {s.node_id for s in removed if s.node_id is not None}
        assert not gone & {s.expected_node_id for s in after.peers if s.source is PeerSource.DISCOVERY}
