"""How a client of a backend is opened: the times that it may take, and what may be spoken.

Made by `agent.client.connect` and read by the transports beside it. The one rule: one object passes through all of them
unchanged, so that what a link asks for is what the last of them sees.
"""

from dataclasses import dataclass, field

from agent.client.knocks import OWN, Knocks
from agent.client.outbound import DIRECT, Outbound
from agent.client.quick_servers import QuickServers
from agent.client.sessions.pending_call import OnPending, unheard
from agent.model import NODE_CLIENT_NAME, Sessions


@dataclass(frozen=True, slots=True)
class Opening:
    """See `agent.client.connect.open_client` for each of them.

    `quick`: what is known of servers by URL. `knocks`: of those that share a limit with it.
    """

    connect_timeout_s: float = 5.0
    start_timeout_s: float = 60.0
    client_name: str = NODE_CLIENT_NAME
    label: str | None = None
    sessions: Sessions = Sessions.AUTO
    protocol: str | None = None
    on_pending: OnPending = unheard
    outbound: Outbound = DIRECT
    quick: QuickServers = field(default_factory=QuickServers)
    knocks: Knocks = OWN

    @property
    def session_pool(self) -> bool:
        """Whether every call has a dedicated session, where there are sessions."""
        return self.sessions is Sessions.OWN

    @property
    def by_session(self) -> bool:
        """Whether callers with sessions have dedicated ones where the server's lists may change."""
        return self.sessions is not Sessions.SHARED
