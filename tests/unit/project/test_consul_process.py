"""Where the Consul of a test keeps its state (`tests/consul_process.py`); none is started."""

import gc
from pathlib import Path

import pytest

from tests import consul_process
from tests.consul_process import RunningConsul


def consul(folder: Path) -> RunningConsul:
    return RunningConsul(Path("consul"), folder, {})


def test_state_is_in_memory_where_there_is_room_and_is_wiped_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setattr(consul_process, "MEMORY", memory)
    monkeypatch.setattr(consul_process, "MEMORY_BYTES_MIN", 1)
    one = consul(tmp_path)
    kept = one.state_folder()
    assert (kept.parent, one.state_folder()) == (memory, kept)
    one.kill()
    assert kept.exists()
    one.kill(wipe=True)
    assert not kept.exists()


def test_state_that_is_left_in_memory_goes_with_its_consul(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consul_process, "MEMORY", tmp_path)
    monkeypatch.setattr(consul_process, "MEMORY_BYTES_MIN", 1)
    kept = consul(tmp_path).state_folder()
    gc.collect()
    assert not kept.exists()


@pytest.mark.parametrize("memory", ["nowhere", ""])
def test_state_is_beside_the_log_where_memory_has_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: str
) -> None:
    monkeypatch.setattr(consul_process, "MEMORY", tmp_path / memory)
    monkeypatch.setattr(consul_process, "MEMORY_BYTES_MIN", 1 << 62)
    assert consul(tmp_path).state_folder() == tmp_path / "data"
