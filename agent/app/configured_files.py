"""The files of a node that are read again when they change, or when a signal asks for it: servers, views, tokens.

Made by `agent.app.node`, which starts what watches them. The one rule: a file that cannot be used leaves the running
configuration as it is, and says why. They are looked at and read apart from the loop: a file system of a network that
hangs holds up nothing else; and the tokens file apart from the others, so that a token can be revoked whatever hangs.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agent.app import plan as plans
from agent.app.access import Access
from agent.app.listener_tls import ListenerTls
from agent.config.load import Settings, read_tokens_again
from agent.config.servers_file import ServersFile, keep_running, leave_out_name_of_node
from agent.config.views_file import log_faults, read_views
from agent.control.membership import Membership
from agent.control.reconciler import Mesh
from agent.errors import ConfigRefused
from agent.identity.keeper import AssociationKeeper
from agent.identity.mesh_secret import mesh_secrets
from agent.metrics import Metrics
from agent.state.durable_file import Stamp, next_stamps, watch_files
from discovery.patient_look import look_apart

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Readers:
    """The parts of a node that use what these files say. `views_changed`, `tokens_changed`: called after a change."""

    mesh: Mesh
    membership: Membership
    metrics: Metrics
    access: Access
    associations: AssociationKeeper
    tls: ListenerTls
    views_changed: Callable[[], None]
    tokens_changed: Callable[[], None]


class ConfiguredFiles:
    """What these files say now: `servers`, `servers_fault` (empty for none), `views` and the `secrets` of the mesh."""

    def __init__(self, settings: Settings, own_name: str, servers: ServersFile, secrets: tuple[bytes, ...]) -> None:
        self._settings, self._own_name = settings, own_name
        self.servers, self.servers_fault = servers, ""
        self.secrets = secrets
        self.views = read_views(settings.views_file, settings.servers_file)
        log_faults(self.views)
        self.is_leaving = False  # Set by the node; from then on its servers and views stay.
        self._rotations = 0
        self._asked = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()  # What was read last is what counts.
        self._readers: Readers | None = None

    def __repr__(self) -> str:
        return f"<ConfiguredFiles {len(self.servers.servers)} servers {self.servers_fault!r}>"

    def begin(self, readers: Readers) -> None:
        """Give the servers file to the mesh, and what is read later to these."""
        self._readers = readers
        self._take_servers(self.servers)

    @property
    def _made(self) -> Readers:
        assert self._readers is not None, "nothing is read again before the node is made"
        return self._readers

    def _watched(self) -> list[tuple[Path, Callable[[], Awaitable[None]]]]:
        """Each file with what reads it again."""
        settings, made = self._settings, self._made
        pairs: list[tuple[Path | None, Callable[[], Awaitable[None]]]] = [
            (settings.servers_file, self._reread_servers),
            (settings.views_file, self._reread_views),
            (settings.token_file, self._reread_tokens),
            (settings.peer_token_file, self._reread_tokens),
            *((path, self._reread_tls) for path in made.tls.paths),
        ]
        return [(path, then) for path, then in pairs if path is not None]

    async def watch(self) -> None:
        """Read each file again when it has changed, until cancelled."""
        pairs, tokens_file, over = self._watched(), self._settings.tokens_file, threading.Event()

        async def look(paths: Sequence[Path], known: Sequence[Stamp] | None) -> Sequence[Stamp]:
            return await look_apart(partial(next_stamps, paths, known, over))

        async def changed(path: Path) -> None:
            await self._take(then for one, then in pairs if one == path)

        async def revoked(_path: Path) -> None:
            self._made.access.file_changed()

        try:
            async with asyncio.TaskGroup() as tasks:
                if pairs:
                    following = watch_files([path for path, _ in pairs], changed, look)
                    tasks.create_task(following, name="servers, views, token and certificate files")
                if tokens_file is not None:
                    tasks.create_task(watch_files([tokens_file], revoked, look), name="tokens file")
        finally:
            over.set()

    def ask(self) -> None:
        """Have all of them read again soon, as a signal asks."""
        log.info("reload asked for by a signal")
        self._asked.set()

    async def reread_when_asked(self) -> None:
        """Until cancelled: a task for each signal would outlive the node where a file system hangs."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            if self._settings.tokens_file is not None:
                self._made.access.file_changed()
            try:
                await self._take(then for _, then in self._watched())
            except Exception:  # The top of an eternal loop, which must not end the node.
                log.exception("what a signal asked for could not be done")

    async def _take(self, thens: Iterable[Callable[[], Awaitable[None]]]) -> None:
        async with self._one_at_a_time:
            for then in dict.fromkeys(thens):
                await then()

    async def read_servers(self) -> None:
        """Read the servers file again. Raises `ConfigRefused`; the running configuration stays as it is then."""
        async with self._one_at_a_time:
            await self._read_servers()

    async def _read_servers(self) -> None:
        try:
            file = await look_apart(partial(plans.servers_of, self._settings))
        except ConfigRefused as exc:
            self.servers_fault, self._made.metrics.servers_file_ok = str(exc), False
            raise
        self.servers_fault, self._made.metrics.servers_file_ok = "", True
        self._take_servers(file)

    def _take_servers(self, file: ServersFile) -> None:
        mesh = self._made.mesh
        if self._settings.servers_file is not None and not self.is_leaving:
            named = leave_out_name_of_node(file, self._own_name, self._settings.servers_file)
            self.servers = keep_running(named, mesh.servers)
            mesh.take_servers(self.servers.servers)
        for entry in self.servers.left_out:
            extra = {
                "server": entry.configured_name,
                "reason": "; ".join(entry.reasons),
                "runs_on": entry.keeps_running,
            }
            log.warning("servers file: an entry is left out", extra=extra)

    async def _reread_servers(self) -> None:
        if self.is_leaving:  # What is written now is for the next start, and would end calls that the drain waits for.
            return
        await self._reread_views()
        try:
            await self._read_servers()
            left_out = len(self.servers.left_out)
            log.info("servers file read again", extra={"servers": len(self._made.mesh.servers), "left_out": left_out})
        except ConfigRefused as exc:
            log.warning("servers file refused, the running configuration stays", extra={"reason": str(exc)})

    async def _reread_views(self) -> None:
        if self.is_leaving:
            return
        before, settings = self.views, self._settings
        self.views = await look_apart(partial(read_views, settings.views_file, settings.servers_file, before))
        if self.views != before:
            log.info("views read", extra={"views": len(self.views.views)})
            log_faults(self.views)
            self._made.views_changed()

    async def _reread_tls(self) -> None:
        await look_apart(self._made.tls.read_again)

    async def _reread_tokens(self) -> None:
        made = self._made
        try:
            tokens, peer_tokens = await look_apart(partial(read_tokens_again, self._settings))
        except ConfigRefused as exc:
            log.warning("token file refused, the tokens stay", extra={"reason": str(exc)})
            return
        made.access.replace_short(tokens)
        secrets = mesh_secrets(peer_tokens, tokens)
        if secrets != self.secrets:
            self.secrets = secrets
            made.associations.replace_secrets(secrets)
            self._rotations += 1
            # A peer that was refused with the old secret, or with a new one, dials again.
            made.membership.describe_ourselves(rotations=str(self._rotations))
        made.mesh.wake()
        made.tokens_changed()
        log.info("token file read again", extra={"valid": len(tokens)})
