"""Tasks of MCP 2026-07-28: the public IDs that clients get, and the route of such an ID.

Called by the endpoints, which look up the route of a task, and by dispatch, which renames the tasks in results. A
server answers a call with a task instead of a result; its ID is valid for as long as the server keeps the task, so the
public ID has to be valid after a restart of this node too, and spells out the route: the server and its node. The same
ID is valid on every node that knows that node. The one rule: an ID is no key; a forged one reaches only backends of the
endpoint's route table, and there the server's own ID decides.
"""

import re
from typing import Final
from urllib.parse import quote, unquote

from agent.errors import MeshError, ProtocolBroken, RpcError
from agent.lossless_json.raw import exact
from agent.mcp_terms import CLIENT_CAPABILITIES_META_KEY
from agent.model import TASKS_EXTENSION, BackendSpec, Json, LinkView, NodeIdentity, ServerSpec
from agent.routing.table import Contribution, ContributionKind, Imported, Replica, Route, RouteKind, RouteTable
from agent.rpc_codes import MISSING_REQUIRED_CLIENT_CAPABILITY

TASK_METHODS: Final = frozenset({"tasks/get", "tasks/update", "tasks/cancel"})
# The states that no task leaves again.
ENDED: Final = frozenset({"completed", "failed", "cancelled"})
# In UTF-8. It travels as a header too (`Mcp-Name`), where servers take 8 KB, and base64 makes a third more of it.
TASK_ID_BYTES_MAX: Final = 4096

# The `_meta` of a request whose client accepts tasks.
TAKES_TASKS: Final[Json] = {CLIENT_CAPABILITIES_META_KEY: {"extensions": {TASKS_EXTENSION: {}}}}
_VERSION: Final = "mesh1"
_PUBLIC_ID: Final = re.compile(rf"{_VERSION}/(?:server/([^/]+)/([^/]+)|gateway/([^/]+)|peer/([^/]+))/(.*)", re.DOTALL)


class TaskIdRefused(MeshError):
    """A task ID is none that a node hands out."""


def announces_tasks(capabilities: Json) -> bool:
    """Whether a server (or a client) of 2026-07-28 with these capabilities knows tasks."""
    extensions = capabilities.get("extensions")
    return isinstance(extensions, dict) and isinstance(extensions.get(TASKS_EXTENSION), dict)


def declares_tasks(params: Json) -> bool:
    """Whether the client of this request accepts a task as an answer."""
    meta = params.get("_meta")
    capabilities = meta.get(CLIENT_CAPABILITIES_META_KEY) if isinstance(meta, dict) else None
    return isinstance(capabilities, dict) and announces_tasks(capabilities)


def missing_tasks(message: str) -> RpcError:
    """The error for a client that does not declare the extension, in the extension's own terms."""
    required: Json = {"requiredCapabilities": {"extensions": {TASKS_EXTENSION: {}}}}
    return RpcError(MISSING_REQUIRED_CLIENT_CAPABILITY, message, required)


def is_task(result: Json) -> bool:
    """Whether a result is a task instead of an answer."""
    return result.get("resultType") == "task"


def without_tasks(capabilities: Json) -> Json:
    """The capabilities without this extension, where its client may not use it."""
    if not announces_tasks(capabilities):
        return capabilities
    extensions = {name: value for name, value in capabilities["extensions"].items() if name != TASKS_EXTENSION}
    return {**capabilities, "extensions": extensions}


def any_tasks(table: RouteTable) -> bool:
    """Whether any backend of the table may answer calls with tasks."""
    return any(part.source.has_tasks for part in table.parts.values())


def task_route(method: str, task_id: str, table: RouteTable, own_node_id: str) -> Route:
    """The route of a task: one replica and no other, or none when that backend is gone or not in this table.

    Raises:
        TaskIdRefused: no node hands out such an ID.
    """
    found = _PUBLIC_ID.fullmatch(task_id) if _is_short(task_id) else None
    if found is None:
        raise TaskIdRefused("this ID was not handed out by a node of the mesh")
    node_id, server, gateway, peer = (None if part is None else unquote(part) for part in found.groups()[:4])
    theirs = found[5]
    if node_id is not None and node_id != own_node_id:
        gateway, theirs = node_id, task_id  # That node's own local endpoint hands out this ID.
    for key, part in table.parts.items():
        if _is_meant(part.source, None if gateway else server, gateway, peer):
            return _route(method, key, part, theirs, table)
    return Route(RouteKind.TOOL, method, {}, "", (), listed=False, owner="task:")


