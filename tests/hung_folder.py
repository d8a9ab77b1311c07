"""A file system that does not answer, as one of a network may; it takes root and FUSE, and a test is skipped without.

The one rule: whatever looks at a file there waits in the kernel, until the folder is left.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FUSE = Path("/dev/fuse")
_FORCE_AND_DETACH = 3


class HungFolder:
    """A mounted file system whose server never answers a question of the kernel's."""

    def __init__(self, folder: Path) -> None:
        self.path, self._libc = folder, ctypes.CDLL(None, use_errno=True)
        self._server = os.open(FUSE, os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._server},rootmode=40000,user_id=0,group_id=0".encode()
        self.is_mounted = self._libc.mount(b"hung", os.fsencode(folder), b"fuse", 0, options) == 0

    def end(self) -> None:
        """Those that wait get an error."""
        if self.is_mounted:
            self._libc.umount2(os.fsencode(self.path), _FORCE_AND_DETACH)
            self.is_mounted = False
        if self._server >= 0:
            os.close(self._server)
            self._server = -1


@contextmanager
def hung_folder(path: Path) -> Iterator[HungFolder]:
    """One at this path, which is made."""
    if os.geteuid() != 0 or not FUSE.exists():
        pytest.skip("NO FILE SYSTEM OF ONE'S OWN: one that hangs was not tried; it takes root and FUSE")
    path.mkdir()
    folder = HungFolder(path)
    try:
        if not folder.is_mounted:
            pytest.skip("NO FILE SYSTEM OF ONE'S OWN: one that hangs was not tried; it cannot be mounted here")
        yield folder
    finally:
        folder.end()
