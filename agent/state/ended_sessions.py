"""IDs of sessions that their clients ended (DELETE), kept until they expire, through restarts of this node.

Asked by `agent.server.sessions.table`, for an ID says by itself all that is needed to go on with its session. Those
that ended at other nodes are here, too (`agent.dispatch.ended_sessions`). A line of the file is the time when an ID
expires, and a digest of it, since an ID could be used. The one rule: it is a convenience, so nothing about it keeps a
node from starting or an answer from being sent; a disk that refuses is logged once.
"""

import asyncio
import hashlib
import logging
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final

from agent.state.durable_file import FILE_MODE, to_its_end, write_durably
from discovery.ordinary_file import open_saved, open_unlinked

log = logging.getLogger(__name__)

FILE_NAME: Final = "ended_sessions"
# Of more than these, the oldest could be adopted again.
ENDED_MAX: Final = 10_000
# Appending costs microseconds; a file with so many lines is written anew with those that count.
LINES_MAX: Final = 2 * ENDED_MAX
_LINE_BYTES: Final = 50
_LINE: Final = re.compile(r"(\d{1,12}) ([0-9a-f]{32})")


class EndedSessions:
    """See the module. Its one writer is the event loop; without a folder, IDs are remembered in memory alone."""

    def __init__(self, folder: Path | None = None) -> None:
        """Reads the file."""
        self._path = None if folder is None else folder / FILE_NAME
        self._until_s: OrderedDict[str, int] = OrderedDict()  # By digest; the one ended first is first.
        self._lines = 0
        self._disk = asyncio.Lock()
        self._refused = False
        # Called with each ID that ends here, and with each that ended at another node.
        self.here: Callable[[str, int], None] = lambda _session_id, _until_s: None
        self.elsewhere: set[Callable[[str], None]] = set()
        if self._path is not None:
            self._read(self._path, time.time())

    def __repr__(self) -> str:
        return f"<EndedSessions {len(self._until_s)}>"

    def __contains__(self, session_id: str) -> bool:
        return bool(self._until_s) and _digest(session_id) in self._until_s

    async def add(self, session_id: str, until_s: int) -> None:
        """Remember an ID that is valid until then (seconds since 1970); returns when the file has it."""
        self.here(session_id, until_s)
        await self._remember(session_id, until_s)

    async def hear(self, ended: Iterable[tuple[str, int]]) -> None:
        """Take what clients ended at another node: IDs, and until when they are valid."""
        for session_id, until_s in ended:
            if session_id not in self:
                for end in tuple(self.elsewhere):
                    end(session_id)
                await self._remember(session_id, until_s)

    async def _remember(self, session_id: str, until_s: int) -> None:
        digest = _digest(session_id)
        self._until_s[digest] = until_s
        if len(self._until_s) > ENDED_MAX:
            self._until_s.popitem(last=False)
        if self._path is None:
            return
        async with self._disk:
            if self._lines < LINES_MAX:
                self._lines += 1
                write = partial(_append, self._path, _line(digest, until_s))
            else:
                self._lines = len(self._until_s)
                write = partial(write_durably, self._path, self._content())
            try:
                await to_its_end(write)
                self._refused = False
            except OSError as exc:
                level = logging.DEBUG if self._refused else logging.WARNING
                log.log(level, "an ended session cannot be kept on disk", extra={"reason": exc.strerror or str(exc)})
                self._refused = True

    def _read(self, path: Path, now_s: float) -> None:
        try:
            with open_saved(path) as file:
                lines = file.read(2 * LINES_MAX * _LINE_BYTES).decode("ascii", "replace").splitlines()
        except FileNotFoundError:
            return
        except OSError as exc:
            log.warning("the ended sessions of before are ignored", extra={"reason": exc.strerror or str(exc)})
            return
        for found in map(_LINE.fullmatch, lines):  # A crash may leave half a line, which is none.
            if found is not None and int(found[1]) > now_s:
                self._until_s[found[2]] = int(found[1])
        while len(self._until_s) > ENDED_MAX:
            self._until_s.popitem(last=False)
        # The next one to be added writes the file anew, unless it is as good as new.
        self._lines = len(lines) if len(lines) == len(self._until_s) else LINES_MAX

    def _content(self) -> bytes:
        return b"".join(_line(digest, until_s) for digest, until_s in self._until_s.items())


def _digest(session_id: str) -> str:
    return hashlib.sha256(session_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _line(digest: str, until_s: int) -> bytes:
    return f"{until_s} {digest}\n".encode()


def _append(path: Path, line: bytes) -> None:
    descriptor = open_unlinked(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, FILE_MODE)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)
