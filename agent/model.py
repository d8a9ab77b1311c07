"""Frozen shapes shared by every layer of `agent`: what is configured, what a backend offers, how a link stands.

Built by the configuration, by selection and by link tasks; read by all. The one rule: nothing here changes after it is
made, so a snapshot may be kept and compared.
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

from agent.mcp_terms import HANDSHAKE_PROTOCOL_VERSIONS
from agent.peer_kind import PeerKind

Json: TypeAlias = dict[str, Any]

# The one prefix of everything we add to MCP messages (`_meta` keys, capability extensions). See docs/glossary.md.
MESH_EXTENSION = "mesh-agent/mesh"  # in capabilities.extensions (modern) or .experimental (legacy): who we are
DRAINING = "draining"  # true in there: what is under way will be finished, anything new should go elsewhere
ORIGIN_META_KEY = "mesh-agent/origin"  # in a listed definition's `_meta`: whose it is
PATH_META_KEY = "mesh-agent/path"  # in a request's `_meta`: node IDs passed, only across gateways
DEADLINE_META_KEY = "mesh-agent/deadline-ms"  # in a request's `_meta`: milliseconds that the caller still waits
ERROR_META_KEY = "mesh-agent/error"  # in a result's `_meta`: the JSON-RPC error that it stands for
NODE_CLIENT_NAME = "mcp-mesh-agent"  # What a node calls itself as a client, before it has proven who it is.
PROBE_META_KEY = "mesh-agent/probe"  # in a request's `_meta`: true where a link only asks whether we live
# A resource may be listed with a URI of 4,096 characters, and `Mcp-Name` says it in Base64 unless it is ASCII.
# As much may all have together that repeat words of a request.
HEADER_BYTES_MAX = 32 * 1024
AUTH_REALM = "mcp-mesh-agent"  # what a node that wants a token says is behind it (RFC 9110, section 11.5)
OWN_ERROR_KEY = "mesh-agent/own-word"  # in an error's `data` between nodes: the node itself says so, not its server
# In a result that asks: true where the server's call is open meanwhile, and can hear that the client refused.
PENDING_META_KEY = "mesh-agent/parked"
# In the retry of such a call: the client's errors by question; an empty object where it gave the call up.
REFUSED_META_KEY = "mesh-agent/refused"
# In the retry of such a call: true where it only asks whether the questions still stand, and answers none.
POLL_META_KEY = "mesh-agent/look"
# In a notice of changed lists on the stream of a call: true where the server announced it elsewhere. For nodes only.
CHANGE_META_KEY = "mesh-agent/changed"
# In the request of a list: true where a node reads it, to import what is behind a gateway.
FOR_NODE_META_KEY = "mesh-agent/for-node"
# In a request's `_meta`: true where the caller has another replica, so that one that is away is not waited for.
ALTERNATIVES_META_KEY = "mesh-agent/alternatives"
AFFINITY_META_KEY = "mesh-agent/affinity"  # in a request's `_meta`: keeps calls of one key on one replica, if sticky
# A request of ours between nodes, and to clients: a client of the sender's, named by its affinity, did something.
CLIENT_METHOD = "mesh-agent/client"
# In a request's `_meta`: true where its client has a session, whose server may send requests of its own meanwhile.
IN_SESSION_META_KEY = "mesh-agent/in-session"
# In the answer to such an event: whether the client is subscribed in a session of its own at the server.
SUBSCRIBED_THERE = "subscribedThere"
# In the filter of `subscriptions/listen` between nodes: what servers tell in the sessions of single clients.
SESSIONS_MEMBER = "mesh-agent/sessions"
# An extension of MCP 2026-07-28: a call may be answered with a task, and its result be asked for later.
TASKS_EXTENSION = "io.modelcontextprotocol/tasks"
# MCP Apps (SEP-1865): a server's tools have pages, and a client that declares this shows them.
UI_EXTENSION = "io.modelcontextprotocol/ui"

# How long a server may take to start: an interpreter and its imports on a busy machine take seconds, not minutes.
START_TIMEOUT_S = 60.0
MASK = "********"  # in the place of a secret
_TURN = re.compile(r"[A-Za-z](?=[0-9])|[0-9](?=[A-Za-z])")
# What the query of an endpoint's URL may say (docs/views.md, docs/settings.md).
QUERY_WORDS = frozenset({"servers", "tags", "tools", "notices", "errors"})

# docs/architecture.md, "Names": clients in the field refuse longer tool names (the protocol itself allows 128).
PUBLIC_NAME_LEN_MAX = 64
PUBLIC_NAME_LEN_MIN = 32  # less would leave a shortened name hardly anything but its digest

# Of a node among those that serve the same. More is no setting but a slip, and in the catalog a claim to every call.
WEIGHT_MAX = 100


class ClientEvent(StrEnum):
    """What `CLIENT_METHOD` tells of a client with a session."""

    ENDED = "ended"
    ROOTS_CHANGED = "roots_changed"
    SUBSCRIBED = "subscribed"
    UNSUBSCRIBED = "unsubscribed"
    LISTS = "lists"  # It is about to list; the answer says whether it has lists of its own there.
    DELETED = "deleted"  # Clients ended these sessions at the sender, and no node is to go on with them.


class ServerScope(StrEnum):
    """What a local server's name means on other nodes (docs/architecture.md, "Names")."""

    SERVICE = "service"
    NODE = "node"
    PRIVATE = "private"
    FLEET = "fleet"


