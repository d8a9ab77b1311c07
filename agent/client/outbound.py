"""What this node's own surroundings say about dialling by URL: the same for all that it dials.

Made by `agent.app.node` from the settings and the environment, handed through `agent.links.dial` to the HTTP clients.
The one rule: an entry's own files beat these, and nothing here changes while the node runs.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from agent.client.proxies import NO_PROXIES, Proxies
from agent.identity.association import Association
from agent.model import HttpTarget, TlsFiles

_NO_FILES = TlsFiles()


class ProverLike(Protocol):
    """What a pool needs of `agent.client.http.prover.Prover`."""

    @property
    def association(self) -> Association:
        """The present one."""

    def renew(self, stale: Association) -> Awaitable[None]:
        """Have another one than `stale`. Raises `LinkFailed`."""


class BindingLike(Protocol):
    """What a certificate of a node has to say, on one link (`agent.identity.certificate_names`)."""

    def seen(self, certificate: Mapping[str, Any] | None) -> None:
        """A connection was made. Raises `IdentityRefused`."""

    def bind(self, name: str, node_id: str, shown: str) -> None:
        """The node has proven its ID, and says its name. Raises `IdentityRefused`."""


class AuthorizerLike(Protocol):
    """What a pool needs of `agent.client.oauth.authorizer.Authorizer`."""

    @property
    def has_token(self) -> bool:
        """Whether `token` gives any; it may have ended."""
        ...

    def token(self) -> Awaitable[str | None]:
        """What the next request carries. Raises `AuthRefused`, `CallNotSent`."""

    def renewed(self, stale: str | None, challenge: str) -> Awaitable[str | None]:
        """Another token than one that was refused; None where there is nothing to be done. Raises as `token`."""

    def widened(self, stale: str | None, challenge: str) -> Awaitable[str | None]:
        """Another token than one whose scopes are too few; None where that is not said. Raises as `token`."""


@dataclass(frozen=True, slots=True)
class Outbound:
    """`tls`: authorities to trust besides the system's, and the certificate to show where none is configured.

    `proxies`: for servers; for peers only with `proxies_for_peers`. `judges_names`: a name has to be known here, and to
    lead where the dial guard permits, though a proxy will resolve it. `prover`: of the node that is dialled, whose
    answers alone are believed; None for all that is no node. `authorizer`: who has a server's tokens.
    `believes_cards`: what says that it is a node may be one; not where an operator says that it is a plain server.
    `node_tls`: files for nodes, in place of all others. `new_binding`: certificates of nodes have to name what it says;
    `binding`: of one link to a node, which looks at them.
    """

    tls: TlsFiles = _NO_FILES
    proxies: Proxies = NO_PROXIES
    proxies_for_peers: bool = False
    judges_names: bool = False
    prover: ProverLike | None = None
    node_tls: TlsFiles | None = None
    new_binding: Callable[[], BindingLike] | None = None
    binding: BindingLike | None = None
    authorizer: AuthorizerLike | None = None
    believes_cards: bool = True

    def files_for(self, target: HttpTarget) -> TlsFiles | None:
        """The files for one target, if it has any in place of the common ones."""
        return self.node_tls if self.binding is not None and self.node_tls is not None else target.tls

    def for_peers(self) -> "Outbound":
        """The same for peers, whose URLs come from others: a catalog, or a caller of the REST API."""
        return replace(self, proxies=self.proxies if self.proxies_for_peers else NO_PROXIES, judges_names=True)


DIRECT = Outbound()
