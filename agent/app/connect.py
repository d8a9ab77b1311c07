"""Certificates of Consul's own CA, kept as files in the state folder for the listener and for what dials nodes.

Run by the wiring with `MESH_CONSUL_CONNECT`. Files, because TLS reads nothing else, and because a node has to start
while its Consul is away. The one rule: the last certificate stays until there is another one.
"""

import asyncio
import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.config.load import Settings
from agent.errors import ConfigRefused
from agent.late import Late
from agent.model import TlsFiles
from agent.state.durable_file import make_private_folder, write_durably
from discovery.backoff import Backoff
from discovery.model import CatalogUnavailable
from discovery.ordinary_file import open_saved

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from discovery.consul.connect import Leaf
    from discovery.consul.environment import ConsulSettings
    from discovery.consul.session import ConsulConnection

log = logging.getLogger(__name__)

FOLDER: Final = "connect"
# What nodes ask each other for; a host has certificates for clients under its own name.
LEAF_NAME: Final = "node.mesh-agent.invalid"
# How long a start waits for a first certificate.
FIRST_TIMEOUT_S: Final = 30.0
_AGAIN: Final = Backoff(first_s=0.5, last_s=30.0)


def _opener() -> "Callable[[ConsulSettings], AbstractAsyncContextManager[ConsulConnection]]":
    from discovery.consul.session import open_session  # noqa: PLC0415 - Consul's library brings requests along

    return open_session


_OPEN: Final = Late(_opener)


class ConnectFiles:
    """See the module. `tls`: the files, which are there after `first`."""

    def __init__(self, settings: Settings, state_folder: Path) -> None:
        """Raises `ConfigRefused`."""
        if settings.listen_ca is not None:
            raise ConfigRefused("MESH_CONSUL_CONNECT and MESH_LISTEN_CA say two things about certificates; unset one")
        if settings.discovery in ("embedded", "off"):
            raise ConfigRefused(f"MESH_CONSUL_CONNECT needs Consul, and MESH_DISCOVERY is {settings.discovery}")
        self._consul, self._service_name = settings.consul, settings.service_name
        folder = state_folder / FOLDER
        make_private_folder(folder)
        self._leaf, self._roots = folder / "leaf.pem", folder / "roots.pem"
        self.tls: Final = TlsFiles(str(self._roots), str(self._leaf), server_name=LEAF_NAME)

    @classmethod
    async def of(cls, settings: Settings, state_folder: Path) -> "ConnectFiles | None":
        """With files to start with; None where they are not wanted. Raises `ConfigRefused`."""
        if not settings.consul_connect:
            return None
        files = cls(settings, state_folder)
        await files.first()
        return files

    def __repr__(self) -> str:
        return f"<ConnectFiles {self._leaf}>"

    async def first(self) -> None:
        """Have files to start with: present ones, else those of before. Raises `ConfigRefused` where there are none."""
        reason = "it did not answer"
        try:
            async with asyncio.timeout(FIRST_TIMEOUT_S), (await _OPEN.get())(self._consul) as session:
                source, failures = session.leaf(self._service_name), 0
                while True:
                    try:
                        leaf = await source.next()
                    except CatalogUnavailable as exc:
                        reason, failures = str(exc), failures + 1
                        if self._leaf.exists():
                            break
                        await asyncio.sleep(_AGAIN.step_s(failures))
                    else:
                        await self._write(leaf)
                        return
        except TimeoutError:
            pass
        if not self._leaf.exists():
            raise ConfigRefused(f"MESH_CONSUL_CONNECT: Consul at {self._consul.url} gives no certificate: {reason}")
        log.warning("certificates of before are used, Consul gives none", extra={"reason": reason})

    async def keep(self) -> None:
        """Write each certificate that follows, until cancelled."""
        async with (await _OPEN.get())(self._consul) as session:
            source, failures = session.leaf(self._service_name), 0
            while True:
                try:
                    await self._write(await source.next())
                    failures = 0
                except (CatalogUnavailable, OSError) as exc:
                    failures += 1
                    level = logging.WARNING if failures == 1 else logging.DEBUG
                    log.log(level, "no certificate from Consul, the last one stays", extra={"reason": str(exc)})
                    await asyncio.sleep(_AGAIN.step_s(failures))

    async def _write(self, leaf: "Leaf") -> None:
        """The roots first: they vouch for the others' new certificates before ours is shown."""
        changed = False
        for path, text in ((self._roots, leaf.roots), (self._leaf, leaf.key + leaf.certificate)):
            if await asyncio.to_thread(_replace, path, text.encode()):
                changed = True
        if changed:
            log.info("certificate of Consul's CA taken", extra={"uri": leaf.uri, "ends": leaf.ends})


def _replace(path: Path, content: bytes) -> bool:
    """Have the file say that; whether it has said something else, or could not be read. Blocks on the disk."""
    with suppress(OSError), open_saved(path) as file:
        if file.read(len(content) + 1) == content:
            return False
    write_durably(path, content)
    return True
