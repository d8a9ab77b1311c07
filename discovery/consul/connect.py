"""Certificates of Consul's own CA for one service (Connect), with the roots that vouch for those of the others.

Opened by `discovery.consul.session`. Consul's agent makes another one well before the end of the last; a waiting query
hears of it. Such a certificate speaks for the service and is the same for all on one agent. The one rule: it is a
source for transport, and never the proof of who a node is.
"""

from dataclasses import dataclass, field

from discovery.consul.client import ConsulClient
from discovery.model import CatalogUnavailable

# The roots are read as often: those of others' new certificates have to be here before they count alone.
WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Leaf:
    """PEM texts. `uri`: whose it is (SPIFFE). `ends`: as Consul writes it (RFC 3339)."""

    certificate: str
    key: str = field(repr=False)
    roots: str
    uri: str
    ends: str


class LeafSource:
    """Hands out the present certificate, then each that follows. One reader."""

    def __init__(self, client: ConsulClient, service_name: str) -> None:
        self._client, self._service_name, self._index = client, service_name, 0

    def __repr__(self) -> str:
        return f"<LeafSource {self._service_name} index={self._index}>"

    async def next(self, wait_s: float = WAIT_S) -> Leaf:
        """The present one at first; later waits up to `wait_s` for another, and returns the same one after that.

        Raises `CatalogUnavailable` and what is below it, also where Connect is off.
        """
        index, found = await self._client.leaf(self._service_name, index=self._index, wait_s=wait_s)
        roots = await self._client.roots()
        try:
            listed = "".join(f"{root['RootCert'].strip()}\n" for root in roots["Roots"])
            leaf = Leaf(
                f"{found['CertPEM'].strip()}\n",
                f"{found['PrivateKeyPEM'].strip()}\n",
                listed,
                str(found["ServiceURI"]),
                str(found["ValidBefore"]),
            )
        except (KeyError, TypeError, AttributeError) as exc:
            raise CatalogUnavailable("Consul's CA answered with something else than certificates") from exc
        self._index = index if index >= self._index else 0  # It has begun anew.
        return leaf
