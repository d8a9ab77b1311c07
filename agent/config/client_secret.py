"""The secret of an OAuth client as it is now: from its entry, or from a file that is read at each use.

Used where tokens are got (`agent.client.oauth`) and where an issuer is asked about one (`agent.rest.introspection`).
The one rule: the file is read apart from the loop; one that hangs holds up for a moment what needs the secret, nothing
else, and no other read of it is begun before that has ended.
"""

import asyncio
import errno
from functools import partial
from typing import Final

from agent.config.oauth_entry import read_secret
from discovery.patient_look import look_apart

# Of a file system in a network that is slow; what needs the secret tries again.
READ_TIMEOUT_S: Final = 2.0


class ClientSecret:
    """See the module. `path`: of a file in place of the `secret`; empty for none. One for each client."""

    def __init__(self, secret: str, path: str) -> None:
        self._secret, self._path = secret, path
        self._look: asyncio.Task[str] | None = None

    def __repr__(self) -> str:
        return f"<ClientSecret {self._path or 'of the entry'}>"

    async def current(self) -> str:
        """The secret; empty for a client without one. Raises `OSError`, `ValueError`."""
        if not self._path:
            return self._secret
        if self._look is None:
            # Its own task, which goes on where the one that waits for it is given up.
            reading = look_apart(partial(read_secret, self._path))
            self._look = asyncio.get_running_loop().create_task(reading, name="secret of an OAuth client")
            self._look.add_done_callback(self._ended)
        look = self._look
        await asyncio.wait([look], timeout=READ_TIMEOUT_S)
        if not look.done():
            raise OSError(errno.ETIMEDOUT, "its file system does not answer", self._path)
        return look.result()

    def _ended(self, look: "asyncio.Task[str]") -> None:
        self._look = None
        if not look.cancelled():
            look.exception()  # Perhaps nothing waits for it any more.
