"""The node's state folder: one process at a time, one identity for ever, one epoch a start."""

import os
import stat
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from agent.errors import ConfigRefused
from agent.state.identity import FILE_NAME, LOCK_NAME, open_state

HOLDER = """
import sys
from pathlib import Path
from agent.state.identity import open_state
with open_state(Path(sys.argv[1]), 8000) as state:
    print(state.node_id, state.epoch, flush=True)
    sys.stdin.read()
"""


def test_the_identity_stays_and_the_epoch_grows(tmp_path: Path) -> None:
    seen = []
    for _ in range(3):
        with open_state(tmp_path, 8000) as state:
            seen.append((state.node_id, state.epoch))
    assert [epoch for _, epoch in seen] == [1, 2, 3]
    assert len({node_id for node_id, _ in seen}) == 1
    assert str(UUID(seen[0][0])) == seen[0][0]


def test_each_port_is_another_node_with_a_private_folder(tmp_path: Path) -> None:
    with open_state(tmp_path / "state", 8000) as one, open_state(tmp_path / "state", 8001) as other:
        assert one.node_id != other.node_id
        assert one.folder != other.folder
        for folder in (tmp_path / "state", one.folder, other.folder):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((one.folder / FILE_NAME).stat().st_mode) == 0o600
        assert stat.S_IMODE((one.folder / LOCK_NAME).stat().st_mode) == 0o600


def test_a_second_opening_in_one_process_is_refused_as_well(tmp_path: Path) -> None:
    with open_state(tmp_path, 8000), pytest.raises(ConfigRefused, match=f"process {os.getpid()}"):  # noqa: SIM117 - the order is the test
        with open_state(tmp_path, 8000):
            pass


def test_a_second_process_is_refused_by_the_first_ones_pid_until_it_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        node_id, epoch = holder.stdout.readline().split()
        try:
            with pytest.raises(ConfigRefused, match=f"process {holder.pid}.*another PORT"), open_state(tmp_path, 8000):
                pass
        finally:
            holder.kill()
            holder.wait()
        with open_state(tmp_path, 8000) as state:
            assert (state.node_id, state.epoch) == (node_id, int(epoch) + 1)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        '{"schema": 2, "node_id": "6f1c2a34-0000-4000-8000-000000000000", "epoch": 1}',
        '{"schema": 2, "node_id": "6f1c2a34-0000-4000-8000-000000000000", "epoch": 1, "key": "00ff"}',
        '{"schema": 3, "node_id": "6f1c2a34-0000-4000-8000-000000000000", "epoch": 1}',
        '{"schema": 1, "node_id": 7, "epoch": 1}',
        '{"schema": 1, "node_id": "6f1c2a34-0000-4000-8000-000000000000", "epoch": -1}',
        '{"schema": 1, "node_id": "6f1c2a34-0000-4000-8000-000000000000", "epoch": 1, "more": 1}',
    ],
)
def test_a_damaged_identity_is_refused_left_alone_and_unlocked_again(tmp_path: Path, content: str) -> None:
    with open_state(tmp_path, 8000) as state:
        path = state.folder / FILE_NAME
    path.write_text(content)
    for _ in range(2):
        with pytest.raises(ConfigRefused, match="move it away to become a new node"), open_state(tmp_path, 8000):
            pass
    assert path.read_text() == content


@pytest.mark.parametrize("is_own", [False, True])
def test_an_identity_that_is_a_link_which_leads_nowhere_makes_no_new_node(tmp_path: Path, is_own: bool) -> None:
    with open_state(tmp_path / "state", 8000, is_own=is_own) as state:
        path = state.folder / FILE_NAME
    path.rename(tmp_path / "moved.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    with (
        pytest.raises(ConfigRefused, match="it is a link to a file that is not there; put that file back"),
        open_state(tmp_path / "state", 8000, is_own=is_own),
    ):
        pass
    (tmp_path / "moved.json").rename(tmp_path / "elsewhere.json")
    with open_state(tmp_path / "state", 8000, is_own=is_own) as again:
        assert (again.node_id, again.epoch) == (state.node_id, 2)


def test_a_lock_that_is_a_link_is_refused_in_plain_words(tmp_path: Path) -> None:
    with open_state(tmp_path, 8000) as state:
        lock = state.folder / LOCK_NAME
    lock.unlink()
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigRefused, match="cannot be locked: lock is a link"), open_state(tmp_path, 8000):
        pass


def test_a_folder_that_cannot_be_used_is_refused_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigRefused, match="MESH_STATE_DIR"), open_state(tmp_path / "file", 8000):
        pass


