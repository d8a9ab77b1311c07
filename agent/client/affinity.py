"""Keeps a caller's session, or a call's explicit key, on one replica, by rendezvous hashing.

Called by the replica statistics for routes whose server is configured `sticky`. The one rule: every node maps a key to
the same replica, and when a replica leaves, only its own keys move (highest random weight).
"""

import hashlib
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Final

from agent.model import AFFINITY_META_KEY, Json
from agent.routing.table import Replica

# Of an explicit key; it is stored with each dedicated session of its caller.
KEY_LEN_MAX: Final = 256
_DIGEST_BYTES: Final = 16
# Callers that call at the same time are a few; each entry is a quarter of a kilobyte.
_DIGESTS_REMEMBERED_MAX: Final = 512
_OF_SESSION: Final = "session:"


def affinity_key(params: Json, session_id: str | None) -> str | None:
    """The key that keeps calls together: the one in `_meta`, else the caller's session, else None.

    A session ID is a secret of its caller, so only its digest is passed on; that of a long key saves memory.
    """
    meta = params.get("_meta")
    explicit = meta.get(AFFINITY_META_KEY) if isinstance(meta, dict) else None
    if isinstance(explicit, str) and explicit:
        return explicit if len(explicit) <= KEY_LEN_MAX else "key:" + _digest(explicit)
    return None if session_id is None else session_affinity(session_id)


@lru_cache(maxsize=_DIGESTS_REMEMBERED_MAX)
def session_affinity(session_id: str) -> str:
    """The key of a caller's session."""
    return _OF_SESSION + _digest(session_id)


def is_of_session(affinity: str | None) -> bool:
    """Whether a key stands for a caller's session, whose end its node reports."""
    return affinity is not None and affinity.startswith(_OF_SESSION)


def rendezvous_choice(replicas: Sequence[Replica], key: str, exclude: Collection[str] = frozenset()) -> Replica | None:
    """The replica that `key` belongs to among those whose backend is not excluded; None when none is left.

    Distance does not count, except between two paths to the same node.
    """
    usable = [replica for replica in replicas if replica.backend_key not in exclude]
    return max(usable, key=lambda replica: (_weight(replica, key), -replica.hops, replica.backend_key), default=None)


def _digest(key: str) -> str:
    # Keys may hold any text, even lone surrogates.
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()


def _weight(replica: Replica, key: str) -> bytes:
    # A node ID means the same replica on every node; the name of a link to it does not.
    member = replica.node_id or replica.backend_key
    # Digested first, so that no two pairs of key and member join to the same bytes; keys may hold lone surrogates.
    inner = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()
    return hashlib.blake2b(inner + member.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()