class PeerScope(StrEnum):
    """How much of a mesh peer is imported: what it serves itself, or all that it sees (a gateway)."""

    LOCAL = "local"
    MESH = "mesh"


class PeerSource(StrEnum):
    """Who named a peer; an override beats discovery."""

    DISCOVERY = "discovery"
    OVERRIDE = "override"
    STATIC = "static"


class Era(StrEnum):
    """The two protocol families: stateless 2026-07-28 and later, or sessions opened by `initialize`."""

    MODERN = "modern"
    LEGACY = "legacy"


class Sessions(StrEnum):
    """Which clients get a session of their own with a server, over stdio a child process (`mesh.sessions`).

    `AUTO`: those that can be asked, but over stdio only beside a child that speaks 2026-07-28; and over HTTP those that
    have a session, where the server says that its lists may change. `SHARED`: over HTTP those that can be asked; over
    stdio there is one child and never a second one. `OWN`: all, where the server has sessions.
    """

    AUTO = "auto"
    SHARED = "shared"
    OWN = "own"


@dataclass(frozen=True, slots=True)
class StdioTarget:
    """A child process that speaks MCP on its stdin and stdout. `user`: whose account it runs as; None: the node's.

    `cgroup`: whether it has a control group of its own; None: where it can.
    """

    command: str
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    cwd: str | None = None
    user: str | None = None
    cgroup: bool | None = None


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files: authorities that vouch for the other side, our certificate and its key (None: in `cert`).

    `is_checked`: whether the other side's certificate is; only a command line may do without. `server_name`: the
    name to ask for in place of the host, where certificates name no host, and their names are looked at elsewhere.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    is_checked: bool = True
    server_name: str = ""


class HttpTransport(StrEnum):
    """How a server speaks at its URL. `ANY`: streamable HTTP, else the old HTTP+SSE if it answers so."""

    ANY = "any"
    STREAMABLE = "http"
    SSE = "sse"


def masked_url(url: str) -> str:
    """A URL as logs and answers show it: some services take their key in its query or its path, so it is hidden there.

    What this software itself gives a meaning there (docs/views.md) stays, and so do names: a part of the path is a key
    where it is long, and letters and digits take turns in it.
    """
    address, mark, query = url.partition("?")
    scheme, slashes, rest = address.partition("://")
    host, *segments = rest.split("/")
    address = scheme + slashes + "/".join([host, *(MASK if _is_key(one) else one for one in segments)])
    parts = (part.partition("=") for part in query.split("&"))
    shown = (name + equals + (value if name in QUERY_WORDS or not value else MASK) for name, equals, value in parts)
    return address + mark + "&".join(shown)


def _is_key(segment: str) -> bool:
    return len(segment) >= 20 and len(_TURN.findall(segment)) >= 3  # noqa: PLR2004 - see `masked_url`


