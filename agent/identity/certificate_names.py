"""What a certificate names, and whether that is the node which shows it, where nodes show certificates to each other.

Used by `agent.links.dial` for what it dials and by `agent.rest.handshake` for what dials this node. A node's key proves
who it is; the certificate says what it may call itself, so that no member of the mesh takes another one's name. The one
rule: a name counts that the authority has written, in the certificate's SAN; the subject does not.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from agent.errors import IdentityRefused

_SHOWN_MAX: Final = 5
_SPIFFE: Final = re.compile(r"URI:spiffe://[^/]+/ns/[^/]+/dc/[^/]+/svc/(?P<service>[^/]+)")


def names_of(certificate: Mapping[str, Any] | None) -> frozenset[str]:
    """The names in the SAN of a verified certificate, as `ssl.SSLSocket.getpeercert` gives it; none without one."""
    listed = (certificate or {}).get("subjectAltName", ())
    return frozenset(f"{kind}:{value}" for kind, value in listed if kind in ("DNS", "URI"))


def names_node(names: frozenset[str], name: str, node_id: str) -> bool:
    """Whether a node is named: by its name, alone or as the first label of a host, or by its ID as `urn:uuid:`."""
    if f"URI:urn:uuid:{node_id}" in names:
        return True
    hosts = (one.removeprefix("DNS:").lower().rstrip(".") for one in names if one.startswith("DNS:"))
    wanted = name.lower()
    return any(host == wanted or host.startswith(f"{wanted}.") for host in hosts)


def refusal(names: frozenset[str], name: str, node_id: str) -> str:
    """Why such a node is not believed; empty where it is named."""
    if names_node(names, name, node_id):
        return ""
    shown = ", ".join(sorted(names)[:_SHOWN_MAX]) or "no name"
    return f"its certificate is for {shown}, and not for node {name} (SAN: DNS:{name} or URI:urn:uuid:{node_id})"


def service_refusal(names: frozenset[str], service_name: str) -> str:
    """Why a certificate of Consul's CA is not one of the mesh's service; empty where it is (SPIFFE)."""
    ours = (_SPIFFE.fullmatch(one) for one in names)
    if any(found is not None and found["service"] == service_name for found in ours):
        return ""
    shown = ", ".join(sorted(names)[:_SHOWN_MAX]) or "no name"
    return f"its certificate is for {shown}, and not for the service {service_name} of Consul's CA"


class ServiceBinding:
    """Of one link to a node, where nodes have certificates of Consul's CA: each has to be for the mesh's service.

    All nodes on one agent have the same one, so it does not tell one node from another; the node's key does.
    """

    def __init__(self, service_name: str) -> None:
        self._service_name, self._seen = service_name, False

    def __repr__(self) -> str:
        return f"<ServiceBinding {self._service_name}>"

    def seen(self, certificate: Mapping[str, Any] | None) -> None:
        """A connection was made. Raises `IdentityRefused`."""
        if fault := service_refusal(names_of(certificate), self._service_name):
            raise IdentityRefused(fault)
        self._seen = True

    def bind(self, name: str, node_id: str, shown: str) -> None:  # noqa: ARG002 - as `NameBinding` has it
        """The node has proven its ID. Raises `IdentityRefused`."""
        if not self._seen:
            raise IdentityRefused(f"{shown} is not dialled by https, as all nodes are here (MESH_CONSUL_CONNECT)")


class NameBinding:
    """Of one link to a node: each certificate that its connections are shown has to name the node that is proven."""

    def __init__(self) -> None:
        self._seen: set[frozenset[str]] = set()
        self._node: tuple[str, str] | None = None

    def __repr__(self) -> str:
        return f"<NameBinding {self._node}>"

    def seen(self, certificate: Mapping[str, Any] | None) -> None:
        """A connection was made. Raises `IdentityRefused` once it is known who the node is, and this names another."""
        names = names_of(certificate)
        self._seen.add(names)
        if self._node is not None and (fault := refusal(names, *self._node)):
            raise IdentityRefused(f"node {self._node[0]} is not believed any more: {fault}")

    def bind(self, name: str, node_id: str, shown: str) -> None:
        """The node has proven its ID, and says its name. Raises `IdentityRefused`."""
        if not self._seen:
            raise IdentityRefused(f"{shown} is not dialled by https, and nodes show certificates here (MESH_LISTEN_CA)")
        for names in self._seen:
            if fault := refusal(names, name, node_id):
                raise IdentityRefused(f"{shown} says that it is node {name}: {fault}")
        self._node = name, node_id
