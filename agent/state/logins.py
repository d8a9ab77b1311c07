"""What a login at a server's issuer gave: tokens, and what is needed to refresh them; in the node's state folder, 0600.

Used by `agent.client.oauth` alone. A file that the system refuses to read is read again, in a thread, and not written
over before. The one rule: a login is for the URL that it was made for; an entry with the same name and another URL
never gets its tokens.
"""

import asyncio
import errno
import logging
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson

from agent.model import Json
from agent.state.durable_file import to_its_end, write_durably
from agent.state.saved_file import put_aside
from agent.state.saved_shape import Misshapen, one_of, text
from discovery.ordinary_file import open_saved

log = logging.getLogger(__name__)

FILE_NAME: Final = "logins.json"
SCHEMA: Final = 1
FILE_BYTES_MAX: Final = 16 * 1024 * 1024
# A file that could not be read is read again this often.
AGAIN_AFTER_S: Final = 10.0
_OBJECTS: Final = ("tokens", "client", "issuer", "resource")


@dataclass(frozen=True, slots=True)
class Login:
    """Tokens of one server. `ends_at_s`: of the access token, Unix time; None where the issuer does not say.

    `tokens`: as the issuer gave them (RFC 6749, section 5.1). `client`: our registration. `issuer` and
    `resource`: the metadata of issuer and server.
    """

    url: str
    tokens: Json = field(repr=False)
    ends_at_s: float | None = None
    client: Json = field(default_factory=dict, repr=False)
    issuer: Json = field(default_factory=dict, repr=False)
    resource: Json = field(default_factory=dict, repr=False)

    @property
    def access_token(self) -> str:
        """What requests carry."""
        return str(self.tokens["access_token"])

    @property
    def scopes(self) -> list[str]:
        """Those of the tokens, where the issuer names them."""
        return str(self.tokens.get("scope") or "").split()


class LoginStore:
    """See the module. Its one writer is the event loop; `folder` None: logins are kept in memory alone."""

    def __init__(self, folder: Path | None) -> None:
        """Reads the file. A damaged one costs logins, and is put aside; it keeps no node from starting."""
        self._path = None if folder is None else folder / FILE_NAME
        self._disk = asyncio.Lock()
        self._logins: dict[str, Login] = {}
        self._forgetting: list[str] = []  # Names whose login is to go, which the file may still have.
        self._refusal = ""  # Why the file could not be read yet; what was done since counts more than what it holds.
        try:
            self._logins = {} if self._path is None else _read(self._path)
        except OSError as exc:
            self._refused(exc)

    def __repr__(self) -> str:
        return f"<LoginStore {len(self._logins)}>"

    def get(self, name: str, url: str) -> Login | None:
        """The login of a server, if it is for this URL."""
        found = self._logins.get(name)
        return found if found is not None and found.url == url else None

    async def put(self, name: str, login: Login | None) -> None:
        """Keep a login, or forget the one there is; returns when the disk has it. Raises OSError."""
        if login is not None:
            self._logins[name] = login
        elif self._logins.pop(name, None) is None and not self._refusal:
            return
        if self._path is None:
            return
        forgotten = [name] if login is None else []
        self._forgetting += forgotten
        try:
            await self._save(self._path)
        finally:
            for one in forgotten:
                self._forgetting.remove(one)

    async def _save(self, path: Path) -> None:
        async with self._disk:
            if self._refusal:
                await self._read_again(path)
            saved = {"schema": SCHEMA, "logins": {name: asdict(login) for name, login in self._logins.items()}}
            await to_its_end(partial(write_durably, path, orjson.dumps(saved)))

    async def keep_reading(self) -> None:
        """Read a file that the system refused at the start, until it can be read; then return."""
        while self._path is not None and self._refusal:
            await asyncio.sleep(AGAIN_AFTER_S)
            async with self._disk:
                with suppress(OSError):
                    await self._read_again(self._path)

    async def _read_again(self, path: Path) -> None:
        """Raises OSError, which says that nothing is written either."""
        try:
            found = await asyncio.to_thread(_read, path)
        except OSError as exc:
            self._refused(exc)
            what = f"the file of logins cannot be read, and is not written over: {self._refusal}"
            raise OSError(errno.EBUSY, what) from exc
        kept = {name: login for name, login in found.items() if name not in self._forgetting}
        self._logins, self._refusal = {**kept, **self._logins}, ""
        log.info("logins at servers can be read again", extra={"path": str(path)})

    def _refused(self, exc: OSError) -> None:
        refusal = exc.strerror or str(exc)
        level = logging.DEBUG if refusal == self._refusal else logging.WARNING
        log.log(level, "logins at servers cannot be read", extra={"path": str(self._path), "reason": refusal})
        self._refusal = refusal


def _read(path: Path) -> dict[str, Login]:
    """Raises OSError."""
    try:
        with open_saved(path) as file:
            saved = orjson.loads(file.read(FILE_BYTES_MAX))
        _check(saved)
        return {name: Login(**one) for name, one in saved["logins"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError):
        aside, refusal = put_aside(path)
        log.warning("logins at servers are lost", extra={"path": str(path), "aside": aside, "reason": "it is damaged"})
        if refusal:
            log.warning("the file of logins could not be put aside", extra={"path": str(path)})
        return {}


def _check(saved: Any) -> None:
    if not isinstance(saved, dict) or not isinstance(saved.get("logins"), dict):
        raise Misshapen("", "Input should be an object")
    one_of(SCHEMA)(saved.get("schema"), "schema")
    for name, one in saved["logins"].items():
        if not isinstance(one, dict) or not all(isinstance(one.get(key), dict) for key in _OBJECTS):
            raise Misshapen(name, "Input should be an object")
        text(one["tokens"].get("access_token"), name)
        text(one.get("url"), name)
        if not isinstance(one.get("ends_at_s"), int | float | None):
            raise Misshapen(name, "Input should be a number")
