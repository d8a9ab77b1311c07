"""TLS of this node: the certificate that it shows to those that connect, read again when its files change; its dials.

Made by the wiring, used by `agent.app.first_bytes` and by all that dials. The one rule: files that cannot be used leave
the last ones that could in use, and say so.
"""

import logging
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from agent.client.outbound import BindingLike, Outbound
from agent.client.proxies import proxies_of
from agent.config.load import Settings
from agent.config.tls_files import TlsFault, listening_context, load_authorities
from agent.identity.certificate_names import NameBinding, ServiceBinding, refusal, service_refusal
from agent.model import TlsFiles

log = logging.getLogger(__name__)


class ListenerTls:
    """See the module. `files`: None for http. `context`: for the listening socket; None for http.

    `leaf`: of Consul's CA, shown to nodes, which ask for its `server_name`, and to all where there are no others.
    """

    def __init__(self, files: TlsFiles | None, leaf: TlsFiles | None = None) -> None:
        """Raises `TlsFault`, for files that changed since the settings were read."""
        self._files, self._leaf = files or leaf, leaf
        self.context = self._present = self._of_leaf = None
        if self._files is None:
            return
        self._present, self._of_leaf = self._contexts(self._files)
        self.context = self._present
        # A loop keeps the context that it listens with; each connection moves on to the present one.
        self.context.sni_callback = self._began

    def __repr__(self) -> str:
        return f"<ListenerTls {'http' if self._files is None else self._files.cert}>"

    @property
    def paths(self) -> list[Path]:
        """The files to watch."""
        named = (path for one in (self._files, self._leaf) if one is not None for path in (one.cert, one.key, one.ca))
        return [Path(path) for path in dict.fromkeys(named) if path is not None]

    def read_again(self) -> None:
        """Use the files as they are now, if they can be used."""
        if self._files is None:
            return
        try:
            self._present, self._of_leaf = self._contexts(self._files)
        except TlsFault as fault:
            # Certificate and key are replaced one after the other; the second change brings us here again.
            log.warning("TLS files refused, the certificate stays", extra={"reason": str(fault)})
            return
        log.info("TLS certificate read again", extra={"path": self._files.cert})

    def _contexts(self, files: TlsFiles) -> tuple[ssl.SSLContext, ssl.SSLContext | None]:
        """For all, and for nodes that have certificates of Consul's CA. Raises `TlsFault`."""
        present = listening_context(files)
        if self._leaf is None or self._leaf == files:
            return present, None
        # Whether a certificate is asked for, is settled before a connection moves on to another context.
        load_authorities(present, self._leaf)
        present.verify_mode = ssl.CERT_OPTIONAL
        return present, listening_context(self._leaf)

    def _began(self, connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        assert self._present is not None, "it is called for https alone"
        is_for_leaf = self._of_leaf is not None and self._leaf is not None and name == self._leaf.server_name
        connection.context = self._of_leaf if is_for_leaf and self._of_leaf is not None else self._present


def outbound_of(settings: Settings, environ: Mapping[str, str], leaf: TlsFiles | None = None) -> Outbound:
    """How URLs are dialled. Nodes that ask for certificates want them to name the node, or the mesh's service."""
    binding: Callable[[], BindingLike] | None = NameBinding if settings.listen_ca is not None else None
    if leaf is not None:
        binding = partial(ServiceBinding, settings.service_name)
    return Outbound(
        settings.tls,
        proxies_of(environ),
        proxies_for_peers=settings.proxy_peers,
        node_tls=leaf,
        new_binding=binding,
    )


def judge_of_callers(
    settings: Settings, name_of: Callable[[str], str | None]
) -> Callable[[frozenset[str], str, str], str] | None:
    """Why a node is not let in with its certificate, for `agent.rest.handshake`; None where any will do.

    `name_of`: what the node with an ID is called here, None where that is not known.
    """
    if settings.consul_connect:
        return lambda names, _name, _node_id: service_refusal(names, settings.service_name)
    if settings.listen_ca is None:
        return None

    def judge(names: frozenset[str], name: str, node_id: str) -> str:
        known = name_of(node_id)
        if known not in (None, name):
            return f"it says that it is node {name}, and is known here as {known}"
        return refusal(names, name, node_id)

    return judge
