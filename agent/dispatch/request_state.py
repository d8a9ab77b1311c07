"""The layer that this node puts around a server's `requestState`, so that the input reaches the server that asked.

Called by dispatch. A server of 2026-07-28 may answer `input_required` with a state that it alone can read; the client
repeats its request with that state and the input. Each node on the way adds a layer of its own and removes it. The one
rule: a state that this node did not hand out for this very request goes nowhere, and none is ever logged.

The key is random and lives as long as the process. The layers inside belong to this node's own path to the replica, so
a retry has to come to the same node anyway; a shared key would only let another node start a path that it cannot end.
"""

import base64
import hashlib
import hmac
import json
import secrets
from dataclasses import replace
from typing import Final

from agent.authority.caller import caller
from agent.client.capabilities import MAY_ASK
from agent.errors import CallNotSent, MeshError, ProtocolBroken
from agent.model import Json
from agent.routing.table import Replica, Route

# Longer than servers usually give (the SDK's: ten minutes), so that late input mostly gets the server's own error.
STATE_TTL_S: Final = 3600
# A state is carried by every retry and through every node; a body may have 4 MiB.
STATE_LEN_MAX: Final = 262_144
# The most that a layer may add; a place is usually a node ID, but a peer's may have 4,096 characters.
LAYER_LEN_MAX: Final = 8192

_VERSION: Final = "mesh1"
_KEY_BYTES: Final = 32


class StateRefused(MeshError):
    """A request carries a `requestState` that is not ours, not for this request, or too old. It was not executed."""


class RequestStates:
    """Wraps and unwraps with one key. Times are seconds of one clock that never goes back."""

    def __init__(self, key: bytes | None = None) -> None:
        self._key = secrets.token_bytes(_KEY_BYTES) if key is None else key

    def __repr__(self) -> str:
        return "<RequestStates>"

    def wrapped(self, method: str, route: Route, replica: Replica, result: Json, now_s: float) -> Json:
        """`result` of `replica` with a layer around its state; the same object when it carries no state.

        Raises:
            ProtocolBroken: the state is no string, or longer than `STATE_LEN_MAX`.
        """
        state = result.get("requestState")
        if state is None or method not in MAY_ASK or not asks(result):
            return result
        if not isinstance(state, str):
            raise ProtocolBroken.about("the server", "gave a requestState that is no text")
        if len(state) > STATE_LEN_MAX:
            raise ProtocolBroken.about("the server", f"gave a requestState of more than {STATE_LEN_MAX} characters")
        head = _encoded(json.dumps([int(now_s) + STATE_TTL_S, place_of(replica)]).encode())
        return {**result, "requestState": f"{_VERSION}.{head}.{self._mac(head, method, route, state)}.{state}"}

    def unwrapped(self, method: str, route: Route, params: Json, now_s: float) -> tuple[Route, Json]:
        """The route narrowed to the replica that asked, and `params` with its own state; both as given without one.

        Raises:
            StateRefused: see there.
            CallNotSent: that replica is gone.
        """
        token = params.get("requestState")
        if token is None or method not in MAY_ASK:  # A null counts as absent.
            return route, params
        place, state = self._opened(method, route, token, now_s)
        asked = [replica for replica in route.replicas if place_of(replica) == place]
        if not asked:
            raise CallNotSent.for_clients(
                "the replica that asked for input is gone, and no other knows its requestState"
            )
        return replace(route, replicas=(asked[0],)), {**params, "requestState": state}

    def _opened(self, method: str, route: Route, token: object, now_s: float) -> tuple[str, str]:
        if not isinstance(token, str) or len(token) > STATE_LEN_MAX + LAYER_LEN_MAX:
            raise StateRefused("requestState is no text of a length that this node hands out")
        version, _, rest = token.partition(".")
        head, _, rest = rest.partition(".")
        mac, _, state = rest.partition(".")
        expected = self._mac(head, method, route, state)
        genuine = hmac.compare_digest(mac.encode("utf-8", "surrogatepass"), expected.encode())
        if version != _VERSION or not genuine:
            raise StateRefused(
                "requestState was not handed out by this node for this request: it was changed, belongs to another "
                "request, or is from before a restart. Send the request without it"
            )
        until_s, place = json.loads(base64.urlsafe_b64decode(head))
        if now_s >= until_s:
            raise StateRefused("requestState has expired. Send the request without it")
        return place, state

    def _mac(self, head: str, method: str, route: Route, state: str) -> str:
        """Binds the place and the time to the request, the state and the caller, each within its own quotes."""
        bound = json.dumps([head, method, route.owner, route.public_name, state, caller().grant.realm]).encode()
        return _encoded(hmac.digest(self._key, bound, hashlib.sha256))


def asks(result: Json) -> bool:
    """Whether a result demands input of the client instead of being an answer."""
    return result.get("resultType") == "input_required"


def place_of(replica: Replica) -> str:
    """The identity of a replica while input is awaited: its node, as the link to it may be renamed meanwhile.

    Behind a gateway the link counts too, because the state carries the gateway's layer.
    """
    if replica.node_id is not None and replica.hops <= 1:
        return replica.node_id
    return f"{replica.backend_key} {replica.node_id or ''}"


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()
