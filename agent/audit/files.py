"""The files of an audit: the one that is written, those before it, and how one becomes the other.

Used by `agent.audit.trail` in a thread, and by the command line, which only reads. All calls block on the disk. The one
rule: a line is never changed once it was written; what a crash left of a half one was never acknowledged, and is cut.
"""

import calendar
import fcntl
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agent.audit.chain import Head, read_line
from agent.errors import ConfigRefused
from discovery.ordinary_file import open_unlinked

# In the node's own folder, where nothing else is set.
FILE_NAME: Final = "audit.jsonl"
# About 40,000 records; an editor opens it, and a disk bears all that are kept.
FILE_BYTES_MAX: Final = 16 * 1024 * 1024
FILE_AGE_MAX_S: Final = 30 * 86_400.0
# Two years of quiet, and 384 MiB of noise.
FILES_KEPT_MAX: Final = 24
_MODE: Final = 0o600
_TAIL_BYTES: Final = 64 * 1024
# Of what a page shows; some 600 records.
_SHOWN_BYTES_MAX: Final = 256 * 1024
_OLDER: Final = re.compile(r"\.(\d{1,12})")


class AuditFile:
    """The file that is written. One process at a time: it is locked. Called by one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Opens the file, or makes it. Raises `ConfigRefused`."""
        self.path = path
        self.torn_bytes = 0
        self._descriptor = _opened(path)
        try:
            self.head = self._read_head()
        except OSError as exc:
            os.close(self._descriptor)
            raise _unusable(path, exc) from exc
        self._since_s = self._begun_s()
        _sync_folder(path.parent)

    def __repr__(self) -> str:
        return f"<AuditFile {self.path.name} {self.head.seq}>"

    def append(self, lines: bytes, head: Head, *, sync: bool) -> None:
        """Write lines, after which the newest record is `head`'s. `sync`: they are on the disk then.

        Raises OSError; the file is as it was then.
        """
        size, view = os.fstat(self._descriptor).st_size, memoryview(lines)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
            if sync:
                os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, size)
            raise
        self.head = head

    @property
    def is_due(self) -> bool:
        """Whether another file should be begun."""
        size = os.fstat(self._descriptor).st_size
        return size > 0 and (size >= FILE_BYTES_MAX or time.time() - self._since_s >= FILE_AGE_MAX_S)

    def begin_anew(self) -> None:
        """Put the file beside the older ones, drop the oldest, and begin another.

        Raises OSError; where there is no other file then, the present one is as it was.
        """
        os.fsync(self._descriptor)
        aside = self.path.with_name(f"{self.path.name}.{self.head.seq}")
        os.rename(self.path, aside)  # noqa: PTH104 - beside os.fsync
        try:
            descriptor = _opened(self.path)
        except ConfigRefused as exc:
            os.rename(aside, self.path)  # noqa: PTH104 - as above
            raise OSError(str(exc)) from exc
        os.close(self._descriptor)
        self._descriptor, self._since_s = descriptor, time.time()
        _sync_folder(self.path.parent)
        for path in older_files(self.path)[:-FILES_KEPT_MAX]:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; it may be locked by another process then."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _read_head(self) -> Head:
        size = os.fstat(self._descriptor).st_size
        start = max(0, size - _TAIL_BYTES)
        tail = os.pread(self._descriptor, _TAIL_BYTES, start)
        whole = tail[: tail.rfind(b"\n") + 1]
        if len(whole) < len(tail):
            self.torn_bytes = len(tail) - len(whole)
            os.ftruncate(self._descriptor, start + len(whole))
        lines = whole.splitlines()
        if not lines and (older := older_files(self.path)):
            lines = older[-1].read_bytes()[-_TAIL_BYTES:].splitlines()
        return _head_of(lines[-1]) if lines else Head()

    def _begun_s(self) -> float:
        first = os.pread(self._descriptor, 4096, 0).partition(b"\n")[0]
        found = re.search(rb'"time":"([0-9T:.-]{19,26})Z?"', first)
        if found is None:
            return time.time()
        return float(calendar.timegm(time.strptime(found[1][:19].decode(), "%Y-%m-%dT%H:%M:%S")))


def newest_lines(path: Path, count: int) -> list[bytes]:
    """The newest whole lines of the file that is written, oldest first; fewer than `count` where they are long."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _SHOWN_BYTES_MAX))
        found = file.read().splitlines(keepends=True)
    whole = found[1:] if size > _SHOWN_BYTES_MAX else found
    return [line for line in whole if line.endswith(b"\n")][-count:]


def older_files(path: Path) -> Sequence[Path]:
    """The files before the present one, the oldest first."""
    found = []
    for other in path.parent.glob(f"{path.name}.*"):
        number = _OLDER.fullmatch(other.name.removeprefix(path.name))
        if number is not None:
            found.append((int(number[1]), other))
    return [other for _, other in sorted(found)]


def _head_of(line: bytes) -> Head:
    try:
        return read_line(line)[1]
    except ValueError:
        # It was changed. The chain goes on from what a check will point at.
        found = re.search(rb'"seq":(\d{1,15})', line)
        return Head(0 if found is None else int(found[1]))


def _opened(path: Path) -> int:
    try:
        descriptor = open_unlinked(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, _MODE)
    except OSError as exc:
        raise _unusable(path, exc) from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(descriptor)
        raise ConfigRefused(f"{path}: another node writes this audit; give each node its own MESH_AUDIT_FILE") from exc
    return descriptor


def _sync_folder(folder: Path) -> None:
    """A new name survives a power cut, too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unusable(path: Path, exc: OSError) -> ConfigRefused:
    return ConfigRefused(
        f"{path}: the audit cannot be written: {exc.strerror or exc}; MESH_AUDIT_FILE may name another file"
    )