def test_an_identity_without_a_key_gets_one_and_the_node_id_that_follows_from_it(tmp_path: Path) -> None:
    with open_state(tmp_path, 8000) as state:
        path = state.folder / FILE_NAME
    path.write_text('{"schema": 1, "node_id": "6f1c2a34-0000-4000-8000-000000000000", "epoch": 7}')
    with open_state(tmp_path, 8000) as state:
        assert (state.epoch, state.node_id) == (8, state.key.node_id)
    with open_state(tmp_path, 8000) as again:
        assert (again.node_id, again.key.seed) == (state.node_id, state.key.seed)


def test_a_folder_of_a_nodes_own_is_that_node_on_any_port(tmp_path: Path) -> None:
    with open_state(tmp_path / "state", 8000, is_own=True) as state:
        assert state.folder == tmp_path / "state"
        assert stat.S_IMODE(state.folder.stat().st_mode) == 0o700
        first = state.node_id
    with open_state(tmp_path / "state", 8001, is_own=True) as again:
        assert (again.node_id, again.epoch) == (first, 2)
        with (
            pytest.raises(ConfigRefused, match=r"another node uses this state folder.*MESH_STATE_DIR"),
            open_state(tmp_path / "state", 8002, is_own=True),
        ):
            pass


def test_what_an_earlier_build_kept_for_the_port_becomes_the_nodes_own(tmp_path: Path) -> None:
    with open_state(tmp_path, 8000) as before:
        (before.folder / "overrides.json").write_text("{}")
    with open_state(tmp_path, 9000, is_own=True) as now:
        assert (now.folder, now.node_id, now.epoch) == (tmp_path, before.node_id, 2)
        assert (tmp_path / "overrides.json").read_text() == "{}"
    with open_state(tmp_path, 8000, is_own=True) as again:
        assert (again.node_id, again.epoch) == (before.node_id, 3)


def test_a_move_that_was_broken_off_goes_on(tmp_path: Path) -> None:
    with open_state(tmp_path, 8000) as before:
        (before.folder / "overrides.json").write_text("{}")
    (before.folder / "overrides.json").rename(tmp_path / "overrides.json")  # Then the power failed.
    with open_state(tmp_path, 8000, is_own=True) as now:
        assert now.node_id == before.node_id
        assert (tmp_path / "overrides.json").exists()


def test_the_state_of_a_running_earlier_build_is_not_taken_from_it(tmp_path: Path) -> None:
    with open_state(tmp_path, 8000):
        with pytest.raises(ConfigRefused, match=f"process {os.getpid()}"), open_state(tmp_path, 9000, is_own=True):
            pass
        assert not (tmp_path / FILE_NAME).exists()


def test_of_a_folder_that_several_nodes_shared_before_each_finds_its_own_part(tmp_path: Path) -> None:
    with open_state(tmp_path, 8000) as one, open_state(tmp_path, 8001) as other:
        pass
    with pytest.raises(ConfigRefused, match="port-8000, port-8001"), open_state(tmp_path, 8002, is_own=True):
        pass
    with open_state(tmp_path, 8000, is_own=True) as now:
        assert (now.folder, now.node_id) == (tmp_path, one.node_id)
        part = tmp_path / "port-8001"
        with (
            pytest.raises(ConfigRefused, match=f"set MESH_STATE_DIR to {part}"),
            open_state(tmp_path, 8001, is_own=True),
        ):
            pass
        with open_state(part, 8001, is_own=True) as beside:
            assert (beside.folder, beside.node_id) == (part, other.node_id)


def test_a_folder_that_others_can_write_to_is_used_as_it_is_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shared = tmp_path / "volume"
    shared.mkdir()
    shared.chmod(0o777)
    with open_state(shared, 8000, is_own=True) as state:
        assert state.folder == shared
        assert stat.S_IMODE(shared.stat().st_mode) == 0o777
        assert stat.S_IMODE((shared / FILE_NAME).stat().st_mode) == 0o600
    assert "every user can replace files" in caplog.text
    with open_state(shared, 8001, is_own=True) as again:
        assert again.node_id == state.node_id


def test_what_an_earlier_build_kept_within_such_a_folder_becomes_its_own(tmp_path: Path) -> None:
    with open_state(tmp_path / "node", 8000, is_own=True) as before:
        (before.folder / "overrides.json").write_text("{}")
    with open_state(tmp_path, 8001, is_own=True) as now:
        assert (now.folder, now.node_id, now.epoch) == (tmp_path, before.node_id, 2)
        assert (tmp_path / "overrides.json").exists()
