"""Ordinary files, opened to be read: what else may stand at a path is refused, for it might be waited for without end.

Used wherever this node reads a path that an operator has named, and for its own state. The one rule: opening never
waits for another process and takes nothing from a pipe or a device; every refusal is an `OSError` whose `strerror` says
what is there, and the fix.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

# What a path may be in place of a file, and what it is called.
_KINDS: Final = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_to_read(path: str | os.PathLike[str], bytes_max: int | None = None) -> BinaryIO:
    """An ordinary file, open; the null device counts as an empty one. Raises OSError, ValueError (it is no path).

    `bytes_max`: a longer file is refused.
    """
    _refuse(path, Path(path).stat(), bytes_max)  # Before it is opened: opening alone sets off some devices and pipes.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _refuse(path, os.fstat(descriptor), bytes_max)  # It may be another one by now.
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def open_saved(path: str | os.PathLike[str]) -> BinaryIO:
    """As `open_to_read`, of a file that this node keeps for itself: a link that leads nowhere is no missing file.

    Something was there once, which a start without it would forget.
    """
    try:
        return open_to_read(path)
    except FileNotFoundError:
        if not Path(path).is_symlink():
            raise
        what = "it is a link to a file that is not there; put that file back"
        raise OSError(errno.EINVAL, what, os.fspath(path)) from None


def open_unlinked(path: str | os.PathLike[str], flags: int, mode: int) -> int:
    """A descriptor of a file that this node writes; a link in its place might lead to another's. Raises OSError."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW, mode)
    except OSError as exc:
        if exc.errno != errno.ELOOP:
            raise
        # The system's own words are about too many links.
        what = f"{Path(path).name} is a link, and none is followed here; put an ordinary file in its place"
        raise OSError(errno.ELOOP, what, os.fspath(path)) from exc


def _refuse(path: str | os.PathLike[str], found: os.stat_result, bytes_max: int | None) -> None:
    kind = stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFCHR and found.st_rdev == Path(os.devnull).stat().st_rdev:
        return
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, "it is a folder; name a file in it", os.fspath(path))
    if kind != stat.S_IFREG:
        what = f"it is {_KINDS.get(kind, 'something else')} and no ordinary file; put its content into a file there"
        raise OSError(errno.EINVAL, what, os.fspath(path))
    if bytes_max is not None and found.st_size > bytes_max:
        raise OSError(errno.EFBIG, f"it is larger than {bytes_max} bytes; is it the right file?", os.fspath(path))
