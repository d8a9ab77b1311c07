"""A selection in groups is that of everything, over whatever changes in whatever order."""

from types import MappingProxyType
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.control.candidates import CatalogReader, own_entries, url_key
from agent.control.groups import Groups, Surroundings
from agent.control.selection import Selection, select
from discovery.model import Catalog, Instance, InstanceKey
from tests.unit.control.test_selection_properties import OWN, VALID_NAMES, WORLDS

# What a step changes of the world before: a link's change is the two last ones.
STEPS = st.lists(
    st.tuples(
        st.sets(st.sampled_from(["catalog", "overrides", "statics", "suppressions", "server_names", "learned", "up"])),
        WORLDS,
        st.sets(VALID_NAMES.map("peer:{}".format)),
    ),
    min_size=1,
    max_size=6,
)


@given(STEPS)
def test_a_selection_in_groups_is_that_of_everything(steps: Any) -> None:
    groups, reader, whole = Groups(OWN), CatalogReader(), Selection()
    peers: dict[str, Any] = {}
    world, up, names = dict(steps[0][1]), set(), frozenset[str]()
    for changed, drawn, connected in [({"catalog"}, steps[0][1], set()), *steps]:
        before_learned, before_up = world["learned"], up
        world |= {part: drawn[part] for part in changed if part != "up"}
        up = connected if "up" in changed else up
        freed, names = names - world["server_names"], frozenset(world["server_names"])
        touched = {word.partition(":")[2] for word in before_up ^ up}
        for url in before_learned.keys() | world["learned"].keys():
            was, now = before_learned.get(url), world["learned"].get(url)
            touched |= {url_key(url), was, now} - {None} if was != now else set()
        rest = {part: told for part, told in world.items() if part != "catalog"}
        whole = select(world["catalog"], OWN, previous=whole.peers, connected=up, freed=freed, **rest)
        entries = reader.read(world["catalog"], OWN.node_id)
        plan = groups.plan(
            Surroundings(names, frozenset(freed), MappingProxyType(world["learned"]), up),
            touched,
            [*entries, *world["overrides"], *world["suppressions"], *world["statics"]],
            everything="server_names" in changed,
        )
        for name, (was, now) in groups.take(plan).items():
            assert peers.pop(name, None) == was
            peers |= {name: now} if now is not None else {}
        chosen = groups.chosen(own_entries(world["catalog"], OWN))
        assert chosen.peers == whole.peers == tuple(sorted(peers.values(), key=lambda spec: spec.name))
        assert chosen.discovered == whole.discovered
        assert chosen.findings == whole.findings


def test_a_peer_loses_its_alias_to_one_that_comes_with_it_as_its_name() -> None:
    groups, around = Groups(OWN), Surroundings(frozenset(), frozenset(), {}, ())
    entries: list[Any] = []
    for name, service_id, number in (("a", "web", 1), ("web", "b", 2)):
        meta = {"node_id": str(number) * 32, "name": name}
        entries += CatalogReader().read(
            Catalog((Instance(InstanceKey("dc1", "m", service_id), f"10.0.0.{number}", 8000, meta=meta),)), OWN.node_id
        )
        groups.take(groups.plan(around, (), entries))
    assert {spec.name: spec.aliases for spec in groups.chosen().peers} == {"a": (), "web": ("b",)}


def test_groups_that_come_to_the_same_end_again_are_left_as_they_are() -> None:
    groups, around, reader = Groups(OWN), Surroundings(frozenset(), frozenset(), {}, ()), CatalogReader()
    instances = [
        Instance(InstanceKey("dc1", "m", f"s-{number}"), f"10.0.0.{number}", 8000, meta={"node_id": str(number) * 32})
        for number in range(1, 9)
    ]
    first = groups.plan(around, (), reader.read(Catalog(tuple(instances)), OWN.node_id))
    assert (len(first.made), len(first.settled)) == (8, 0)
    groups.take(first)
    assert groups.unsettled_count == 8
    before, chosen = list(groups._groups), groups.chosen()
    more = Instance(InstanceKey("dc1", "m", "s-9"), "10.0.0.9", 8000, meta={"node_id": "9" * 32})
    second = groups.plan(around, (), reader.read(Catalog((*instances, more)), OWN.node_id))
    assert (len(second.gone), len(second.made), len(second.settled)) == (0, 1, 8)
    groups.take(second)
    assert groups.unsettled_count == 1
    assert list(groups._groups)[:8] == before
    assert set(groups.chosen().peers) > set(chosen.peers)