class OAuthGrant(StrEnum):
    """How a token is got: by a person who logs in, or by this node's own ID and secret."""

    CODE = "authorization_code"
    CLIENT = "client_credentials"


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """What this node is to the issuer of a server's tokens (docs/settings.md, `oauth`).

    `client_id` empty: it registers itself. `secret_file`: read at each use, in the place of `secret`. `issuer`: which
    issuer ID and secret are for. `redirect_uri`: where the issuer sends the browser; empty for any free loopback port.
    """

    grant: OAuthGrant = OAuthGrant.CODE
    client_id: str = ""
    secret: str = field(default="", repr=False)
    secret_file: str = ""
    scopes: tuple[str, ...] = ()
    issuer: str = ""
    redirect_uri: str = ""


@dataclass(frozen=True, slots=True)
class HttpTarget:
    """An MCP endpoint by URL. `headers` and `token` may be secrets and are kept out of `repr`.

    `tls`: its own files, in place of the node's; its `ca` in place of the system's authorities, too. `oauth`: None
    where nothing is said of it; the server may ask for a login all the same.
    """

    url: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    token: str | None = field(default=None, repr=False)
    transport: HttpTransport = HttpTransport.ANY
    tls: TlsFiles | None = None
    oauth: OAuthClient | None = None

    @property
    def has_own_authorization(self) -> bool:
        """Whether its headers say who we are, so that no login is looked for."""
        return self.token is not None or any(name.lower() == "authorization" for name, _ in self.headers)

    @property
    def shown(self) -> str:
        """The URL as `masked_url` shows it."""
        return masked_url(self.url)


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """One MCP server of the local configuration. `call_timeout_s` None: the node's own setting.

    `start_timeout_s`: how long it may take from the dial, or the start of the child, to its first list.
    `sticky`: a client's calls, or those of one explicit key, stay on one replica while it lives. `configured_name`:
    what the servers file calls it where `name` is another, safe one. `protocol`: the only version to speak, None for
    what the server speaks. `tags`: words by which views select it (docs/views.md). `key`: of the backend.
    """

    name: str
    target: StdioTarget | HttpTarget
    scope: ServerScope
    enabled: bool = True
    call_timeout_s: float | None = None
    sticky: bool = False
    sessions: Sessions = Sessions.AUTO
    configured_name: str = ""
    start_timeout_s: float = START_TIMEOUT_S
    protocol: str | None = None
    tags: tuple[str, ...] = ()
    key: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Asked for thousands of times at each change of a long catalog, and kept many times by a link's routes.
        object.__setattr__(self, "key", sys.intern(f"server:{self.name}"))


@dataclass(frozen=True, slots=True)
class PeerSpec:
    """One peer that we want a link to.

    `expected_node_id`: what the catalog's Meta says; another answer is refused. `is_mesh_node`: the catalog, or an
    operator by `kind`, says that it is one of us, so `/local` is dialled directly. `sighting` changes whenever the
    catalog says something new about it (appeared, passing again, another epoch); a change cuts a back-off short.
    `weight`: how much it can take in comparison with other nodes, by the catalog's word. `maintenance`: the
    operator's reason for no new calls, empty without one. `datacenter`: another one, for calls where those
    at home are gone or far slower. `key`: the backend key; one namespace with servers.
    """

    name: str
    target: HttpTarget
    source: PeerSource
    scope: PeerScope = PeerScope.LOCAL
    aliases: tuple[str, ...] = ()
    expected_node_id: str | None = None
    is_mesh_node: bool = False
    sighting: str = ""
    weight: int = 1
    maintenance: str = ""
    datacenter: str = ""
    kind: PeerKind | None = None
    key: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", sys.intern(f"peer:{self.name}"))


BackendSpec: TypeAlias = ServerSpec | PeerSpec


@dataclass(frozen=True, slots=True)
class ViewSpec:
    """A selection of the mesh for clients (docs/views.md).

    `servers` are globs of the names of servers: public ones (`node-b__files`), and those that their nodes give them
    (`files`, on every node). `tags`: of servers; one that has any of them is shown too. Neither: all servers. `tools`
    are globs of public names, with `!` before those to leave out; where there are some, and no servers, only servers
    with such a tool are shown. `aliases` and `descriptions`: of tools, by public name. `alone`: the only server is
    shown under its own names. `title` and `description` introduce the view to clients. `read_only`: of the tools, those
    alone that say so.
    """

    servers: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    descriptions: Mapping[str, str] = field(default_factory=dict)
    alone: bool = False
    title: str = ""
    description: str = ""
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """Who a mesh node says it is."""

    node_id: str
    name: str


