"""The name of a node that was given none: the host's while it is free, and the same one after every start."""

import stat
from pathlib import Path

import pytest

from agent.errors import ConfigRefused
from agent.routing.names import is_valid_name
from agent.state.identity import CLAIMS, default_node_name

ONE, TWO, THREE = "11111111-aaaa", "22222222-bbbb", "33333333-cccc"


def test_the_first_node_gets_the_hosts_name_without_its_domain(tmp_path: Path) -> None:
    assert default_node_name(tmp_path, 8000, ONE, "desk.example.org") == "desk"


def test_the_second_node_gets_the_port_behind_it_and_the_third_on_that_port_its_id(tmp_path: Path) -> None:
    names = [default_node_name(tmp_path, 8001, node_id, "desk") for node_id in (ONE, TWO, THREE)]
    assert names == ["desk", "desk-8001", "desk-33333333"]


def test_a_claimed_name_stays_whatever_the_order_of_starts(tmp_path: Path) -> None:
    first = [default_node_name(tmp_path, port, node_id, "desk") for port, node_id in ((8000, ONE), (8001, TWO))]
    again = [default_node_name(tmp_path, port, node_id, "desk") for port, node_id in ((8001, TWO), (8000, ONE))]
    assert again == list(reversed(first))


@pytest.mark.parametrize("hostname", ["a__b", "höst", "-", "x" * 200, "..", "under_score"])
def test_whatever_the_host_is_called_the_name_is_legal(hostname: str, tmp_path: Path) -> None:
    assert is_valid_name(default_node_name(tmp_path, 8000, ONE, hostname))
    assert is_valid_name(default_node_name(tmp_path, 8001, TWO, hostname))


def test_claims_leave_nothing_half_written_behind(tmp_path: Path) -> None:
    default_node_name(tmp_path, 8000, ONE, "desk")
    default_node_name(tmp_path, 8001, TWO, "desk")
    assert {path.name: path.read_text() for path in (tmp_path / CLAIMS).iterdir()} == {"desk": ONE, "desk-8001": TWO}
    assert stat.S_IMODE((tmp_path / CLAIMS).stat().st_mode) == 0o700


def test_a_folder_that_cannot_be_used_is_refused_with_the_settings_that_help(tmp_path: Path) -> None:
    (tmp_path / CLAIMS).write_text("in the way")
    with pytest.raises(ConfigRefused, match="MESH_NODE_NAME or MESH_STATE_DIR"):
        default_node_name(tmp_path, 8000, ONE, "desk")
