"""What an operator says that a peer is: a plain server, or a node that has to prove itself.

A leaf: every layer may import it. The one rule: a word of an operator only ever narrows what is believed; no word is
believed in the place of a proof.
"""

from enum import StrEnum


class PeerKind(StrEnum):
    """Without one, what answers is a plain server, unless it says that it is a node, which it then has to prove."""

    SERVER = "server"  # nothing that it says of itself makes it a node, and it is asked for no proof
    NODE = "node"  # it proves that it belongs to this mesh, or is not linked
