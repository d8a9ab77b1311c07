"""When peers are selected anew, and when what is known already stands."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.control import groups, selector
from agent.control.candidates import Selection
from agent.control.selector import Selector
from agent.errors import DialledOurselves, Unreachable
from agent.model import HttpTarget, LinkState, LinkView, NodeIdentity, Override, PeerSpec
from agent.state.overrides import OverrideStore
from discovery.model import Catalog, Instance, InstanceKey

OWN = NodeIdentity("0a" * 16, "home")


def instances(count: int) -> Catalog:
    return Catalog(
        tuple(
            Instance(
                InstanceKey("dc", "m", f"node-{n:04}"),
                "10.0.0.1",
                8000 + n,
                meta={"node_id": f"id-{n}", "name": f"n{n}"},
            )
            for n in range(count)
        )
    )


def down(spec: PeerSpec, attempts: int = 1) -> LinkView:
    return LinkView(spec, LinkState.BACKOFF, failure=Unreachable.__name__, attempts=attempts, last_error=str(attempts))


@pytest.fixture
def store(tmp_path: Path) -> OverrideStore:
    return OverrideStore.open(tmp_path)


@pytest.fixture
def selecting(store: OverrideStore) -> Selector:
    return Selector(OWN, store)


async def selected(selecting: Selector, *told: Any) -> Selection:
    await selecting.select(*told)
    return selecting.selection


async def settled(selecting: Selector, catalog: Catalog, views: list[LinkView]) -> object:
    await selecting.select(catalog, (), views)
    return await selected(selecting, catalog, (), views)


async def test_peers_that_fail_again_and_again_are_selected_once(selecting: Selector) -> None:
    catalog = instances(5)
    specs = (await selected(selecting, catalog, (), [])).peers
    chosen = await settled(selecting, catalog, [down(spec) for spec in specs])
    for attempts in range(2, 6):
        assert await selected(selecting, catalog, (), [down(spec, attempts) for spec in specs]) is chosen


async def test_whatever_selecting_reads_makes_it_select_again(selecting: Selector, store: OverrideStore) -> None:
    catalog = instances(3)
    first = (await selected(selecting, catalog, (), [])).peers
    views = [down(spec) for spec in first]
    chosen = await settled(selecting, catalog, views)
    up = replace(views[0], state=LinkState.READY, identity=NodeIdentity("id-0", "n0"))
    assert await selected(selecting, catalog, (), [up, *views[1:]]) is not chosen
    chosen = await settled(selecting, catalog, views)
    assert [spec.name for spec in (await selected(selecting, instances(4), (), views)).peers] == [
        "n0",
        "n1",
        "n2",
        "n3",
    ]
    chosen = await settled(selecting, catalog, views)
    assert "n1" not in [spec.name for spec in (await selected(selecting, catalog, ("n1",), views)).peers]
    chosen = await settled(selecting, catalog, views)
    await store.put(Override("mine", HttpTarget("http://10.9.9.9:1/mcp")))
    chosen = await selected(selecting, catalog, (), views)
    assert "mine" in [spec.name for spec in chosen.peers]


async def test_a_node_has_its_name_back_when_the_override_or_the_server_of_that_name_has_gone(
    selecting: Selector, store: OverrideStore
) -> None:
    catalog = instances(2)
    chosen = await selected(selecting, catalog, (), [])
    for is_server in (False, True):
        await (store.remove("n1") if is_server else store.put(Override("n1", HttpTarget("http://10.9.9.9:1/mcp"))))
        servers = ("n1",) if is_server else ()
        await selecting.select(catalog, servers, [])
        taken = await selected(selecting, catalog, servers, [])
        renamed = {spec.expected_node_id: spec.name for spec in taken.peers if spec.expected_node_id}
        assert renamed["id-1"] not in ("n1", None)
        await store.remove("n1")
        await settled(selecting, catalog, [])
        assert selecting.selection.peers == chosen.peers


async def test_who_answered_at_a_url_counts_until_it_is_forgotten(selecting: Selector, store: OverrideStore) -> None:
    url = "http://10.9.9.9:1/mcp"
    await store.put(Override("mine", HttpTarget(url)))
    (spec,) = (await selected(selecting, Catalog(), (), [])).peers
    ourselves = replace(down(spec), failure=DialledOurselves.__name__)
    assert (await selected(selecting, Catalog(), (), [ourselves])).peers == ()
    assert (await selected(selecting, Catalog(), (), [])).peers == ()
    selecting.forget_who_answered(url)
    assert (await selected(selecting, Catalog(), (), [])).peers == (spec,)


async def test_a_large_catalog_is_selected_from_beside_the_event_loop_with_the_same_outcome(
    selecting: Selector, store: OverrideStore
) -> None:
    count = selector.LARGE_CATALOG + 1
    large = await selected(selecting, instances(count), (), [])
    assert len(large.peers) == count
    small = await selected(Selector(OWN, store), instances(10), (), [])
    assert [spec for spec in large.peers if spec in small.peers] == list(small.peers)


async def test_a_selection_that_failed_is_made_of_everything_the_next_time(
    selecting: Selector, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = instances(3)
    views = [down(spec) for spec in (await selected(selecting, catalog, (), [])).peers]
    await settled(selecting, catalog, views)
    up = replace(views[0], state=LinkState.READY, identity=NodeIdentity("id-0", "n0"))

    def broken(*_args: object, **_more: object) -> Selection:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(groups, "choose", broken)
        with pytest.raises(ZeroDivisionError):
            await selecting.select(catalog, (), [up, *views[1:]])
    await selecting.select(catalog, (), [up], gone=())
    assert selecting.selection.discovered["n0"][0].node_id == "id-0", "it has proven to be that node"