@dataclass(frozen=True, slots=True)
class ListFault:
    """A list of a backend that could not be read, or not to its end: the method that asks for it, and why.

    `said`: the reason for clients, without addresses; empty where `reason` has none.
    """

    method: str
    reason: str
    said: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, eq=False)
class Offer:
    """What a backend lists, as it came (raw JSON objects, never changed in place), and a digest of all of it.

    A hostile backend may list what is no object at all. `faults`: whose part is what was known before, or incomplete.
    """

    tools: tuple[Json, ...] = ()
    prompts: tuple[Json, ...] = ()
    resources: tuple[Json, ...] = ()
    templates: tuple[Json, ...] = ()
    digest: str = ""
    faults: tuple[ListFault, ...] = ()

    def __eq__(self, other: object) -> bool:
        """By digest where both have one: what is nested too deep cannot even be compared."""
        if not isinstance(other, Offer):
            return NotImplemented
        if self.digest and other.digest:
            return (self.digest, self.faults) == (other.digest, other.faults)
        mine = (self.tools, self.prompts, self.resources, self.templates, self.digest, self.faults)
        return mine == (other.tools, other.prompts, other.resources, other.templates, other.digest, other.faults)

    def __hash__(self) -> int:
        """As equality: offers without a digest have one hash."""
        return hash(self.digest)


class LinkState(StrEnum):
    """The states of a link; the table is in `agent.links.state`."""

    IDLE = "idle"
    DIALING = "dialing"
    READY = "ready"
    SUSPECT = "suspect"
    BACKOFF = "backoff"
    PARKED = "parked"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class LinkView:
    """A link as others may see it. Times are the event loop's monotonic seconds; latency in seconds."""

    spec: BackendSpec
    state: LinkState = LinkState.IDLE
    offer: Offer = Offer()
    identity: NodeIdentity | None = None
    protocol_version: str | None = None  # as negotiated
    has_tasks: bool = False  # it announces that calls may be answered with tasks
    lists_may_differ: bool = False  # between sessions, as far as it says
    server_info: Mapping[str, Any] = field(default_factory=dict)
    about: Json = field(default_factory=dict)  # its word of itself, see agent.routing.about
    last_error: str = ""  # for operators
    said_error: str = ""  # the same for clients, without addresses and commands (agent.errors)
    failure: str = ""  # the class of the last failure, see agent.errors
    claimed: str = ""  # which node it says it is without a proof, as `node_mark` has it
    attempts: int = 0
    next_attempt_at_s: float | None = None
    ready_at_s: float | None = None
    latency_s: float | None = None
    reconnects: int = 0
    unheard: bool = False  # it answers no more, as most do not, so that it may be this node that does not hear

    @property
    def key(self) -> str:
        """The backend key of the spec."""
        return self.spec.key

    @property
    def era(self) -> Era | None:
        """That of its version; None before there is one."""
        if self.protocol_version is None:
            return None
        return Era.LEGACY if self.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS else Era.MODERN

    @property
    def connected(self) -> bool:
        """Whether calls may be routed to it."""
        return self.state is LinkState.READY or self.state is LinkState.SUSPECT


@dataclass(frozen=True, slots=True)
class Override:
    """A peer that an operator added; `target.token` is for plain servers and gateways. `kind`: None, the proof says."""

    name: str
    target: HttpTarget
    scope: PeerScope = PeerScope.LOCAL
    kind: PeerKind | None = None


@dataclass(frozen=True, slots=True)
class Suppression:
    """A discovered peer that an operator removed, described so that it stays away when it comes back.

    `name`: what it was called here. `node_id`: None for a plain peer. `service_id`: what the catalog calls it. `url`:
    hides what is there alone, whatever it calls itself: of what says that it is a node and has not proven it.
    """

    name: str
    node_id: str | None = None
    service_id: str | None = None
    url: str | None = None


PEER_PATH = "/mcp/local"
HANDSHAKE_SUFFIX = "/handshake"  # Behind the local endpoint; see `agent.identity.handshake`.
HANDSHAKE_PATH = PEER_PATH + HANDSHAKE_SUFFIX
SINGLE_PATH = "/mcp/s/"  # The name of a server follows.
VIEW_PATH = "/mcp/v/"  # The name of a view follows.
