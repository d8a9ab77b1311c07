"""Which backends are in maintenance by the catalog's word, and what is logged of it."""

import logging
from dataclasses import replace

import pytest

from agent.control.maintenance import Maintenance, log_changes, maintenance_of
from agent.model import BackendSpec, HttpTarget, PeerSource, PeerSpec, ServerScope, ServerSpec, StdioTarget
from discovery.model import Catalog, Health, Instance, InstanceKey

OWN_ID = "0a" * 16
SERVER = ServerSpec("kit", StdioTarget("cat"), ServerScope.SERVICE)
WELL = PeerSpec("well", HttpTarget("http://10.0.0.2:8000/mcp"), PeerSource.DISCOVERY)
RESTING = PeerSpec("resting", HttpTarget("http://10.0.0.3:8000/mcp"), PeerSource.DISCOVERY, maintenance="new disks")
ALL: tuple[BackendSpec, ...] = (SERVER, WELL, RESTING)


def own_entry(maintenance: str) -> Catalog:
    key = InstanceKey("dc1", "machine", "home")
    return Catalog((Instance(key, "10.0.0.1", 8000, meta={"node_id": OWN_ID}, maintenance=maintenance),))


def test_a_peer_in_maintenance_is_drained_and_nothing_else_is() -> None:
    seen = maintenance_of(own_entry(""), OWN_ID, ALL)
    assert (seen.own, dict(seen.peers), seen.backends) == ("", {"resting": "new disks"}, {"peer:resting"})


def test_our_own_maintenance_drains_our_servers() -> None:
    seen = maintenance_of(own_entry("moving"), OWN_ID, ALL)
    assert (seen.own, seen.backends) == ("moving", {"peer:resting", "server:kit"})
    assert maintenance_of(Catalog(), OWN_ID, (SERVER, WELL)) == Maintenance()


def test_what_the_agent_said_of_us_counts_where_no_catalog_shows_us_an_entry_of_ours() -> None:
    assert maintenance_of(Catalog(), OWN_ID, (SERVER, WELL), "moving").backends == {"server:kit"}
    assert maintenance_of(own_entry(""), OWN_ID, ALL, "moving").own == ""


def test_what_another_consul_agent_has_left_over_of_us_keeps_no_maintenance_that_has_ended() -> None:
    (left_over,) = own_entry("moving").instances
    (present,) = own_entry("").instances
    left_over = replace(left_over, key=replace(left_over.key, node="before"), health=Health.CRITICAL)
    assert maintenance_of(Catalog((left_over, present)), OWN_ID, ALL).own == ""
    assert maintenance_of(Catalog((left_over, replace(present, maintenance="disks"))), OWN_ID, ALL).own
    assert maintenance_of(Catalog((left_over,)), OWN_ID, ALL).own == "moving"


def test_beginning_and_end_are_logged_once_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    before, after = Maintenance(), maintenance_of(own_entry("moving"), OWN_ID, ALL)
    log_changes(before, after, {"resting", "well"})
    log_changes(after, after, {"resting", "well"})
    log_changes(after, before, {"resting", "well"})
    log_changes(after, before, {"well"})
    said = [(record.levelname, record.message, getattr(record, "reason", None)) for record in caplog.records]
    assert said == [
        ("WARNING", "this node is in maintenance and gets no new calls", "moving"),
        ("WARNING", "a peer is in maintenance and gets no new calls", "new disks"),
        ("INFO", "this node is back from maintenance", None),
        ("INFO", "a peer is back from maintenance", None),
        ("INFO", "this node is back from maintenance", None),
        ("INFO", "a peer in maintenance is gone", None),
    ]
