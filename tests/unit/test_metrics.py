"""Metrics: what is counted, what mirrors state, and how few series hostile names can make."""

import asyncio
import random
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from agent import metrics as module
from agent.dispatch.replicas import BalanceView
from agent.dispatch.retry import BUDGET_RESERVE
from agent.metrics import LAG_EVERY_S, Metrics
from agent.model import HttpTarget, LinkState, LinkView, PeerSource, PeerSpec, ServerScope, ServerSpec, StdioTarget
from agent.tracing.export import Spans
from discovery.model import Catalog, Instance, InstanceKey, RegistrarStatus, SourceStatus
from tests.simulation.virtual_time import VirtualTimeLoop


@dataclass
class Mesh:
    """As much of a mesh as a scrape looks at."""

    links: tuple[LinkView, ...] = ()
    routes: Any = field(default_factory=lambda: SimpleNamespace(conflicts=(), left_out=()))
    catalog: Catalog = field(default_factory=Catalog)
    maintenance: Any = field(default_factory=lambda: SimpleNamespace(own="", peers={}))

    def views(self) -> tuple[LinkView, ...]:
        return self.links


@dataclass(frozen=True)
class Membership:
    mode: str = "consul"
    source: SourceStatus = field(default_factory=SourceStatus)
    registrar: RegistrarStatus = field(default_factory=RegistrarStatus)


def entry(name: str, maintenance: str = "") -> Instance:
    return Instance(InstanceKey("dc1", "machine", name), "10.9.8.7", 8000, maintenance=maintenance)


def peer(name: str, state: LinkState = LinkState.READY) -> LinkView:
    return LinkView(PeerSpec(name, HttpTarget("http://10.9.8.7:8000/mcp"), PeerSource.DISCOVERY), state)


def series(metrics: Metrics) -> dict[str, float]:
    lines = metrics.render()[0].decode().splitlines()
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
    }


def test_a_call_is_counted_timed_and_no_longer_in_flight() -> None:
    metrics = Metrics("1.2.3")
    metrics.call_started()
    metrics.call_started()
    metrics.call_finished("peer:a", "notes__add", "ok", 0.03)
    found = series(metrics)
    assert found['mesh_calls_total{backend="peer:a",outcome="ok",tool="notes__add"}'] == 1
    assert found["mesh_calls_in_flight"] == 1
    assert found['mesh_call_seconds_bucket{backend="peer:a",le="0.025"}'] == 0
    assert found['mesh_call_seconds_bucket{backend="peer:a",le="0.05"}'] == 1
    assert found['mesh_build_info{version="1.2.3"}'] == 1


def test_events_are_counted_under_words_of_ours() -> None:
    metrics = Metrics("1")
    metrics.dialled("ok")
    metrics.dialled("DialledOurselves")
    metrics.link_reconnected("peer:a")
    metrics.list_changed("tools")
    metrics.auth_failed()
    found = series(metrics)
    assert found['mesh_dials_total{outcome="ok"}'] == 1
    assert found['mesh_dials_total{outcome="dialled_ourselves"}'] == 1
    assert found['mesh_link_reconnects_total{backend="peer:a"}'] == 1
    assert found['mesh_list_changes_total{kind="tools"}'] == 1
    assert found["mesh_auth_failures_total"] == 1


def test_what_dispatch_does_about_failures_is_counted() -> None:
    metrics = Metrics("1")
    metrics.retried("peer:a")
    metrics.retry_refused()
    metrics.ejected("peer:a", "refused")
    metrics.ejected("http://10.9.8.7", "rate")
    found = series(metrics)
    assert found['mesh_retries_total{backend="peer:a"}'] == 1
    assert found["mesh_retries_refused_total"] == 1
    assert found['mesh_ejections_total{backend="peer:a",reason="refused"}'] == 1
    assert found['mesh_ejections_total{backend="other",reason="rate"}'] == 1


