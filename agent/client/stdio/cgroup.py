"""A control group for each child (Linux, cgroups v2), so that all that it started can be ended at once.

Used by `agent.client.stdio.process`; the guardian ends what is in the groups of a node that died. What a child starts
is in its group, whatever it does to its session, parents and environment; it leaves only by a right to write control
groups, which a child of another account (`mesh.user`) does not have. The one rule: a child runs nothing before it is in
its group.
"""

import errno
import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent.errors import Unreachable

log = logging.getLogger(__name__)

# Waits for a line on its stdin, which comes once the process is in its group, and becomes the command then.
GATE: Final = ("-c", 'read -r _ && exec "$@"', "mesh-agent-gate")
OPENING: Final = b"\n"
_MEMBERS, _END = "cgroup.procs", "cgroup.kill"


class ControlGroups:
    """Those of one node, below its own group. `folder`: where they are; None where there are none, and `fault` why."""

    def __init__(self, own: "Path | str") -> None:
        """`own`: the node's group, as a folder, or why there is none."""
        self.folder: Path | None = None
        self.fault = own if isinstance(own, str) else ""
        self._ended: list[Path] = []  # What still holds dying processes.
        self._count = 0
        if isinstance(own, Path):
            self._make(own / f"mesh-agent-{os.getpid()}-{secrets.token_hex(4)}")

    def __repr__(self) -> str:
        return f"<ControlGroups {self.folder or self.fault}>"

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir()
        except OSError as exc:
            self.fault = f"{folder.parent} does not let this node make any ({exc.strerror})"
            return
        if not (folder / _END).exists():
            folder.rmdir()
            self.fault = "this kernel cannot end one (cgroup.kill, since Linux 5.14)"
            return
        self.folder = folder

    def take(self, pid: int) -> "ControlGroup | None":
        """Put a process that waits at the gate into a group of its own; None where that cannot be, and `fault` why."""
        self._tidy()
        if self.folder is None:
            return None
        self._count += 1
        group = ControlGroup(self.folder / f"child-{self._count}", self._ended)
        try:
            group.path.mkdir()
            (group.path / _MEMBERS).write_text(str(pid))
        except ProcessLookupError:  # It has ended at the gate.
            group.end()
            return None
        except OSError as exc:
            group.end()
            self.fault = f"a process cannot be put into one ({exc.strerror})"
            log.info("children have no control groups of their own", extra={"reason": self.fault})
            self.folder = None
            return None
        return group

    def _tidy(self) -> None:
        self._ended[:] = [path for path in self._ended if not _removed(path)]


class ControlGroup:
    """That of one child."""

    def __init__(self, path: Path, ended: list[Path]) -> None:
        self.path = path
        self._ended = ended

    def __repr__(self) -> str:
        return f"<ControlGroup {self.path.name}>"

    def end(self) -> None:
        """Kill all that is in it. Its folder is removed once that is dead, by the next one or by the guardian."""
        with suppress(OSError):
            (self.path / _END).write_text("1")
        if not _removed(self.path):
            self._ended.append(self.path)


def own_group(proc: Path = Path("/proc/self")) -> Path | str:
    """The folder of the group that this process is in; a text that says why there is none."""
    try:
        groups, mounts = (proc / "cgroup").read_text(), (proc / "mountinfo").read_text()
    except OSError:
        return "this system has no control groups"
    own = next((line[3:] for line in groups.splitlines() if line.startswith("0::/")), None)
    for line in mounts.splitlines():
        # Fields 4 and 5 are the root of the mount and its place; the type follows a lone dash (proc_pid_mountinfo(5)).
        before, _, after = line.partition(" - ")
        fields = before.split()
        if own is not None and after.startswith("cgroup2 ") and own.startswith(fields[3].rstrip("/") + "/"):
            return Path(fields[4]) / own[len(fields[3].rstrip("/")) :].lstrip("/")
    return "this system has no control groups of version 2 (cgroup2)"


def refused(fault: str) -> Unreachable:
    """The failure of a child that has to have a group and gets none."""
    failure = Unreachable(f"cannot have a control group of its own: {fault}; leave mesh.cgroup out, or mend that")
    failure.what = "cannot be started: it gets no control group of its own"
    return failure


def _removed(path: Path) -> bool:
    try:
        path.rmdir()
    except OSError as exc:
        return exc.errno in (errno.ENOENT, errno.ENOTEMPTY, errno.EACCES)
    return True


_armed: list[bool] = []
_groups: list[ControlGroups] = []


def arm() -> None:
    """From now on children get groups, where they can."""
    if not _armed:
        _armed.append(os.name == "posix")


def groups() -> ControlGroups | None:
    """This node's, made for its first child, whose guardian removes them in the end; None where nothing was armed."""
    if not _groups and any(_armed):
        _groups.append(ControlGroups(own_group()))
    return _groups[0] if _groups else None
