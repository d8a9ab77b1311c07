"""Another process that registers under our service ID with the same agent, as with a copied state folder. PURE.

Kept by the registration, which compares the agent's own list with what it sent. The one rule: a rival is named as long
as it registers, and forgotten soon after it has stopped.
"""

from collections.abc import Mapping
from typing import Any

EPOCH_META_KEY = "epoch"  # Two processes that share a service ID differ in it.
_COMPARISONS = 2.5  # So many comparisons without the other process let it be forgotten.


class Rival:
    """See the module. `place`: where the other process is, empty where there is none."""

    def __init__(self, compare_s: float) -> None:
        self._keep_s = _COMPARISONS * compare_s
        self._until_s = 0.0
        self.place = ""

    def __repr__(self) -> str:
        return f"<Rival {self.place!r}>"

    def compared(self, held: Any, meta: Mapping[str, str], now_s: float) -> bool:
        """Take what the agent holds in place of what we sent, None where that agrees; whether it is a rival's.

        `meta`: that of our own registration.
        """
        is_theirs = held is not None and _epoch(held) != meta.get(EPOCH_META_KEY)
        if is_theirs:
            # It registers again as we do; both take turns.
            self.place, self._until_s = _place(held), now_s + self._keep_s
        elif now_s >= self._until_s:
            self.place = ""
        return is_theirs


def _place(held: Any) -> str:
    """Where the process is that registered, for a finding; untrusted text."""
    if not isinstance(held, Mapping):
        return "unreadable"
    meta = held.get("Meta") or {}
    address = str(held.get("Address") or "this Consul agent's machine")
    return (
        f"port {held.get('Port')} at {address}, node ID {meta.get('node_id', 'none')}, start {meta.get('epoch', '?')}"
    )


def _epoch(held: Any) -> str | None:
    meta = held.get("Meta") if isinstance(held, Mapping) else None
    return meta.get(EPOCH_META_KEY) if isinstance(meta, Mapping) else None
