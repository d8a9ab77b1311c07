"""Where a node's control group is, and what a child that has to have one hears where there is none."""

from pathlib import Path

import pytest

from agent.client.stdio.cgroup import ControlGroups, own_group
from agent.client.stdio.lines import LineCutter
from agent.client.stdio.process import Child, start_child
from agent.errors import Unreachable
from agent.model import StdioTarget

UNIFIED = "25 30 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
HYBRID = (
    "31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n35 30 0:31 / /u rw,x:1 - cgroup2 cgroup2 rw\n"
)
INSIDE = "40 30 0:22 /docker/1 /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n"


@pytest.mark.parametrize(
    ("groups", "mounts", "folder"),
    [
        ("0::/user.slice/a b\n", UNIFIED, "/sys/fs/cgroup/user.slice/a b"),
        ("0::/\n", UNIFIED, "/sys/fs/cgroup"),
        ("4:memory:/x\n0::/y\n", HYBRID, "/u/y"),
        ("0::/docker/1/z\n", INSIDE, "/sys/fs/cgroup/z"),
        ("0::/elsewhere\n", INSIDE, ""),
        ("4:memory:/x\n", HYBRID, ""),
        ("0::/\n", "", ""),
    ],
)
def test_a_node_finds_its_own_group_below_the_place_where_they_are_mounted(
    groups: str, mounts: str, folder: str, tmp_path: Path
) -> None:
    (tmp_path / "cgroup").write_text(groups)
    (tmp_path / "mountinfo").write_text(mounts)
    found = own_group(tmp_path)
    assert found == Path(folder) if folder else "cgroup2" in str(found)


def test_a_system_without_groups_says_so(tmp_path: Path) -> None:
    assert own_group(tmp_path) == "this system has no control groups"


def test_a_place_where_no_group_can_be_made_or_ended_is_left_as_it_was_with_the_reason(tmp_path: Path) -> None:
    plain = ControlGroups(tmp_path)
    assert "cgroup.kill" in plain.fault
    assert list(tmp_path.iterdir()) == []
    assert "does not let this node make any" in ControlGroups(tmp_path / "missing").fault
    assert plain.take(1) is None


async def test_a_child_that_has_to_have_a_group_is_not_started_without_one() -> None:
    lines = LineCutter(lambda _line: None, lambda _size: None)
    child = Child("it", lines, lambda: None)
    with pytest.raises(Unreachable, match=r"control group of its own: .*; leave mesh\.cgroup out"):
        await start_child(StdioTarget("sh", ("-c", "exit"), cgroup=True), child)
    assert child.pid is None
