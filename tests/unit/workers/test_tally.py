"""What a worker has done: said once, and added to the node's metrics as if the node had done it."""

from agent.metrics import Metrics
from agent.workers.tally import Tally, add


def samples(metrics: Metrics) -> dict[str, float]:
    lines = [line for line in metrics.render()[0].decode().splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_calls_of_a_worker_are_counted_at_the_node_once() -> None:
    tally, metrics = Tally(), Metrics("1")
    for seconds in (0.001, 0.2):
        tally.call_started()
        tally.call_finished("server:a", "a__echo", "ok", seconds)
    tally.call_started()
    tally.call_finished("server:a", "a__echo", "ok", 0.3, "0af7651916cd43dd8448eb211c80319c")
    tally.call_started()
    tally.retried("server:a")
    tally.retry_refused()
    tally.ejected("server:a", "refused")
    done = tally.take()
    assert (done.in_flight, done.call_count) == (1, 3)
    add(done, metrics)
    add(tally.take(), metrics)
    shown = samples(metrics)
    assert shown['mesh_calls_total{backend="server:a",outcome="ok",tool="a__echo"}'] == 3
    assert shown['mesh_call_seconds_bucket{backend="server:a",le="0.005"}'] == 1
    assert shown['mesh_call_seconds_count{backend="server:a"}'] == 3
    assert shown['mesh_retries_total{backend="server:a"}'] == 1
    assert shown["mesh_retries_refused_total"] == 1
    assert shown['mesh_ejections_total{backend="server:a",reason="refused"}'] == 1
    assert shown["mesh_calls_in_flight"] == 0
    history = metrics.history.roll(10.0)
    assert (history.calls, history.errors) == (3, 0)


def test_calls_under_way_in_workers_are_shown_with_the_nodes_own() -> None:
    metrics = Metrics("1")
    metrics.call_started()
    metrics.workers_running(2, 5, 3)
    metrics.worker_lost()
    metrics.worker_called(5)
    shown = samples(metrics)
    assert shown["mesh_calls_in_flight"] == 4
    assert shown["mesh_workers"] == 2
    assert shown["mesh_worker_connections"] == 5
    assert shown["mesh_lost_workers_total"] == 1
    assert shown["mesh_worker_calls_total"] == 5
