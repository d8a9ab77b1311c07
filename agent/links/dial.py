"""Opens the right client of a backend: of a mesh node the local endpoint, of anything else the endpoint as given.

Called by a link at every dial. What says that it is a node has to prove it (`agent.identity`), or is not linked at all:
as a plain server, a node of another mesh would list our own offer back to us, ever longer. The one rule: a link never
imports what the other node merely forwards, unless an operator added it as a gateway, and never uses a node other than
the one that was named.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, NoReturn
from urllib.parse import urlsplit, urlunsplit

from agent import clock
from agent.client.connect import McpClient, ServerInfo, enter_client
from agent.client.exit_stack import SmallExitStack
from agent.client.http.prover import Credentials, Prover
from agent.client.http.returned import may_be_back
from agent.client.knocks import ANNOUNCED, NAMED, OWN, Knocks
from agent.client.opening import Opening
from agent.client.outbound import DIRECT, AuthorizerLike, Outbound
from agent.client.quick_servers import QuickServers
from agent.client.server_info import is_leaving
from agent.client.sessions.pending_call import OnPending, unheard
from agent.errors import AuthRefused, DialledOurselves, IdentityRefused, LinkFailed, Unreachable
from agent.identity.addresses import OwnAddresses, may_lead_to_us, names_us
from agent.model import (
    PEER_PATH,
    START_TIMEOUT_S,
    BackendSpec,
    HttpTarget,
    NodeIdentity,
    PeerScope,
    PeerSource,
    PeerSpec,
    ServerSpec,
)
from agent.node_mark import node_mark
from agent.peer_kind import PeerKind
from agent.routing.names import is_valid_name

LOCAL_SUFFIX = "/local"
# How the URLs of views look (agent.server.views).
_VIEW_OF_PATH: Final = re.compile(r"(?P<endpoint>.*/mcp)/[sv]/[^/]+/?")
_VIEW_OF_QUERY: Final = re.compile(r"(?:^|&)(?:servers|tags)=")
# A node answers `server/discover` at once; one that hangs is to be dialled again soon.
NODE_START_TIMEOUT_S: Final = 10.0

# A dial within one network takes some milliseconds. Behind 200 peers that do not answer, for 5 s each, one that does
# would wait for minutes; so it is 2 s.
TURN_S: Final = 0.04


@dataclass(frozen=True, slots=True)
class OpenClient:
    """An open client and the identity of the other side, as it has proven it; None for a plain MCP server.

    `start_deadline_s`: when the first list of a server has to be there, in loop time; None for a node.
    """

    client: McpClient
    identity: NodeIdentity | None
    start_deadline_s: float | None = None

    def serves(self, spec: BackendSpec) -> bool:
        """Whether it leads to the node that a new spec of the same URL expects."""
        if not isinstance(spec, PeerSpec):
            return True
        node_id = self.identity.node_id if self.identity is not None else None
        return spec.expected_node_id in (None, node_id) and (node_id is not None or not spec.is_mesh_node)


def _no_authorizer(_spec: ServerSpec) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Dialling:
    """What is the same for all that a node dials. `on_pending`: see `agent.client.connect.open_client`.

    `credentials`: None for a node that proves nothing, and so has no other node for a peer. `addresses`: our own, None
    where they do not matter. `authorizer`: who has a server's tokens, if it wants any. `quick`: grows with each dial.
    `knocks`: those of servers of ours.
    """

    credentials: Credentials | None = None
    on_pending: OnPending = unheard
    outbound: Outbound = DIRECT
    addresses: OwnAddresses | None = None
    authorizer: Callable[[ServerSpec], AuthorizerLike | None] = _no_authorizer
    quick: QuickServers = field(default_factory=QuickServers)
    knocks: Knocks = OWN


ALONE: Final = Dialling()

# Whether a server is back that refused connections, or that a proxy said was away (`agent.links.pause`).
Knock = Callable[[BackendSpec, bool], Awaitable[bool]]
# What a link dials with: as `opened`, for one node.
Dial = Callable[[AsyncExitStack, BackendSpec, NodeIdentity], Awaitable[OpenClient]]


async def opened(
    stack: AsyncExitStack, spec: BackendSpec, own: NodeIdentity, *, dialling: Dialling = ALONE
) -> OpenClient:
    """Dial `spec` and return the client that a link may use; what it holds is released with `stack`.

    Raises:
        LinkFailed: why there is none (`DialledOurselves`, `IdentityRefused`, and what `open_client` raises).
    """
    if not isinstance(spec, PeerSpec):
        deadline_s = clock.now_s() + spec.start_timeout_s
        opening = Opening(
            start_timeout_s=spec.start_timeout_s,
            sessions=spec.sessions,
            protocol=spec.protocol,
            on_pending=dialling.on_pending,
            outbound=replace(dialling.outbound, authorizer=dialling.authorizer(spec)),
            quick=dialling.quick,
            knocks=dialling.knocks,
        )
        client = await enter_client(stack, spec.target, opening)
        refuse_mesh_node(client.server_info, spec, own)
        return OpenClient(client, None, start_deadline_s=deadline_s)
    knocks = ANNOUNCED if spec.source is PeerSource.DISCOVERY else NAMED
    dialling, claimed = replace(dialling, outbound=dialling.outbound.for_peers(), knocks=knocks), ""
    if spec.kind is PeerKind.SERVER:
        return await _server_of_operator(stack, spec, own, dialling)
    await _refuse_own_view(spec, own, dialling)
    if not (spec.is_mesh_node and (spec.scope is PeerScope.LOCAL or spec.kind is PeerKind.NODE)):
        deadline_s = clock.now_s() + START_TIMEOUT_S
        async with SmallExitStack() as attempt:
            async with _knowing_ourselves(spec, own, dialling):
                plain = await _plain_client(spec, own, dialling, attempt)
            if not isinstance(plain, str):
                stack.push_async_exit(attempt.pop_all())
                return OpenClient(plain, None, start_deadline_s=deadline_s)
            claimed = plain
    try:
        return await _node(stack, spec, own, dialling)
    except IdentityRefused as exc:
        exc.claimed = exc.claimed or claimed
        raise


def _opening(dialling: Dialling, start_timeout_s: float, outbound: Outbound) -> Opening:
    """Of a peer, which has no entry of its own to say more."""
    return Opening(
        start_timeout_s=start_timeout_s,
        on_pending=dialling.on_pending,
        outbound=outbound,
        quick=dialling.quick,
        knocks=dialling.knocks,
    )


async def _server_of_operator(
    stack: AsyncExitStack, spec: PeerSpec, own: NodeIdentity, dialling: Dialling
) -> OpenClient:
    """What an operator says is a plain server: it is asked for no proof, and no node whatever it says.

    But for this very node, whose offer would be listed back to us, ever longer.
    """
    deadline_s, shown = clock.now_s() + START_TIMEOUT_S, spec.target.shown
    is_ours = dialling.addresses is not None and names_us(spec.target.url, dialling.addresses)
    if is_ours and _node_of_view(spec.target) is not None:
        raise DialledOurselves(f"{shown} is a view of this node itself")
    outbound = replace(dialling.outbound, believes_cards=False)
    opening = _opening(dialling, START_TIMEOUT_S, outbound)
    async with SmallExitStack() as attempt:
        try:
            client = await enter_client(attempt, spec.target, opening)
        except AuthRefused as refused:
            if is_ours and refused.node_mark == node_mark(own.node_id):
                raise DialledOurselves(f"{shown} is this node itself") from refused
            raise
        if (client.server_info.card or {}).get("node_id") == own.node_id:
            if is_ours:
                raise DialledOurselves(f"{shown} is this node itself")
            message = f"{shown} says that it is this node itself, and as a server is not asked to prove it"
            raise IdentityRefused(message, claimed=node_mark(own.node_id))
        stack.push_async_exit(attempt.pop_all())
    return OpenClient(client, None, start_deadline_s=deadline_s)


async def _plain_client(
    spec: PeerSpec, own: NodeIdentity, dialling: Dialling, stack: AsyncExitStack
) -> McpClient | str:
    """The client of a peer at its URL as it is; where the other side says that it is a node, the mark of that."""
    opening = _opening(dialling, START_TIMEOUT_S, dialling.outbound)
    try:
        client = await enter_client(stack, spec.target, opening)
    except AuthRefused as refused:
        if refused.node_mark == node_mark(own.node_id):
            await _refuse_ourselves(spec, own, dialling)
        # A node wants no token of other nodes, at its local endpoint, which operators need not spell out.
        if refused.by_node and spec.scope is PeerScope.LOCAL:
            return refused.node_mark or ""
        raise
    if client.server_info.mesh is None:
        if spec.expected_node_id is not None:
            raise IdentityRefused(f"{spec.target.shown} is no mesh node, but the catalog says it is one")
        return client
    node_id = client.server_info.mesh.get("node_id")
    if node_id == own.node_id:
        await _refuse_ourselves(spec, own, dialling)
    return node_mark(node_id) if isinstance(node_id, str) else ""


async def _refuse_ourselves(spec: PeerSpec, own: NodeIdentity, dialling: Dialling) -> NoReturn:
    """Raise what fits for what says that it is this very node: it has to prove that, too.

    Raises `DialledOurselves`, which the mesh remembers, or `IdentityRefused`.
    """
    local = replace(local_target(spec.target), token=None)
    dialling = replace(dialling, outbound=_bound(dialling.outbound))
    if (await _prover(local, dialling, members=True).prove()).peer.node_id == own.node_id:
        raise DialledOurselves(f"{spec.target.shown} is this node itself")
    raise IdentityRefused(f"{spec.target.shown} says that it is this node, and is another one")


async def _refuse_own_view(spec: PeerSpec, own: NodeIdentity, dialling: Dialling) -> None:
    """Raise `DialledOurselves` for a view of this very node, which looks like any server (docs/views.md)."""
    target = _node_of_view(spec.target)
    if target is not None and await _is_ourselves(target, own, dialling):
        raise DialledOurselves(f"{spec.target.shown} is a view of this node itself")


@asynccontextmanager
async def _knowing_ourselves(spec: PeerSpec, own: NodeIdentity, dialling: Dialling) -> AsyncGenerator[None, None]:
    """Turn the failure of a dial into `DialledOurselves` where the URL leads to this very node, by whatever path.

    Of peers that people name alone: what the catalog lists is judged by what answers there.
    """
    try:
        yield
    except DialledOurselves:
        raise
    except LinkFailed as exc:
        url, addresses = spec.target.url, dialling.addresses
        if spec.source is PeerSource.DISCOVERY or addresses is None:
            raise
        answered = not isinstance(exc, Unreachable) and may_lead_to_us(url, addresses)
        if names_us(url, addresses) or (answered and await _is_ourselves(_endpoint_beside(spec.target), own, dialling)):
            raise DialledOurselves(f"{spec.target.shown} is this node itself") from exc
        raise


async def _is_ourselves(local: HttpTarget, own: NodeIdentity, dialling: Dialling) -> bool:
    dialling = replace(dialling, outbound=_bound(dialling.outbound))
    with suppress(LinkFailed):
        return (await _prover(local, dialling, members=True).prove()).peer.node_id == own.node_id
    return False


def _bound(outbound: Outbound) -> Outbound:
    """The same for a node of this mesh, whose certificates have to name it where they name nodes."""
    return outbound if outbound.new_binding is None else replace(outbound, binding=outbound.new_binding())


def _endpoint_beside(target: HttpTarget) -> HttpTarget:
    """The local endpoint of the node at the same host and port, if there is one."""
    return replace(target, url=urlunsplit(urlsplit(target.url)._replace(path=PEER_PATH, query="")), token=None)


def _prover(local: HttpTarget, dialling: Dialling, *, members: bool) -> Prover:
    """Raises `IdentityRefused` where we have nothing to prove."""
    if dialling.credentials is None:
        raise IdentityRefused(f"{local.shown} is a node, and this one cannot prove who it is")
    connect_timeout_s = NODE_START_TIMEOUT_S / 2
    return Prover(
        local,
        dialling.credentials,
        members=members,
        connect_timeout_s=connect_timeout_s,
        outbound=dialling.outbound,
        knocks=dialling.knocks,
    )


async def _node(stack: AsyncExitStack, spec: PeerSpec, own: NodeIdentity, dialling: Dialling) -> OpenClient:
    """Have a node prove who it is, then open its local endpoint, or all of it as a gateway.

    Only a gateway may be of another mesh, unless an operator says that it is a node of this one; it is sent the token
    that an operator gave for it, a node of ours none.
    """
    is_gateway = spec.scope is PeerScope.MESH
    local = local_target(spec.target)
    if not is_gateway:
        local = replace(local, token=None)
    if not is_gateway:
        dialling = replace(dialling, outbound=_bound(dialling.outbound))
    members = not is_gateway or spec.kind is PeerKind.NODE
    prover, binding = _prover(local, dialling, members=members), dialling.outbound.binding
    async with _knowing_ourselves(spec, own, dialling):
        proven = (await prover.prove()).peer.node_id
    if proven == own.node_id:
        raise DialledOurselves(f"{spec.target.shown} is this node itself")
    if spec.expected_node_id not in (None, proven):
        raise IdentityRefused(f"{spec.target.shown} is node {proven}, but the catalog says {spec.expected_node_id}")
    opening = _opening(dialling, NODE_START_TIMEOUT_S, replace(dialling.outbound, prover=prover))
    target = spec.target if is_gateway else local
    dialling.quick.note(target.url, 0.0)  # As every node; it has just answered the handshake.
    client = await enter_client(stack, target, opening)
    identity = checked_identity(client.server_info, spec, proven)
    if binding is not None:
        binding.bind(identity.name, identity.node_id, spec.target.shown)
    return OpenClient(client, identity)


def knocker(dialling: Dialling) -> Knock:
    """The knock of a link between its dials, for one node."""

    async def knock(spec: BackendSpec, refused: bool) -> bool:
        assert isinstance(spec.target, HttpTarget), "a child is not dialled"
        outbound = dialling.outbound.for_peers() if isinstance(spec, PeerSpec) else dialling.outbound
        return await may_be_back(spec.target, outbound, refused=refused)

    return knock


def dialler(dialling: Dialling) -> Dial:
    """`opened` for the links of one node."""
    return partial(opened, dialling=dialling)


def local_target(target: HttpTarget) -> HttpTarget:
    """The same target with `/local` after its path, where it is not there yet; a query stays where it is."""
    parts = urlsplit(target.url)
    path = parts.path.rstrip("/").removesuffix(LOCAL_SUFFIX) + LOCAL_SUFFIX
    return replace(target, url=urlunsplit(parts._replace(path=path)))


def _node_of_view(target: HttpTarget) -> HttpTarget | None:
    """The local endpoint of the node whose view this is by its URL, as it would be; None for any other URL."""
    parts = urlsplit(target.url)
    path = _VIEW_OF_PATH.fullmatch(parts.path)
    if path is None and not (parts.path.rstrip("/").endswith("/mcp") and _VIEW_OF_QUERY.search(parts.query)):
        return None
    endpoint = parts.path.rstrip("/") if path is None else path["endpoint"]
    return replace(target, url=urlunsplit(parts._replace(path=endpoint + LOCAL_SUFFIX, query="")), token=None)


def refuse_mesh_node(server_info: ServerInfo, spec: ServerSpec, own: NodeIdentity) -> None:
    """Refuse a configured server that is a node of the mesh: it would list our own offer back to us, ever longer."""
    if server_info.mesh is None:
        return
    if server_info.mesh.get("node_id") == own.node_id:
        raise DialledOurselves(f"server {spec.name} is this node itself")
    raise IdentityRefused(f"server {spec.name} is a node of the mesh; add it as a peer instead")


def checked_identity(server_info: ServerInfo, spec: PeerSpec, proven: str) -> NodeIdentity:
    """The identity of a node whose ID is `proven`, with the name that it gives itself. Raises `LinkFailed`."""
    card = server_info.mesh or {}
    node_id, name = card.get("node_id"), card.get("name")
    if not isinstance(name, str) or not is_valid_name(name):
        raise IdentityRefused(f"{spec.target.shown} announces no usable node_id and name")
    if node_id != proven:
        message = f"{spec.target.shown} says that it is another node than it has proven to be"
        raise IdentityRefused(message, claimed=node_mark(node_id) if isinstance(node_id, str) else "")
    if is_leaving(server_info):
        raise Unreachable(f"{spec.target.shown} is stopping")
    return NodeIdentity(proven, name)


@asynccontextmanager
async def turn(places: asyncio.Semaphore) -> AsyncGenerator[None, None]:
    """Wait for a place and hold it, for `TURN_S` at most; the block may take longer."""
    await places.acquire()
    held = True

    def give_up() -> None:
        nonlocal held
        if held:
            held = False
            places.release()

    timer = asyncio.get_running_loop().call_later(TURN_S, give_up)
    try:
        yield
    finally:
        timer.cancel()
        give_up()
