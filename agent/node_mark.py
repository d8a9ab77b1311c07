"""What a node that refuses a token says of itself, so that it is known by a node that has dialled itself.

Said in the challenge by `agent.rest.security`, read by `agent.links.dial`. The one rule: it is no secret, and does
not tell the node's ID.
"""

import hashlib


def node_mark(node_id: str) -> str:
    """That of the node with this ID: 16 hexadecimal digits."""
    return hashlib.sha256(f"mesh-agent/node {node_id}".encode()).hexdigest()[:16]
