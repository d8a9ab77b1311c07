"""Asks several nodes of a fleet at once, and answers for its resource: the thin shell around `agent.routing.fleet`.

Called by `agent.server.forward`. The one rule: a node that fails, or is slow, costs its own row and nothing else; all
calls end by the deadline of the one that they belong to, and are cancelled with it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

import orjson

from agent import clock
from agent.client.server_info import OnNotification
from agent.dispatch.call import Forwarded
from agent.dispatch.param_headers import looked_into
from agent.dispatch.retry import deadline_ms_to_tell, received_deadline_s
from agent.errors import NOT_EXECUTED, OUTCOME_UNKNOWN, MCPError
from agent.lossless_json.raw import exact
from agent.lossless_json.unread import Unread
from agent.mcp_terms import CLIENT_CAPABILITIES_META_KEY
from agent.model import ALTERNATIVES_META_KEY, DEADLINE_META_KEY, IN_SESSION_META_KEY, Json
from agent.routing.fleet import NODE_VARIABLE, nodes_uri
from agent.routing.fleet_results import Row, merged
from agent.routing.fleet_targets import OneNode, SeveralNodes, targets_of
from agent.routing.table import Fleet, Replica, Route
from agent.rpc_codes import INVALID_PARAMS
from agent.turns import in_slices

# Each is a request on a connection of its own; more at once would only wait for each other.
AT_ONCE_MAX: Final = 16
# MCP's limit for the values of a completion.
COMPLETIONS_MAX: Final = 100
_OUTCOMES: Final = {NOT_EXECUTED: "not_executed", OUTCOME_UNKNOWN: "unknown"}
# What belongs to one call: its own progress, its session, and the requests that its server might send its client.
_OF_ONE_CALL: Final = frozenset({"progressToken", IN_SESSION_META_KEY})
_MEMBERS_OF_ONE_CALL: Final = frozenset({"requestState", "inputResponses", "task"})

Send: TypeAlias = Callable[..., Awaitable[Forwarded]]  # Takes a route and params; see `agent.server.forward`.
_NO_REPLICA: Final = Replica("", "", None, ours=True, hops=0)  # Of an answer of our own.


@dataclass(frozen=True, slots=True)
class FleetCall:
    """One request of a fleet's tool or resource. `call_timeout_s`: where the caller has set no time."""

    method: str
    route: Route
    params: Json
    notify: OnNotification
    call_timeout_s: float

    async def answered(self, alone: Send, each: Send, present: Callable[[], Route | None]) -> Forwarded:
        """The answer. `alone` sends to one node as the caller has asked, `each` to one of several.

        `present` looks up the fleet's route as it is now. Raises `MCPError`.
        """
        route, params, fleet = self.route, self.params, self.route.fleet
        assert fleet is not None
        if self.method == "completion/complete":
            return Forwarded(completed_nodes(fleet, params), _NO_REPLICA)
        if self.method != "tools/call":
            return Forwarded(fleet_resource(fleet, params["uri"]), _NO_REPLICA)
        if type(arguments := params.get("arguments")) is Unread:
            await in_slices(arguments.find([(fleet.argument,)]))
        target = targets_of(route, params)
        if isinstance(target, OneNode):
            return await alone(target.route, target.params, present=partial(_present, present, params))
        if type(rest := target.params.get("arguments")) is Unread:  # Once for all nodes.
            await in_slices(looked_into(route.definition.get("inputSchema"), rest))
        return Forwarded(await ask_several(target, each, self.notify, self.call_timeout_s), _NO_REPLICA)


def _present(present: Callable[[], Route | None], params: Json) -> Route | None:
    """The route of the same node as it is now."""
    now = present()
    if now is None or now.fleet is None:
        return now
    try:
        target = targets_of(now, params)
    except MCPError:
        return None
    return target.route if isinstance(target, OneNode) else None


async def ask_several(target: SeveralNodes, send: Send, notify: OnNotification, call_timeout_s: float) -> Json:
    """Call each node and return one result. `send` raises `MCPError`. `notify` gets the progress, where it is wanted.

    `call_timeout_s`: for all together, where the caller has set no time.
    """
    received_s = received_deadline_s(target.params)
    deadline_s = clock.now_s() + min(call_timeout_s, call_timeout_s if received_s is None else received_s)
    params, token = _for_each(target.params), (target.params.get("_meta") or {}).get("progressToken")
    rows = {node: Row.failed(node, *why) for node, why in target.refusals.items()}
    slots = asyncio.Semaphore(AT_ONCE_MAX)
    count = len(target.calls)

    async def call(node: str, route: Route) -> None:
        async with slots:
            rows[node] = await _row(node, route, params, deadline_s, send)
        if token is not None:
            words = f"{len(rows)} of {count} nodes"
            note = {"progressToken": token, "progress": len(rows), "total": count, "message": words}
            await notify("notifications/progress", note)

    async with asyncio.TaskGroup() as group:
        for node, route in target.calls.items():
            if route is not None:
                group.create_task(call(node, route), name=f"fleet call on {node}")
    return merged([rows[node] for node in target.calls])


async def _row(node: str, route: Route, params: Json, deadline_s: float, send: Send) -> Row:
    left_s = deadline_s - clock.now_s()
    if left_s <= 0:
        return Row.failed(node, "not_executed", "the deadline passed before it could be sent")
    meta = {**params["_meta"], DEADLINE_META_KEY: deadline_ms_to_tell(left_s)}
    try:
        forwarded = await send(route, {**params, "name": route.public_name, "_meta": meta})
    except MCPError as exc:
        return Row.failed(node, _OUTCOMES.get(exc.code, "error"), exc.message)
    return Row.answered(node, exact(forwarded.result))


def _for_each(params: Json) -> Json:
    """Params of a call that several nodes get: none may ask the client, or wait for a server that is away."""
    meta = {name: value for name, value in (params.get("_meta") or {}).items() if name not in _OF_ONE_CALL}
    kept = {name: value for name, value in params.items() if name not in _MEMBERS_OF_ONE_CALL}
    return {**kept, "_meta": {**meta, CLIENT_CAPABILITIES_META_KEY: {}, ALTERNATIVES_META_KEY: True}}


def fleet_resource(fleet: Fleet, uri: str) -> Json:
    """The result of reading a resource of a fleet. Raises `MCPError` for a URI that it does not have."""
    names, root = sorted(fleet.members), nodes_uri(fleet.server)
    if uri == root:
        said: Json = {"server": fleet.server, "nodes": names, "count": len(names)}
    elif (name := uri.removeprefix(f"{root}/")) in fleet.members:
        said = {"server": fleet.server, NODE_VARIABLE: name}
    else:
        raise MCPError(code=INVALID_PARAMS, message=f"Unknown resource: {uri!r}", data={"uri": uri})
    text = orjson.dumps(said).decode()
    return {"contents": [{"uri": uri, "mimeType": "application/json", "text": text}]}


def completed_nodes(fleet: Fleet, params: Json) -> Json:
    """The result of a completion: the nodes whose names begin so."""
    argument = params.get("argument")
    if isinstance(argument, Unread):
        argument = argument.looked_at("argument")
    asked = argument if isinstance(argument, dict) else {}
    begin = str(asked.get("value") or "")
    names = fleet.members if asked.get("name") == NODE_VARIABLE else ()
    found = sorted(name for name in names if name.startswith(begin))
    more = len(found) > COMPLETIONS_MAX
    return {"completion": {"values": found[:COMPLETIONS_MAX], "total": len(found), "hasMore": more}}
