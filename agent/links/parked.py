"""The calls of one door that wait for their client's answers, each under the state that the client was given.

Kept by `asking_door`. The one rule: a state is good for one retry, so that nothing is ever answered or executed twice,
and a client that never comes back leaves nothing behind. To look whether the questions still stand is no retry.
"""

import asyncio
import secrets
from collections import Counter
from typing import Any, Final

from agent.core.fair_share import over_share
from agent.errors import RpcError
from agent.links import rpc
from agent.links.hello import OnNotification
from agent.links.open_call import CONTESTED_PATIENCE_S, OnParked, OpenCall
from agent.model import LOOK_META_KEY, PARKED_META_KEY, REFUSED_META_KEY, Json

# For users to think; as long as the front waits for a client with a session (`agent.api.questions`).
PATIENCE_S: Final = 600.0
# Of one door. Each holds a request of the backend and its stream.
PARKED_MAX: Final = 256

_INVALID_PARAMS: Final = -32602
_STATE_BYTES: Final = 32


class ParkedCalls:
    """See the module. A call whose session was wanted by others stays, so that its client can hear of it."""

    def __init__(self, on_parked: OnParked) -> None:
        self._on_parked = on_parked
        self._calls: dict[str, tuple[OpenCall, asyncio.TimerHandle]] = {}

    def __repr__(self) -> str:
        return f"<ParkedCalls {len(self._calls)}>"

    def make_room(self) -> bool:
        """Whether one more can be parked.

        That may be at the price of the one that has been left alone longest by a client with more than its share.
        """
        if len(self._calls) < PARKED_MAX:
            return True
        greedy = over_share(Counter(call.client for call, _ in self._calls.values()), PARKED_MAX)
        since_s = {state: call.away_since_s or 0.0 for state, (call, _) in self._calls.items() if call.client in greedy}
        state = min(since_s, key=since_s.__getitem__)
        if since_s[state] + CONTESTED_PATIENCE_S > asyncio.get_running_loop().time():
            self._on_parked("refused", 0)
            return False
        self._removed(state, "given_up").give_up(contested=True)
        return True

    def park(self, call: OpenCall) -> Json:
        """Keep a call that asks; returns the result that its client gets."""
        state = secrets.token_urlsafe(_STATE_BYTES)
        loop = asyncio.get_running_loop()
        if call.away_since_s is None:
            call.away_since_s = loop.time()
        timer = loop.call_later(PATIENCE_S, self._expired, state)
        self._calls[state] = call, timer
        self._on_parked("parked", 1)
        return _asked(call, state)

    def look(self, state: Any) -> Json | None:
        """What the call that was parked under `state` asks by now; None when it is over. Raises `RpcError`."""
        call, _ = self._found(state)
        return None if call.is_over else _asked(call, state)

    def take(self, state: Any, event: str = "resumed") -> OpenCall:
        """The call that was parked under `state`, which is void from now on; `event` is counted. Raises `RpcError`."""
        self._found(state)
        return self._removed(state, event)

    def clear(self) -> None:
        """Forget them all."""
        for state in tuple(self._calls):
            self._removed(state, "lost")

    def _found(self, state: Any) -> tuple[OpenCall, asyncio.TimerHandle]:
        if not isinstance(state, str) or state not in self._calls:
            raise RpcError(
                _INVALID_PARAMS,
                "requestState names no call that waits for input: it was answered already, waited for too long, or its "
                "server was connected anew",
                {"reason": "invalid_request_state"},
            )
        return self._calls[state]

    def _expired(self, state: str) -> None:
        self._removed(state, "expired").give_up()

    def _removed(self, state: str, event: str) -> OpenCall:
        call, timer = self._calls.pop(state)
        timer.cancel()
        self._on_parked(event, -1)
        return call


def _asked(call: OpenCall, state: str) -> Json:
    return {
        "resultType": "input_required",
        "inputRequests": call.questions(),
        "requestState": state,
        "_meta": {PARKED_META_KEY: True},
    }


def only_looks(params: Json) -> bool:
    """Whether a retry asks no more than whether the questions still stand."""
    return (params.get("_meta") or {}).get(LOOK_META_KEY) is True


def answers_of(params: Json) -> Json:
    """The `inputResponses` of a retry, as a server of 2025-11-25 may read them. Raises `RpcError`."""
    given = params.get("inputResponses")
    if given is None:
        return {}
    if not isinstance(given, dict) or not all(isinstance(answer, dict) for answer in given.values()):
        raise RpcError(_INVALID_PARAMS, "inputResponses must be an object of results")
    return {key: {name: part for name, part in answer.items() if name != "resultType"} for key, answer in given.items()}


def refused_in(params: Json) -> dict[str, RpcError] | None:
    """The client's errors of a retry, by question, for the server to hear; none at all give the call up."""
    errors = (params.get("_meta") or {}).get(REFUSED_META_KEY)
    if not isinstance(errors, dict):
        return None
    return {key: rpc.error_of(error) for key, error in errors.items() if isinstance(error, dict)}


def for_retry(on_notification: OnNotification | None, params: Json) -> OnNotification | None:
    """Progress goes on under the progress token of the retry, and not at all where that has none."""
    token = (params.get("_meta") or {}).get("progressToken", rpc.NO_TOKEN)
    if on_notification is None:
        return None

    async def hand_on(method: str, note: Json) -> None:
        if method != rpc.PROGRESS_METHOD:
            await on_notification(method, note)
        elif token is not rpc.NO_TOKEN:
            await on_notification(method, rpc.restore_progress_token(note, token))

    return hand_on
