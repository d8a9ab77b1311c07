"""Files that survive a crash at any moment, the private folders that they live in, and a watch for changed files.

Called by `agent.state.overrides`, `agent.state.identity` and `agent.cli.servers_import`. The one rule: when
`write_durably` returns, the new content is on the disk under its name; until then the old content is, whole.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent.descriptors import said_shortage
from agent.errors import ConfigRefused
from discovery.ordinary_file import open_unlinked

log = logging.getLogger(__name__)

# A changed file is in use within a second; a stat of a few files costs microseconds.
POLL_EVERY_S: Final = 0.5

Stamp = tuple[int, int, int] | None

FILE_MODE = 0o600  # Overrides hold tokens.
FOLDER_MODE = 0o700


def write_durably(path: Path, content: bytes, *, like: os.stat_result | None = None) -> None:
    """Replace the file at `path`, or make it. Blocks on the disk: call it in a thread. Raises OSError.

    `like`: whose mode and owner the new file gets; without it, it is private. Data is synced before the rename, so that
    the name never leads to half a file, and the folder after it, so that the rename itself survives a power cut.
    """
    draft = path.with_name(f"{path.name}.tmp")  # One writer: what a crash leaves here is overwritten by the next one.
    descriptor = open_unlinked(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
    try:
        _write(descriptor, content, like)
        os.replace(draft, path)  # noqa: PTH105 - beside os.fsync, the four steps read as what they are
    except BaseException:
        with suppress(OSError):
            draft.unlink()  # It may hold secrets, and the last blocks of a full disk.
        raise
    _sync_folder(path.parent)


async def to_its_end(write: Callable[[], None], then: Callable[[], None] = lambda: None) -> None:
    """Run a write in a thread, and `then` once the disk has it. Raises what the write raises.

    A caller that is cancelled waits until the disk has answered, so memory and disk agree: a write that is still
    waiting for a thread would never begin, and one that goes on would share its draft with the next.
    """
    writing = asyncio.get_running_loop().run_in_executor(None, write)
    cancelled: asyncio.CancelledError | None = None
    while not writing.done():
        try:
            await asyncio.wait([writing])
        except asyncio.CancelledError as exc:
            cancelled = exc  # Raised again below; a thread cannot be stopped in the middle of a write.
    failure = writing.exception()
    if failure is None:
        then()
    if cancelled is not None:
        raise cancelled
    if failure is not None:
        raise failure


def _write(descriptor: int, content: bytes, like: os.stat_result | None) -> None:
    with os.fdopen(descriptor, "wb") as file:
        if like is not None and (like.st_uid, like.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(descriptor, like.st_uid, like.st_gid)
        mode = FILE_MODE if like is None else like.st_mode & 0o777
        os.fchmod(descriptor, mode)  # The mode above counts for a new file only.
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


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


async def watch_files(
    paths: Sequence[Path],
    changed: Callable[[Path], Awaitable[None]],
    look: Callable[[Sequence[Path], Sequence[Stamp] | None], Awaitable[Sequence[Stamp]]],
) -> None:
    """Call `changed` after every change of one of `paths`, until cancelled; also when one appears or vanishes.

    `look`: as `next_stamps`; from a thread, where a network's file system may be slow.
    """
    known = await look(paths, None)
    while True:
        before, known = known, await look(paths, known)
        for path, was, now in zip(paths, before, known, strict=True):
            if was == now:
                continue
            try:
                await changed(path)
            except Exception:  # The top of an eternal loop: the next change must be seen.
                log.exception("a changed file could not be taken", extra={"path": str(path)})


def next_stamps(paths: Sequence[Path], known: Sequence[Stamp] | None, over: threading.Event) -> Sequence[Stamp]:
    """The `stamps` at once where none are known, else when they are others, or `over` is set; looks every half second.

    Blocks. A thread that stays is woken for a tenth of what another thread for each look costs a node at rest.
    """
    if known is None:
        return stamps(paths, [None] * len(paths))
    while not over.wait(POLL_EVERY_S):
        if (found := stamps(paths, known)) != known:
            return found
    return known


def stamps(paths: Sequence[Path], known: Sequence[Stamp]) -> list[Stamp]:
    """What of each file changes with its content; None where there is none. Blocks on the disk.

    `known`: of the last time; it stays that of a file which this node lacks the descriptor to read now.
    """
    found = [(path, was, _stamp(path)) for path, was in zip(paths, known, strict=True)]
    return [was if now != was and _cannot_open(path) else now for path, was, now in found]


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
