"""TLS of this node: the certificate that it shows to those that connect, read again when its files change; its dials.

Made by the wiring, used by `agent.app.first_bytes` and by all that dials. The one rule: files that cannot be used leave
the last ones that could in use, and say so.
"""

import logging
import ssl
from collections.abc import Mapping
from pathlib import Path

from agent.client.outbound import Outbound
from agent.client.proxies import proxies_of
from agent.config.load import Settings
from agent.config.tls_files import TlsFault, listening_context
from agent.model import TlsFiles

log = logging.getLogger(__name__)


class ListenerTls:
    """See the module. `files`: None for http. `context`: for the listening socket; None for http."""

    def __init__(self, files: TlsFiles | None) -> None:
        """Raises `TlsFault`, for files that changed since the settings were read."""
        self._files = files
        self.context = self._present = None if files is None else listening_context(files)
        if self.context is not None:
            # A loop keeps the context that it listens with; each connection moves on to the present one.
            self.context.sni_callback = self._began

    def __repr__(self) -> str:
        return f"<ListenerTls {'http' if self._files is None else self._files.cert}>"

    @property
    def paths(self) -> list[Path]:
        """The files to watch."""
        files = self._files
        return [] if files is None else [Path(path) for path in (files.cert, files.key, files.ca) if path is not None]

    def read_again(self) -> None:
        """Use the files as they are now, if they can be used."""
        if self._files is None:
            return
        try:
            self._present = listening_context(self._files)
        except TlsFault as fault:
            # Certificate and key are replaced one after the other; the second change brings us here again.
            log.warning("TLS files refused, the certificate stays", extra={"reason": str(fault)})
            return
        log.info("TLS certificate read again", extra={"path": self._files.cert})

    def _began(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        assert self._present is not None, "it is called for https alone"
        connection.context = self._present


def outbound_of(settings: Settings, environ: Mapping[str, str]) -> Outbound:
    """How URLs are dialled. Nodes that ask for certificates want them to name the node."""
    return Outbound(
        settings.tls,
        proxies_of(environ),
        proxies_for_peers=settings.proxy_peers,
        binds_names=settings.listen_ca is not None,
    )
