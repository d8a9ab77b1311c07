"""From settings to a running node, and from its end to an exit code.

Called by `mesh-agent run`. The one rule: what can be refused is refused before anything of the node is seen by others.
"""

from contextlib import ExitStack

from agent.app.connect import ConnectFiles
from agent.app.node import Node
from agent.app.plan import servers_of
from agent.app.sockets import bound_socket
from agent.client.dial_guard import limit_dials
from agent.config.load import Settings
from agent.errors import ConfigRefused
from agent.model import NodeIdentity
from agent.state.identity import default_node_name, open_state


async def run_node(settings: Settings) -> int:
    """Run a node until SIGTERM or SIGINT; returns the exit code. Raises `ConfigRefused`."""
    limit_dials(settings.dial_allow, settings.dial_deny)
    with ExitStack() as stack:
        listening = stack.enter_context(bound_socket(settings.host, settings.port, explicit=settings.port_explicit))
        port = listening.getsockname()[1]
        state = stack.enter_context(open_state(settings.state_dir, port, is_own=settings.state_dir_is_own))
        # Before a name is claimed: a start that is refused leaves nothing behind.
        servers = servers_of(settings)
        connect = await ConnectFiles.of(settings, state.folder)
        name = settings.node_name or default_node_name(settings.state_dir, port, state.node_id)
        node = Node(settings, NodeIdentity(state.node_id, name), state, listening, servers, connect=connect)
        try:
            return await node.run()
        except ExceptionGroup as group:
            # A task group wraps the exception that ends it; a refused setting is reported as just that.
            refused, others = group.split(ConfigRefused)
            if refused is None or others is not None:
                raise
            raise _first(refused) from group


def _first(group: ExceptionGroup[ConfigRefused]) -> ConfigRefused:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
