"""The operator's maintenance of our own entry, kept beyond the entry and registered again along with it.

Consul keeps the maintenance of a service as one of its checks (`consul maint -service`), so it goes with the entry:
when we leave, when an agent is wiped, when the catalog forgets. Asked by the registration what to register along, in
one request: the entry is never there without it. The agent's word is kept whenever the catalog shows a change, and when
we leave; at each comparison, too, while the catalog shows no entry of ours, for the agent's list takes `service:read`
alone and the catalog `node:read` as well, and while it lacks the maintenance that the agent holds, as when it refuses
that. The one rule: while the agent holds our entry, its word counts, for the operator may have ended the maintenance
while we were down; what was kept counts where the entry is gone, also where the disk gives it only after the entry was
made anew. That of a Consul node is kept by Consul.
"""

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from discovery.consul.client import ConsulClient
from discovery.consul.rows import SERVICE_MAINTENANCE
from discovery.model import CatalogUnavailable, MaintenanceRecord

log = logging.getLogger(__name__)

# An agent wants a kind of check. One of a TTL that never passes stays critical, as that of `consul maint` does.
_TTL = "8760h"
_NAME = "Service Maintenance Mode"  # Consul's own name for it.
REASON_CHARS_MAX = 1000
_NO_REASON = "no reason given"


class KeptMaintenance:
    """See the module. Sole writer: the registrar. `resumed`: why, of one that was taken up again, until it ends."""

    def __init__(self, client: ConsulClient, service_id: str, our_check_id: str, record: MaintenanceRecord) -> None:
        self._client, self._record = client, record
        self._service_id, self._our_check_id = service_id, our_check_id
        self._check_id = f"{SERVICE_MAINTENANCE}{service_id}"
        self._reason: str | None = None
        self._is_saved = True  # The record says the same.
        self._loaded = False
        self._is_blind = False  # Our entry was made anew without what the record says: it is to be registered yet.
        self._shown = ""
        self._lacked: str | None = None  # The reason of ours that the catalog does not show, which is news once.
        self._is_seen = False  # The catalog has shown our entry since the last comparison.
        self._is_mute = False  # The agent shows no checks, as embedded catalogs do.
        self._is_news = False  # The catalog has said something else since the agent was asked, or says nothing of us.
        self.resumed = ""

    def __repr__(self) -> str:
        return f"<KeptMaintenance {self._service_id} reason={self._reason!r}>"

    def shown(self, reason: str) -> bool:
        """Take what the catalog says of our entry, the Consul node's maintenance included; whether that is news."""
        # A watch misses what begins and ends within a moment, as one that is taken up again and ended at once.
        lacked = None if reason else self._reason
        is_news = reason != self._shown or (lacked is not None and lacked != self._lacked)
        self._is_seen, self._lacked = True, lacked
        self._shown, self._is_news = reason, self._is_news or is_news
        return is_news

    @property
    def fault(self) -> str:
        """Why the maintenance of before is not known, or the present one would not outlive us; else empty."""
        return self._record.fault

    def compared(self) -> None:
        """Have the agent asked where the catalog has not shown all of our entry since, or the disk has refused."""
        is_kept = self._loaded and self._is_saved
        self._is_news |= not self._is_mute and not (self._is_seen and is_kept and self._lacked is None)
        self._is_seen = False

    async def ask(self) -> bool:
        """Keep what the agent says now; whether we have to register what was kept. Raises `CatalogUnavailable`."""
        checks = await self._held_checks()
        if checks is not None:
            await self.take(checks)
        return self._is_owed

    async def _held_checks(self) -> Mapping[str, Any] | None:
        """The agent's checks; what the catalog says from now on may not be among them. Raises `CatalogUnavailable`."""
        self._is_news = False
        try:
            checks = await self._client.held_checks()
        except CatalogUnavailable:
            self._is_news = True
            raise
        self._is_mute = checks is None
        return checks

    @property
    def is_to_be_asked(self) -> bool:
        """Whether the agent may say something else than what is kept, or lacks what is."""
        return self._is_news or self._is_owed

    @property
    def _is_owed(self) -> bool:
        return self._is_blind and self._loaded and self._reason is not None

    async def take(self, checks: Mapping[str, Any]) -> None:
        """Keep what the agent's checks say, where it holds our entry."""
        await self._load()
        if self._our_check_id not in checks:
            return
        reason = _reason_in(checks.get(self._check_id))
        if reason is None and self._is_blind and not (self._loaded and self._reason is None):
            return  # An entry that we made without a word of the operator's says nothing of one.
        if reason != self.resumed:
            self.resumed = ""
        is_same = self._loaded and reason == self._reason
        self._reason, self._loaded, self._is_blind = reason, True, False
        if not (is_same and self._is_saved):
            self._is_saved = False  # A node that stops cuts this short, and takes the same again as it leaves.
            self._is_saved = await self._record.save(reason)

    async def check_to_register(self, *, renewed: bool) -> dict[str, Any] | None:
        """The check that a registration has to take along, None where it has not.

        `renewed`: the catalog may lack what the agent holds, or the agent holds it with another token. Raises
        `CatalogUnavailable`.
        """
        await self._load()
        if self._loaded and self._reason is None and not self.is_to_be_asked:
            return None
        checks = await self._held_checks()
        if checks is None:
            return None
        await self.take(checks)
        is_new = self._our_check_id not in checks
        if is_new:
            self._is_blind = not self._loaded
        reason = self._reason
        if reason is None:
            return None
        if is_new or self._is_blind:
            self._note_resumed(reason)
            return self._check(reason)
        if not renewed:
            return None
        # Other Notes, or the agent would not pass it on; a blank at the end is no other reason.
        was = str(checks.get(self._check_id, {}).get("Notes") or "")
        return self._check(reason if was != reason else f"{reason} ")

    def registered(self) -> None:
        """The agent has taken the registration with it: from now on, its word counts."""
        if self._is_owed:
            self._is_blind = False

    def _check(self, notes: str) -> dict[str, Any]:
        return {"CheckID": self._check_id, "Name": _NAME, "Notes": notes, "Status": "critical", "TTL": _TTL}

    def _note_resumed(self, reason: str) -> None:
        if self.resumed != reason:
            self.resumed = reason
            ended = f"consul maint -disable -service={self._service_id}"
            log.warning("the maintenance of before is taken up again", extra={"reason": reason, "ended_by": ended})

    async def _load(self) -> None:
        if not self._loaded:
            with suppress(OSError):  # It is read again at the next look, and says so meanwhile.
                self._reason = await self._record.load()
                self._loaded = True


def _reason_in(check: Any) -> str | None:
    """The reason that a maintenance check gives; None where there is no such check."""
    if not isinstance(check, Mapping):
        return None
    notes = check.get("Notes")
    return (" ".join(notes.split()) if isinstance(notes, str) else "")[:REASON_CHARS_MAX] or _NO_REASON
