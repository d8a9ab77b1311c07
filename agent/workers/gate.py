"""Which requests a worker may serve: tool calls that surely pass every check, of names that it knows.

Asked at both ends for each request: by the node before it gives a connection away, and by the worker before it serves a
request. What is judged of a head is remembered with it. The one rule: a worker refuses nothing; whatever is not plainly
a call that it may make goes to the node, which says why not.
"""

import time
from typing import TYPE_CHECKING, Final

import orjson

from agent.authority.grant import Grant
from agent.authority.routes import wanted_scopes
from agent.identity.association import PROOF_HEADER
from agent.mcp_terms import HANDSHAKE_PROTOCOL_VERSIONS
from agent.rest.hosts import host_allowed
from agent.rest.security import EdgePolicy, Verdict, judge
from agent.server.fast_path.heads import HEADS_MAX, Head
from agent.workers.picture import tools_for_sessions

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from agent.model import LinkView
    from agent.routing.table import Route

PATH: Final = "/mcp"
CALL: Final = "tools/call"
# Each of these means more than a call by a token; proofs of nodes are taken in one place, by their numbers.
_NOT_PLAIN: Final = tuple(
    name.lower() for name in ("Origin", "Cookie", "Content-Encoding", "Last-Event-ID", "Mesh-Tools", PROOF_HEADER)
)


class Gate:
    """See the module. `tools`: the names that workers may call; `sessions`: those that they may serve.

    `session_tools`: what they may call in these. Their owner calls `forget` when tokens change.
    """

    def __init__(self, policy: EdgePolicy) -> None:
        self._policy = policy
        self.tools: Container[str] = frozenset()
        self.session_tools: Container[str] = frozenset()
        self.sessions: Container[str] = frozenset()
        # By the identity of a head, which is kept with its verdict: None, or the grant and whether it is of a session.
        self._judged: dict[int, tuple[Head, tuple[Grant, str] | None]] = {}

    def __repr__(self) -> str:
        return f"<Gate {len(self._judged)} heads>"

    def know(self, tools: "Mapping[str, Route]", links: "Mapping[str, LinkView]") -> None:
        """Take the tools that workers may call, and the links of now."""
        self.tools, self.session_tools = tools, tools_for_sessions(tools, links)
        self.forget()

    def forget(self) -> None:
        """Judge every head anew."""
        self._judged.clear()

    def takes(self, head: Head, data: bytes) -> str:
        """The tool of the call that `data` begins with, if a worker may make it; empty for every other request."""
        known = self._judged.get(id(head))
        if known is None:
            if len(self._judged) >= HEADS_MAX:
                self._judged.clear()
            known = self._judged[id(head)] = head, self._judge(head)
        verdict = known[1]
        if verdict is None:
            return ""
        grant, session_id = verdict
        if grant.until_s is not None and grant.has_ended(time.time()):
            return ""
        if not session_id:
            return head.by_name["mcp-name"]
        return self._called(data) if session_id in self.sessions else ""

    def _judge(self, head: Head) -> tuple[Grant, str] | None:
        headers, by_name, message = head.message.headers, head.by_name, head.message
        if message.path != PATH or len(by_name) != len(headers) or any(name in by_name for name in _NOT_PLAIN):
            return None
        if not host_allowed([by_name.get("host", "")], self._policy.host_names):
            return None
        shown = [by_name["authorization"]] if "authorization" in by_name else []
        verdict, caller = judge(PATH, shown, self._policy.tokens, metrics_public=False)
        grant = caller.grant
        if verdict is not Verdict.ALLOWED or caller.allowance is not None or caller.recorder.records_calls:
            return None
        if grant.reach.key or (grant.named and not grant.has_any(wanted_scopes("POST", PATH))):
            return None
        version, session_id = by_name.get("mcp-protocol-version"), by_name.get("mcp-session-id", "")
        if version is None or version in HANDSHAKE_PROTOCOL_VERSIONS:
            return (grant, session_id) if session_id else None
        is_call = by_name.get("mcp-method") == CALL and by_name.get("mcp-name", "") in self.tools
        return (grant, "") if is_call else None

    def _called(self, data: bytes) -> str:
        """The tool that a message of a session calls, by its body: earlier versions name it nowhere else."""
        try:
            message = orjson.loads(memoryview(data)[data.find(b"\r\n\r\n") + 4 :])
        except orjson.JSONDecodeError:  # Also where another request follows.
            return ""
        if not isinstance(message, dict) or message.get("method") != CALL or "id" not in message:
            return ""
        params = message.get("params")
        name = params.get("name") if isinstance(params, dict) and "task" not in params else None
        return name if isinstance(name, str) and name in self.session_tools else ""
