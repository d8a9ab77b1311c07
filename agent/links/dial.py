"""Opens the right client of a backend: of a mesh node the local endpoint, of anything else the endpoint as given.

Called by a link at every dial. The one rule: a link never imports what the other node merely forwards, unless an
operator added it as a gateway, and never uses a node other than the one that was named.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeAlias
from urllib.parse import urlsplit, urlunsplit

from agent import clock
from agent.client.connect import McpClient, ServerInfo, open_client
from agent.client.outbound import DIRECT, Outbound
from agent.client.server_info import is_leaving
from agent.client.sessions.pending_call import OnPending, unheard
from agent.errors import AuthRefused, DialledOurselves, IdentityRefused, LinkFailed, Unreachable
from agent.model import (
    START_TIMEOUT_S,
    BackendSpec,
    HttpTarget,
    NodeIdentity,
    PeerScope,
    PeerSpec,
    ServerSpec,
    node_mark,
)
from agent.routing.names import is_valid_name

LOCAL_SUFFIX = "/local"
# A node answers `server/discover` at once; one that hangs is to be dialled again soon.
NODE_START_TIMEOUT_S: Final = 10.0

_Opening: TypeAlias = AbstractAsyncContextManager[McpClient]


@dataclass(frozen=True, slots=True)
class OpenClient:
    """An open client and the identity of the other side, None for a plain MCP server.

    `with_token`: it was opened with a token, as the catalog or the settings had it.
    `start_deadline_s`: when the first list of a server has to be there, in loop time; None for a node.
    """

    client: McpClient
    identity: NodeIdentity | None
    with_token: bool = False
    start_deadline_s: float | None = None

    def serves(self, spec: BackendSpec) -> bool:
        """Whether it leads to the node that a new spec of the same URL expects."""
        if not isinstance(spec, PeerSpec):
            return True
        node_id = self.identity.node_id if self.identity is not None else None
        return spec.expected_node_id in (None, node_id) and (node_id is not None or not spec.is_mesh_node)

    def token(self, spec: BackendSpec) -> str | None:
        """The token to send from now on: the peer token only to a known node, or where a token was sent before."""
        if not isinstance(spec.target, HttpTarget):
            return None
        return spec.target.token or (spec.local_token if self.with_token and isinstance(spec, PeerSpec) else None)


@asynccontextmanager
async def opened(
    spec: BackendSpec, own: NodeIdentity, *, on_pending: OnPending = unheard, outbound: Outbound = DIRECT
) -> AsyncGenerator[OpenClient, None]:
    """Dial `spec` and yield the client that a link may use. `on_pending`: see there.

    Raises:
        LinkFailed: why there is none (`DialledOurselves`, `IdentityRefused`, and what `open_client` raises).
    """
    if not isinstance(spec, PeerSpec):
        deadline_s = clock.now_s() + spec.start_timeout_s
        async with open_client(
            spec.target,
            start_timeout_s=spec.start_timeout_s,
            sessions=spec.sessions,
            protocol=spec.protocol,
            on_pending=on_pending,
            outbound=outbound,
        ) as client:
            refuse_mesh_node(client.server_info, spec, own)
            yield OpenClient(client, None, start_deadline_s=deadline_s)
        return
    target, outbound = spec.target, outbound.for_peers()
    if spec.is_mesh_node and spec.scope is PeerScope.LOCAL:
        target = local_target(target)
    async with AsyncExitStack() as stack:
        url, opened_client = await _first_client(
            spec, target, own, stack, partial(open_client, on_pending=on_pending, outbound=outbound)
        )
        if opened_client.identity is None or spec.scope is PeerScope.MESH or url == local_target(spec.target).url:
            yield opened_client
            return
    async with open_client(
        local_target(spec.target), start_timeout_s=NODE_START_TIMEOUT_S, outbound=outbound
    ) as client:
        yield OpenClient(
            client, checked_identity(client.server_info, spec, own), with_token=spec.target.token is not None
        )


async def _first_client(
    spec: PeerSpec, target: HttpTarget, own: NodeIdentity, stack: AsyncExitStack, open_it: Callable[..., _Opening]
) -> tuple[str, OpenClient]:
    """The client at `target`, or the local one of a node that refuses us at `target`; and the URL where it was opened.

    A token is sent only to the host that was named, over the scheme that was named.
    """
    start_timeout_s = NODE_START_TIMEOUT_S if spec.is_mesh_node else START_TIMEOUT_S
    deadline_s = clock.now_s() + start_timeout_s
    try:
        client = await stack.enter_async_context(open_it(target, start_timeout_s=start_timeout_s))
    except AuthRefused as refused:
        if refused.node_mark == node_mark(own.node_id):
            raise DialledOurselves(f"{target.url} is this node itself") from refused
        # A token between nodes is valid for the local endpoint alone, which operators need not spell out. The peer
        # token is sent to servers that refuse as nodes do; an impostor can, but no plain server does so by accident.
        trusted = spec.local_token if refused.by_node else None
        local = replace(local_target(target), token=target.token or trusted)
        if spec.scope is PeerScope.MESH or local.token is None or target == local:
            raise
        opening = open_it(local, start_timeout_s=NODE_START_TIMEOUT_S)
        return local.url, await _local_client(spec, opening, own, stack, refused)
    identity = checked_identity(client.server_info, spec, own)
    return target.url, OpenClient(
        client,
        identity,
        with_token=target.token is not None,
        start_deadline_s=deadline_s if identity is None else None,
    )


async def _local_client(
    spec: PeerSpec, opening: _Opening, own: NodeIdentity, stack: AsyncExitStack, refused: AuthRefused
) -> OpenClient:
    """Open the local endpoint; raises `refused` unless a node of the mesh answers there."""
    try:
        client = await stack.enter_async_context(opening)
        identity = checked_identity(client.server_info, spec, own)
    except DialledOurselves:
        raise
    except LinkFailed:
        raise refused from None
    if identity is None:
        raise refused
    return OpenClient(client, identity, with_token=True)


def dialler(
    on_pending: OnPending, outbound: Outbound = DIRECT
) -> Callable[[BackendSpec, NodeIdentity], AbstractAsyncContextManager[OpenClient]]:
    """`opened` for links whose pending calls are counted, and which dial as the node's surroundings have it."""
    return partial(opened, on_pending=on_pending, outbound=outbound)