async def test_a_scrape_shows_how_calls_are_spread_at_its_own_moment() -> None:
    metrics = Metrics("1")
    shares = {"peer:a": 0.25, "server:b": 0.75, "http://10.9.8.7": 0.5}
    metrics.observe(Mesh(), Membership(), BalanceView(frozenset({"peer:a"}), shares, 2))
    found = series(metrics)
    assert found["mesh_backends_ejected"] == 1
    assert found["mesh_retries_left"] == 2
    assert found['mesh_backend_share{backend="peer:a"}'] == 0.25
    assert found['mesh_backend_share{backend="server:b"}'] == 0.75
    assert len([name for name in found if name.startswith("mesh_backend_share")]) == 2
    metrics.observe(Mesh(), Membership(), BalanceView())
    found = series(metrics)
    assert found["mesh_backends_ejected"] == 0
    assert found["mesh_retries_left"] == BUDGET_RESERVE
    assert not [name for name in found if name.startswith("mesh_backend_share")]


@pytest.mark.looptime(start=100.0)
async def test_a_scrape_mirrors_the_state_of_its_own_moment() -> None:
    metrics = Metrics("1")
    child = LinkView(ServerSpec("files", StdioTarget("x"), ServerScope.NODE), LinkState.BACKOFF, reconnects=3)
    source = SourceStatus(up=True, last_answer_at_s=99.0, confirmed_at_s=90.0, changes_total=4, lists_us=True)
    metrics.observe(
        Mesh(
            (peer("a"), peer("b"), child),
            SimpleNamespace(conflicts=("one",), left_out=("two", "three")),
            Catalog((entry("a"), entry("b"), entry("c", "new disks"))),
            SimpleNamespace(own="new disks", peers={"a": 'say "when"\nit is over', "b": "no reason given"}),
        ),
        Membership("consul", source, RegistrarStatus(registered=True, registrations_total=2)),
    )
    found = series(metrics)
    assert found['mesh_links{state="ready"}'] == 2
    assert found['mesh_links{state="backoff"}'] == 1
    assert found['mesh_links{state="parked"}'] == 0
    assert found['mesh_stdio_restarts_total{server="files"}'] == 3
    assert found["mesh_consul_up"] == 1
    assert found["mesh_catalog_age_seconds"] == pytest.approx(10.0)
    assert found["mesh_catalog_changes_total"] == 4
    assert found["mesh_registrations_total"] == 2
    assert found["mesh_name_conflicts"] == 1
    assert found["mesh_entries_left_out"] == 2
    assert found["mesh_registered"] == 1
    assert found['mesh_instances{health="passing"}'] == 2
    assert found['mesh_instances{health="critical"}'] == 0
    assert found['mesh_instances{health="maintenance"}'] == 1
    assert found['mesh_peer_up{peer="a"}'] == 1
    assert (found["mesh_maintenance"], found["mesh_peers_in_maintenance"]) == (1, 2)
    assert {name for name in found if name.startswith("mesh_maintenance_info")} == {
        'mesh_maintenance_info{peer="",reason="new disks"}',
        'mesh_maintenance_info{peer="a",reason="say \\"when\\" it is over"}',
        'mesh_maintenance_info{peer="b",reason="no reason given"}',
    }
    denied = replace(source, lists_us=False)
    metrics.observe(Mesh(), Membership("consul", denied, RegistrarStatus(registered=True)))
    assert series(metrics)["mesh_registered"] == 0
    metrics.observe(Mesh(), Membership("off"))
    found = series(metrics)
    assert found['mesh_links{state="ready"}'] == 0
    assert "mesh_consul_up" not in found
    assert "mesh_catalog_age_seconds" not in found


async def test_a_hundred_thousand_random_names_leave_under_two_thousand_series() -> None:
    metrics, rng = Metrics("1"), random.Random(7)
    for _ in range(100_000):
        backend, tool = f"peer:{rng.getrandbits(64):x}", f"{rng.getrandbits(64):x}__t"
        metrics.call_started()
        metrics.call_finished(backend, tool, rng.choice(["ok", "timeout"]), 0.01)
        metrics.link_reconnected(backend)
    found = series(metrics)
    assert sum(value for name, value in found.items() if name.startswith("mesh_calls_total")) == 100_000
    assert len(found) < 2000
    metrics.observe(Mesh(tuple(peer(f"p{n}") for n in range(500))), Membership())
    assert len(series(metrics)) < 2000


