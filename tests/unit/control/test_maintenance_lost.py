"""Maintenance that was begun on the entry of a dead node, and went with the entry, is said when the node is back."""

import logging

import pytest

from agent.control import maintenance
from agent.control.candidates import FindingKind
from agent.control.maintenance import LostMaintenance
from discovery.model import Catalog, Health, Instance, InstanceKey


def entry(reason: str = "", health: Health = Health.PASSING, name: str = "b", node_id: str = "bb" * 16) -> Catalog:
    meta = {"node_id": node_id} if node_id else {}
    return Catalog((Instance(InstanceKey("dc1", "m", name), "10.0.0.2", 8000, health, meta, maintenance=reason),))


WELL, RESTING, GONE = entry(), entry("disks"), Catalog()
DEAD, DEAD_RESTING = entry(health=Health.CRITICAL), entry("disks", Health.CRITICAL)


def said(*catalogs: Catalog) -> list[int]:
    """How many findings there are at each of them."""
    lost = LostMaintenance()
    return [len(lost.of(one)) for one in catalogs]


def test_it_is_said_once_the_node_is_back_without_it_and_until_it_is_in_maintenance_or_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    lost = LostMaintenance()
    assert [lost.of(one) for one in (WELL, DEAD, DEAD_RESTING, GONE)] == [[], [], [], []]
    (finding,) = lost.of(WELL)
    assert (finding.name, finding.kind) == ("b", FindingKind.LOST)
    assert finding.detail.startswith("disks (begun while it was down")
    assert "consul maint -enable -service=b" in finding.detail
    assert len(caplog.records) == 1
    assert lost.of(WELL) == [finding]
    assert lost.of(RESTING) == []
    assert lost.of(WELL) == []
    assert said(DEAD_RESTING, GONE, WELL, GONE, WELL) == [0, 0, 1, 0, 0]
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    "catalogs",
    [
        (DEAD_RESTING, GONE, RESTING, WELL),  # The node knew it.
        (DEAD_RESTING, RESTING, WELL),  # It was back in time.
        (DEAD_RESTING, DEAD, GONE, WELL),  # The operator has ended it.
        (DEAD_RESTING, WELL),
        (RESTING, GONE, WELL),  # A node that leaves in order keeps its own; its operator may have made it another one.
        (entry("disks", Health.CRITICAL, node_id=""), GONE, entry(node_id="")),  # No node.
    ],
)
def test_what_is_not_lost_is_not_said(catalogs: tuple[Catalog, ...]) -> None:
    assert set(said(*catalogs)) == {0}


def test_no_more_than_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "LOST_MAX", 1)
    both = Catalog(DEAD_RESTING.instances + entry("disks", Health.CRITICAL, "c").instances)
    back = Catalog(WELL.instances + entry(name="c").instances)
    lost = LostMaintenance()
    lost.of(both)
    lost.of(GONE)
    assert [one.name for one in lost.of(back)] == ["c"]