def local_target(target: HttpTarget) -> HttpTarget:
    """The same target with `/local` after its path, where it is not there yet; a query stays where it is."""
    parts = urlsplit(target.url)
    path = parts.path.rstrip("/").removesuffix(LOCAL_SUFFIX) + LOCAL_SUFFIX
    return replace(target, url=urlunsplit(parts._replace(path=path)))


def refuse_mesh_node(server_info: ServerInfo, spec: ServerSpec, own: NodeIdentity) -> None:
    """Refuse a configured server that is a node of the mesh: it would list our own offer back to us, ever longer."""
    if server_info.mesh is None:
        return
    if server_info.mesh.get("node_id") == own.node_id:
        raise DialledOurselves(f"server {spec.name} is this node itself")
    raise IdentityRefused(f"server {spec.name} is a node of the mesh; add it as a peer instead")


def checked_identity(server_info: ServerInfo, spec: PeerSpec, own: NodeIdentity) -> NodeIdentity | None:
    """The identity of the other side; refused when it is ourselves or not the node that the catalog named."""
    card = server_info.mesh
    if card is None:
        if spec.expected_node_id is not None:
            raise IdentityRefused(f"{spec.target.url} is no mesh node, but the catalog says it is one")
        return None
    node_id, name = card.get("node_id"), card.get("name")
    if not isinstance(node_id, str) or not isinstance(name, str) or not is_valid_name(name):
        raise IdentityRefused(f"{spec.target.url} announces no usable node_id and name")
    if node_id == own.node_id:
        raise DialledOurselves(f"{spec.target.url} is this node itself")
    if spec.expected_node_id is not None and node_id != spec.expected_node_id:
        raise IdentityRefused(f"{spec.target.url} is node {node_id}, but the catalog says {spec.expected_node_id}")
    if is_leaving(server_info):
        raise Unreachable(f"{spec.target.url} is stopping")
    return NodeIdentity(node_id, name)
