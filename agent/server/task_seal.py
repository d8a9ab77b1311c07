"""Binds the public IDs of tasks to the token whose holder began them (`agent.tasks.ids` has the IDs themselves).

Used where results leave an endpoint and where requests name a task. The seal follows from the secret of the mesh, so
it holds on every node, and after a restart. IDs of clients with `MESH_TOKEN`, of nodes, and of a node without tokens
have none. The one rule: to a client with a token of its own, a task without its seal does not exist.
"""

import base64
import hashlib
import hmac
from collections.abc import Callable, Sequence
from typing import Final

from agent.authority.caller import caller
from agent.dispatch.call import Forwarded
from agent.errors import MCPError
from agent.lossless_json.raw import exact
from agent.rpc_codes import INVALID_PARAMS
from agent.tasks.ids import is_task

_MARK: Final = "~"
_PURPOSE: Final = b"mesh-agent/task-id/1"
_MAC_BYTES: Final = 12


class TaskSeal:
    """See the module. `keys`: as of `SessionSeal`, those that are valid now."""

    def __init__(self, keys: Callable[[], Sequence[bytes]]) -> None:
        self._keys = keys

    def __repr__(self) -> str:
        return "<TaskSeal>"

    def shown(self, task_id: str) -> str:
        """The ID as the present caller gets it."""
        return self.shown_in(caller().grant.realm, task_id)

    def shown_in(self, realm: str, task_id: str) -> str:
        """The ID as callers of that realm get it (`agent.authority.grant`)."""
        return task_id if not realm else f"{task_id}{_MARK}{_mac(self._keys()[0], realm, task_id)}"

    def opened(self, shown: str) -> str:
        """The ID without the present caller's seal. Raises `MCPError` where it has none or another's."""
        realm = caller().grant.realm
        if not realm:
            return shown
        task_id, _, mac = shown.rpartition(_MARK)
        given = mac.encode("utf-8", "surrogatepass")
        if not any(hmac.compare_digest(given, _mac(key, realm, task_id).encode()) for key in self._keys()):
            raise MCPError(code=INVALID_PARAMS, message="taskId: this ID was not handed out by a node of the mesh")
        return task_id

    def with_shown(self, forwarded: Forwarded) -> Forwarded:
        """A result with the ID of its task as the present caller gets it; the same where it is no task."""
        if not caller().grant.named or not is_task(forwarded.result):
            return forwarded
        result = exact(forwarded.result)
        return Forwarded({**result, "taskId": self.shown(result["taskId"])}, forwarded.replica)


def _mac(key: bytes, realm: str, task_id: str) -> str:
    own_key = hmac.digest(key, _PURPOSE + realm.encode(), hashlib.sha256)
    mac = hmac.digest(own_key, task_id.encode("utf-8", "surrogatepass"), hashlib.sha256)[:_MAC_BYTES]
    return base64.urlsafe_b64encode(mac).decode()
