"""What a node's settings mean for its parts: membership, registration, sources of peers, the edge's policy.

Called by the wiring once at start. The one rule: what other nodes and clients see of this node is decided here.
"""

import socket
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from urllib.parse import urlsplit

from agent import __version__
from agent.app.access import Access
from agent.app.sockets import display_host
from agent.config.load import Settings
from agent.config.servers_file import ServersFile, read_servers
from agent.control.membership import MembershipPlan
from agent.control.reconciler import Mesh
from agent.identity.addresses import OwnAddresses, normal_host
from agent.identity.keeper import AssociationKeeper
from agent.metrics import Metrics
from agent.model import LinkView, NodeIdentity, PeerSpec
from agent.node_mark import node_mark
from agent.registry.routes import Published, RegistryRoutes
from agent.rest.logins import Logins
from agent.rest.oauth import OAuthVerifier
from agent.rest.security import EdgePolicy
from agent.rest.tokens import TokenTable
from agent.routing.client_names import ClientNames
from agent.routing.names import node_alias
from agent.routing.table import RouteTable
from discovery.dns.source import DnsSource
from discovery.file.source import FileSource
from discovery.model import CatalogSource, Registration

MCP_PATH = "/mcp"


def membership_plan(settings: Settings, port: int) -> MembershipPlan:
    """Which catalog to use and how to be found in it; `port` is the one that is listened on."""
    return MembershipPlan(
        mode=settings.discovery,
        consul=replace(settings.consul, wait_s=settings.consul_wait_s),
        service_name=settings.service_name,
        datacenters=settings.datacenters or (),
        embedded_port=settings.embedded_port,
        bind_host=settings.host,
        port=port,
        advertise_address=settings.advertise_address,
        advertise_port=settings.advertise_port,
    )


def node_registration(settings: Settings, own: NodeIdentity, port: int, epoch: int) -> Registration:
    """What we register in the catalog; the address follows from the catalog that is used. `epoch` counts our starts."""
    advertised_port = settings.advertise_port or port
    check_host = settings.advertise_address or display_host(settings.host)
    check_url = f"{settings.scheme}://{check_host}:{advertised_port}/healthz"
    return Registration(
        service_id=node_alias(own.name, own.node_id),
        service_name=settings.service_name,
        port=advertised_port,
        meta=MappingProxyType(
            {
                "node_id": own.node_id,
                "name": own.name,
                "scheme": settings.scheme,
                "epoch": str(epoch),
                "mcp_path": MCP_PATH,
                "version": __version__,
                "offer_digest": "",
            }
        ),
        weight=settings.weight,
        http_check_url=check_url if settings.consul_http_check else None,
    )


def servers_of(settings: Settings) -> ServersFile:
    """What the servers file says now. Raises `ConfigRefused`."""
    path = settings.servers_file
    return ServersFile() if path is None else read_servers(path, settings.environ, settings.default_scope)


def client_names(settings: Settings) -> ClientNames:
    """What clients of this node see in place of the names between nodes."""
    return ClientNames(settings.name_len_max, settings.fleet_writes, settings.short_names, settings.service_nodes)


def listed_sources(settings: Settings) -> list[tuple[str, Callable[..., CatalogSource]]]:
    """What lists peers beside the catalog, each with its name for the status; made with what is `known`."""
    files, servers = settings.peer_files, settings.dns_servers or ()
    return [
        *([] if files is None else [(f"files {','.join(files)}", partial(FileSource, files))]),
        *((f"dns {name}", partial(DnsSource, name, servers)) for name in settings.peer_dns or ()),
    ]


def own_addresses(settings: Settings, own: NodeIdentity, listens_on: tuple[str, int]) -> OwnAddresses:
    """Where others reach this node; `listens_on`: the address and port of its socket."""
    sure = {socket.gethostname(), *((settings.advertise_address,) if settings.advertise_address else ())}
    port = listens_on[1]
    return OwnAddresses(
        names=frozenset(map(normal_host, (*sure, own.name))),
        ports=frozenset({port, settings.advertise_port or port}),
        proxied=frozenset(map(normal_host, settings.allowed_hosts)),
        listens_on=listens_on,
        sure=frozenset(map(normal_host, sure)),
    )


def edge_policy(
    settings: Settings,
    own: NodeIdentity,
    tokens: TokenTable,
    associations: AssociationKeeper,
    *,
    oauth: OAuthVerifier,
    on_auth_failure: Callable[[], None],
    logins: Logins,
) -> EdgePolicy:
    """Which names and origins the edge answers to."""
    names = {socket.gethostname(), own.name, *settings.allowed_hosts}
    if settings.advertise_address:
        names.add(settings.advertise_address)
    return EdgePolicy(
        host_names=frozenset(names),
        origins=frozenset(settings.cors_origins),
        tokens=tokens,
        associations=associations,
        metrics_public=settings.metrics_public,
        registry_public=settings.registry_public,
        node_mark=node_mark(own.node_id),
        on_auth_failure=on_auth_failure,
        oauth=oauth,
        logins=logins,
    )


def metrics(settings: Settings, own: NodeIdentity) -> Metrics:
    """Where calls are counted and, if there is a collector, traced."""
    if settings.traces_url is None:
        return Metrics(__version__)
    from agent.tracing.export import Spans  # noqa: PLC0415 - few nodes are traced

    return Metrics(__version__, Spans.of_node(settings.traces_url, own))


def registry(settings: Settings, access: Access, mesh: Mesh, seen: Callable[[], RouteTable]) -> RegistryRoutes:
    """The registry of the mesh's servers, and what it says of this node."""
    published = Published(
        public_url=settings.public_url,
        service_name=settings.service_name,
        is_public=settings.registry_public,
        # Clients of an issuer learn from a 401 where to log in.
        wants_token=lambda: not access.table.anonymous and not access.oauth.is_on,
    )
    return RegistryRoutes(mesh, seen, published)


def addresses_of_peers(views: Callable[[], Iterable[LinkView]]) -> set[str]:
    """The hosts of all nodes that have proven themselves, as their URLs have them: anybody may be in a catalog."""
    targets = (view.spec.target for view in views() if isinstance(view.spec, PeerSpec) and view.identity is not None)
    return {host for target in targets if (host := urlsplit(target.url).hostname)}
