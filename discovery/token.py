"""The ACL token of the moment: a fixed one, or a file that somebody rotates.

Asked by the client before every request. The one rule: a file that cannot be read keeps its last good token, because a
rotation may be half done.
"""

import os
from pathlib import Path

from discovery.environment import ConsulSettings, is_header_safe

LOOK_S = 1.0  # How often a rest after a refusal looks for a rotated token; half of the promised 2 s.

# Cheap to look at: the file's identity, its time and its size. A rewrite in place or by rename changes at least one.
_Stamp = tuple[int, int, int]


class TokenSource:
    """Holds the current token; reads the file again when its stamp changes."""

    def __init__(self, settings: ConsulSettings) -> None:
        self._path = Path(settings.token_file) if settings.token_file else None
        self._token = settings.token
        self._stamp: _Stamp | None = None

    def current(self) -> str | None:
        """The token to send now, or None for anonymous requests."""
        if self._path is None:
            return self._token
        try:
            status = os.stat(self._path)  # noqa: PTH116 - one system call on every request, kept as plain as it is
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp != self._stamp:
                token = self._path.read_text("utf-8").strip()
                if is_header_safe(token):
                    self._token, self._stamp = token, stamp
        except (OSError, UnicodeDecodeError):
            pass
        return self._token

    @property
    def rotates(self) -> bool:
        """Whether the token can change while we run."""
        return self._path is not None
