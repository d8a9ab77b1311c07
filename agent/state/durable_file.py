"""Files that survive a crash at any moment, the private folders that they live in, and a watch for changed files.

Called by `agent.state.overrides`, `agent.state.identity` and `agent.cli.servers_import`. The one rule: when
`write_durably` returns, the new content is on the disk under its name; until then the old content is, whole.
"""

import asyncio
import errno
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from agent.descriptors import said_shortage
from agent.errors import ConfigRefused

log = logging.getLogger(__name__)

# A changed file is in use within a second; a stat of a few files costs microseconds.
POLL_EVERY_S: Final = 0.5

Stamp = tuple[int, int, int] | None

FILE_MODE = 0o600  # Overrides hold tokens.
FOLDER_MODE = 0o700


def open_to_read(path: Path) -> BinaryIO:
    """An ordinary file, open. Raises OSError, also for a pipe or a device in its place, which might be waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(errno.EINVAL, "it is no ordinary file", str(path))
    return os.fdopen(descriptor, "rb")


def write_durably(path: Path, content: bytes, *, like: os.stat_result | None = None) -> None:
    """Replace the file at `path`, or make it. Blocks on the disk: call it in a thread. Raises OSError.

    `like`: whose mode and owner the new file gets; without it, it is private. Data is synced before the rename, so that
    the name never leads to half a file, and the folder after it, so that the rename itself survives a power cut.
    """
    draft = path.with_name(f"{path.name}.tmp")  # One writer: what a crash leaves here is overwritten by the next one.
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        if like is not None and (like.st_uid, like.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(descriptor, like.st_uid, like.st_gid)
        mode = FILE_MODE if like is None else like.st_mode & 0o777
        os.fchmod(descriptor, mode)  # The mode above counts for a new file only.
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)  # noqa: PTH105 - beside os.fsync, the four steps read as what they are
    _sync_folder(path.parent)


def make_private_folder(folder: Path) -> None:
    """Make the folder, readable by its owner alone. Raises ConfigRefused with the reason.

    Folders above it are made as private, but left alone where they exist: the operator may have named a shared one.
    """
    try:
        folder.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
        if folder.stat().st_mode & 0o077:
            folder.chmod(FOLDER_MODE)
    except OSError as exc:
        reason = exc.strerror or str(exc)
        raise ConfigRefused(
            f"{folder}: the state folder cannot be used: {reason}; set MESH_STATE_DIR to a folder of your own"
        ) from exc


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def watch_file(path: Path, changed: Callable[[], None]) -> None:
    """Call `changed` after every change of `path`, until cancelled; also when it appears or vanishes."""
    known = _stamp(path)
    while True:
        await asyncio.sleep(POLL_EVERY_S)
        stamp = _stamp(path)
        if stamp == known or _cannot_open(path):
            continue
        known = stamp
        try:
            changed()
        except Exception:  # The top of an eternal loop: the next change must be seen.
            log.exception("a changed file could not be taken", extra={"path": str(path)})


def _cannot_open(path: Path) -> bool:
    """Whether this node has no descriptor for it now: what a change says would be refused, and not looked at again."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as exc:
        return bool(said_shortage(exc))
    return False


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
