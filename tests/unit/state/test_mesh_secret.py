"""The secret of a mesh that was given none: one for all nodes of a user, readable by that user alone."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.errors import ConfigRefused
from agent.state.mesh_secret import FILE_NAME, own_secret


def test_it_is_made_once_and_private(tmp_path: Path) -> None:
    secret = own_secret(tmp_path / "state")
    assert own_secret(tmp_path / "state") == secret != own_secret(tmp_path / "other")
    assert len(secret) == 32
    assert stat.S_IMODE((tmp_path / "state" / FILE_NAME).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert [path.name for path in (tmp_path / "state").iterdir()] == [FILE_NAME]


def test_a_folder_that_an_operator_has_made_keeps_its_mode(tmp_path: Path) -> None:
    (folder := tmp_path / "state").mkdir(mode=0o755)
    own_secret(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_nodes_that_start_together_have_the_same_one(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(own_secret, [tmp_path / "state"] * 32))) == 1


@pytest.mark.parametrize("content", ["", "00ff\n", "no hexadecimal digits at all, and long enough for a secret!!\n"])
def test_a_damaged_one_is_refused_with_its_remedy(content: str, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(ConfigRefused, match="remove the file"):
        own_secret(tmp_path)


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigRefused, match="MESH_STATE_DIR"):
        own_secret(tmp_path / "file")
