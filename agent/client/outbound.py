"""What this node's own surroundings say about dialling by URL: the same for all that it dials.

Made by `agent.app.node` from the settings and the environment, handed through `agent.links.dial` to the HTTP clients.
The one rule: an entry's own files beat these, and nothing here changes while the node runs.
"""

from dataclasses import dataclass

from agent.model import TlsFiles

_NO_FILES = TlsFiles()


@dataclass(frozen=True, slots=True)
class Outbound:
    """`tls`: authorities to trust besides the system's, and the certificate to show where none is configured."""

    tls: TlsFiles = _NO_FILES


DIRECT = Outbound()