def test_beyond_the_limit_the_outcome_is_still_counted() -> None:
    metrics = Metrics("1")
    for n in range(module.CALL_LABEL_SETS_MAX):
        metrics.call_finished("peer:a", f"tool-{n}", "ok", 0.01)
    metrics.call_finished("peer:a", "tool-new", "timeout", 0.01)
    metrics.call_finished("peer:a", "tool-0", "ok", 0.01)
    found = series(metrics)
    assert found['mesh_calls_total{backend="other",outcome="timeout",tool="other"}'] == 1
    assert found['mesh_calls_total{backend="peer:a",outcome="ok",tool="tool-0"}'] == 2


async def test_a_full_metric_makes_room_for_new_backends_when_old_ones_are_gone() -> None:
    metrics = Metrics("1")
    for n in range(module.BACKENDS_MAX + 1):
        metrics.call_finished(f"peer:old{n}", "t", "ok", 0.01)
    metrics.observe(Mesh((peer("old1"), peer("new"))), Membership())
    metrics.call_finished("peer:new", "t", "ok", 0.01)
    counts = {name for name in series(metrics) if name.startswith("mesh_call_seconds_count")}
    assert counts == {f'mesh_call_seconds_count{{backend="{b}"}}' for b in ("peer:old1", "peer:new", "other")}


@pytest.mark.parametrize("name", ["http://10.0.0.7/x", "a b", "x\ny", 'q"', "é", "", "a" * 129])
def test_what_is_no_name_never_becomes_a_label(name: str) -> None:
    metrics = Metrics("1")
    metrics.call_finished("peer:a", name, "ok", 0.01)
    assert series(metrics)['mesh_calls_total{backend="peer:a",outcome="ok",tool="other"}'] == 1


async def test_no_address_of_a_peer_is_in_the_exposition() -> None:
    metrics = Metrics("1")
    metrics.observe(Mesh((peer("a"),)), Membership())
    assert b"10.9.8.7" not in metrics.render()[0]


def test_a_blocked_loop_shows_as_lag_and_is_forgotten_after_half_a_minute() -> None:
    """On a clock of its own: a busy machine's loop lags as well, again and again."""
    loop = VirtualTimeLoop()

    async def shown_s() -> list[float]:
        metrics, found = Metrics("1"), list[float]()
        watch = asyncio.create_task(metrics.watch_loop_lag(), name="lag")
        await asyncio.wait([watch], timeout=LAG_EVERY_S / 2)
        loop.jump(0.2 + LAG_EVERY_S / 2)  # As a slow parser would hold it, beyond the next look.
        for seconds in (LAG_EVERY_S / 2, 29.0, 2.0):
            await asyncio.wait([watch], timeout=seconds)
            found.append(series(metrics)["mesh_event_loop_lag_seconds"])
        watch.cancel()
        await asyncio.wait([watch])
        return found

    try:
        assert loop.run_until_complete(shown_s()) == pytest.approx([0.2, 0.2, 0.0])
    finally:
        loop.close()


def test_two_nodes_in_one_process_do_not_share_their_counters() -> None:
    one, other = Metrics("1"), Metrics("1")
    one.auth_failed()
    assert (series(one)["mesh_auth_failures_total"], series(other)["mesh_auth_failures_total"]) == (1, 0)


def test_process_metrics_stand_beside_ours() -> None:
    body, content_type = Metrics("1").render()
    assert b"process_resident_memory_bytes" in body
    assert content_type.startswith("text/plain; version=0.0.4")


def test_buckets_name_a_trace_in_the_format_that_can_where_calls_are_traced() -> None:
    traced = Metrics("1", Spans("http://127.0.0.1:1/v1/traces", {}))
    traced.call_started()
    traced.call_finished("server:a", "a__t", "ok", 0.02, "4bf92f3577b34da6a3ce929d0e0e4736")
    body, content_type = traced.render("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text")
    assert b'le="0.025"} 1.0 # {trace_id="4bf92f3577b34da6a3ce929d0e0e4736"} 0.02' in body
    assert b"trace_id" not in traced.render("text/plain")[0]
    assert Metrics("1").render("application/openmetrics-text")[1].startswith("text/plain")