def shown_task(method: str, params: Json, result: Json, replica: Replica, view: LinkView, *, own_node_id: str) -> Json:
    """`result` of `replica` with the public ID of its task; the same object where nothing changes.

    `params` are the caller's, `view` is the link that answered.

    Raises:
        ProtocolBroken: a task for a client that accepts none, a task without an ID, or not the requested task.
    """
    if method in TASK_METHODS:
        if "taskId" not in result or replica.remote_name == params["taskId"]:
            return result
        if result["taskId"] != replica.remote_name:
            raise ProtocolBroken.about("the server", "answered about another task")
        return {**exact(result), "taskId": params["taskId"]}
    if not is_task(result):
        return result
    if method != "tools/call" or not declares_tasks(params):
        what = "answered with a task, which the client did not say that it takes"
        raise ProtocolBroken.about("the server", what)
    theirs = result.get("taskId")
    if not isinstance(theirs, str):
        raise ProtocolBroken.about("the server", "made a task with no ID")
    ours = _public_id(theirs, view.spec, view.identity, own_node_id)
    if not _is_short(ours):
        raise ProtocolBroken.about("the server", f"made a task with an ID of nearly {TASK_ID_BYTES_MAX} bytes or more")
    return result if ours == theirs else {**exact(result), "taskId": ours}


def _public_id(theirs: str, spec: BackendSpec, identity: NodeIdentity | None, own_node_id: str) -> str:
    if isinstance(spec, ServerSpec):
        return f"{_of_node(own_node_id)}{quote(spec.name, safe='')}/{theirs}"
    if identity is None:
        return f"{_VERSION}/peer/{quote(spec.name, safe='')}/{theirs}"
    if theirs.startswith(_of_node(identity.node_id)):
        return theirs
    # Only a gateway hands out IDs of other nodes; the way back leads through it.
    return f"{_VERSION}/gateway/{quote(identity.node_id, safe='')}/{theirs}"


def _of_node(node_id: str) -> str:
    return f"{_VERSION}/server/{quote(node_id, safe='')}/"


def _is_meant(source: Contribution, server: str | None, gateway: str | None, peer: str | None) -> bool:
    """Whether the ID leads there next. A node may not yet have shown that it has tasks; it answers for itself."""
    match source.kind:
        case ContributionKind.SERVER:
            return source.label == server and source.has_tasks
        case ContributionKind.PLAIN_PEER:
            return source.label == peer and source.has_tasks
        case ContributionKind.MESH_PEER:
            return source.node is not None and source.node.node_id == gateway


def _route(method: str, key: str, part: Imported, theirs: str, table: RouteTable) -> Route:
    source = part.source
    ours = source.kind is ContributionKind.SERVER
    plain = source.kind is ContributionKind.PLAIN_PEER
    replica = Replica(key, theirs, None if source.node is None else source.node.node_id, ours, 0 if ours else 1)
    owner = f"plain:{source.label}" if plain else f"task:{key}"
    namespace = "" if source.kind is ContributionKind.MESH_PEER else _namespace(key, part, table)
    return Route(RouteKind.TOOL, method, {}, "", (replica,), listed=False, owner=owner, namespace=namespace)


def _namespace(key: str, part: Imported, table: RouteTable) -> str:
    """The namespace in the URIs of a backend of ours; the listed one comes first among its claims."""
    for claimed in part.claims:
        for route in claimed.routes:
            held = table.namespaces.get(route.public_name) if route.kind is RouteKind.NAMESPACE else None
            if held is not None and any(replica.backend_key == key for replica in held.replicas):
                return route.public_name
    return ""


def _is_short(task_id: str) -> bool:
    return len(task_id.encode("utf-8", "surrogatepass")) <= TASK_ID_BYTES_MAX
