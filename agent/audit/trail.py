"""The audit of a running node: takes records from all its parts, and has them written in batches.

Built by the wiring; REST, reloads and the tokens' keeper record operators' acts with `act`, which returns when they are
on the disk; refusals and calls are only handed over. The one rule: nothing waits for the disk in the loop, and a disk
that refuses stops no operator: what is lost is counted, logged, and noted in the next record.
"""

import asyncio
import logging
import re
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent import clock
from agent.audit.chain import read_line, record_line
from agent.audit.files import AuditFile, newest_lines
from agent.authority.caller import Unrecorded
from agent.harmless_text import one_line

log = logging.getLogger(__name__)

# Calls are written together; an act that comes meanwhile takes them along at once.
CALLS_EVERY_S: Final = 0.5
# Of records that wait for the disk; some seconds of calls at full speed.
WAITING_MAX: Final = 20_000
TEXT_CHARS_MAX: Final = 300
# So many refusals are records of their own, of one caller and of all: else a caller could make older records give way.
REFUSALS_WITHIN_S: Final = 60.0
REFUSALS_EACH_MAX: Final = 20
REFUSALS_MAX: Final = 200
OTHERS: Final = "others"
_QUERY: Final = re.compile(r"(://[^\s?]*)\?[^\s,;]*")
# The acts that are not an operator's.
CALL: Final = "call"
LOST: Final = "audit.lost"


@dataclass(slots=True)
class _Record:
    time: str
    act: str
    who: str
    fields: dict[str, Any]
    written: asyncio.Future[None] | None = None


class NoAudit(Unrecorded):
    """In the place of a trail where nothing is kept."""

    async def act(self, act: str, who: str, **fields: Any) -> None:
        """As `Trail.act`."""

    def note(self, act: str, who: str, **fields: Any) -> None:
        """As `Trail.note`."""


NO_AUDIT: Final = NoAudit()


class Trail:
    """See the module. Written by the event loop; `records_calls`: whether calls are recorded, too."""

    def __init__(
        self,
        path: Path,
        *,
        records_calls: bool = False,
        lost: Callable[[int], None] = lambda _: None,
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        """Opens the file. `lost` counts records that are not kept, `refused` refusals. Raises `ConfigRefused`."""
        self._refused_one = refused
        self.records_calls = records_calls
        self._file = AuditFile(path)
        self._lost = lost
        self._lost_since = 0
        self._waiting: list[_Record] = []
        self._wake = asyncio.Event()
        self._urgent = asyncio.Event()
        self._refused = self._ended = False
        self._turn = threading.Lock()
        self._under_way: list[_Record] = []
        self._refusals: Counter[str] = Counter()
        self._refusals_kept = 0
        self._refusals_due: asyncio.TimerHandle | None = None
        head = self._file.head
        log.info("audit goes on", extra={"file": str(path), "records": head.seq, "head": head.hash})
        if self._file.torn_bytes:
            self.note("audit.torn", "node", bytes=self._file.torn_bytes)

    def __repr__(self) -> str:
        return f"<Trail {self._file!r} waiting={len(self._waiting)}>"

    async def newest(self, count: int) -> list[dict[str, Any]]:
        """The newest records of the present file, oldest first; a line that cannot be read is left out."""
        lines = await asyncio.to_thread(newest_lines, self._file.path, count)
        return [record for line in lines if (record := _read(line)) is not None]

    # Records

    async def act(self, act: str, who: str, **fields: Any) -> None:
        """Record what an operator did; returns when it is on the disk, or was lost to a disk that refuses."""
        if self._ended:
            self._count_lost(1)
            return
        record = self._taken(act, who, fields)
        record.written = asyncio.get_running_loop().create_future()
        self._urgent.set()
        await record.written

    def note(self, act: str, who: str, **fields: Any) -> None:
        """Record something that nothing waits for, on the disk as soon as may be."""
        if self._has_room():
            self._taken(act, who, fields)
            self._urgent.set()

    def refusal(self, who: str, what: str, why: str) -> None:
        """As `Recorder.refusal`. Of very many in a minute, the first ones are recorded and the rest counted."""
        self._refused_one()
        who = who if who in self._refusals or len(self._refusals) < REFUSALS_MAX else OTHERS
        self._refusals[who] += 1
        if self._refusals[who] <= REFUSALS_EACH_MAX and self._refusals_kept < REFUSALS_MAX:
            self._refusals_kept += 1
            self.note("refused", who, what=what, why=why)
        if self._refusals_due is None:
            self._refusals_due = asyncio.get_running_loop().call_later(REFUSALS_WITHIN_S, self._count_refusals)

    def _count_refusals(self) -> None:
        """A minute is over: record how many refusals were not."""
        refusals, kept = self._refusals, self._refusals_kept
        self._refusals, self._refusals_kept, self._refusals_due = Counter(), 0, None
        if (left_out := refusals.total() - kept) > 0:
            most, number = refusals.most_common(1)[0]
            self.note("refused.more", "node", records=left_out, most=most, of_most=number)

    def call(self, who: str, method: str, name: str, outcome: str) -> None:
        """As `Recorder.call`."""
        if self._has_room():
            self._taken(CALL, who, {"method": method, "name": name, "outcome": outcome})

    def _has_room(self) -> bool:
        if len(self._waiting) < WAITING_MAX:
            return True
        self._count_lost(1)
        return False

    def _taken(self, act: str, who: str, fields: dict[str, Any]) -> _Record:
        now = clock.utc_now()
        shown = {name: _harmless(value) if isinstance(value, str) else value for name, value in fields.items()}
        record = _Record(now, act, one_line(who, TEXT_CHARS_MAX), shown)
        self._waiting.append(record)
        self._wake.set()
        return record

    # The disk

    async def run(self) -> None:
        """Write until cancelled; what waits then is written at last."""
        batch: list[_Record] = []
        try:
            while True:
                await self._wake.wait()
                with suppress(TimeoutError):
                    async with asyncio.timeout(CALLS_EVERY_S):
                        await self._urgent.wait()
                self._wake.clear()
                self._urgent.clear()
                batch = self._take()
                try:
                    failure = await asyncio.to_thread(self._write)
                except Exception as exc:  # The top of an eternal loop: one bad record must not end the node.
                    log.exception("audit cannot be written")
                    failure = OSError(str(exc))
                self._done(batch, failure)
        finally:
            if self._refusals_due is not None:
                self._refusals_due.cancel()
                self._count_refusals()
            # Some milliseconds, when nothing is served any more. A thread may still write the last batch, or may not
            # have begun: then it is written here, and the thread finds nothing.
            self._done(batch, self._write())
            batch = self._take()
            self._done(batch, self._write())
            self._ended = True
            self._file.close()
            log.info("audit ends", extra={"records": self._file.head.seq, "head": self._file.head.hash})

    def _take(self) -> list[_Record]:
        batch = self._under_way = self._waiting
        self._waiting = []
        return batch

    def _write(self) -> OSError | None:
        """Write what is under way, once; in a thread, mostly. One at a time touches the file."""
        with self._turn:
            batch, self._under_way = self._under_way, []
            if not batch:
                return None
            try:
                if self._file.is_due:
                    with suppress(OSError):  # No descriptor or no room for another one: this one is to grow, then.
                        self._file.begin_anew()
                head, lines, lost = self._file.head, bytearray(), self._lost_since
                for record in [_Record(batch[0].time, LOST, "node", {"records": lost})] * bool(lost) + batch:
                    line, head = record_line(head, record.time, record.act, record.who, record.fields)
                    lines += line
                self._file.append(bytes(lines), head, sync=any(record.act != CALL for record in batch))
            except OSError as exc:
                return exc
            self._lost_since -= lost
        return None

    def _done(self, batch: list[_Record], failure: OSError | None) -> None:
        if failure is None:
            self._refused = False
        elif batch:
            self._count_lost(len(batch))
            reason = failure.strerror or str(failure)
            log.log(
                logging.DEBUG if self._refused else logging.ERROR, "audit cannot be written", extra={"reason": reason}
            )
            self._refused = True
        for record in batch:
            if record.written is not None and not record.written.done():
                record.written.set_result(None)

    def _count_lost(self, number: int) -> None:
        self._lost_since += number
        self._lost(number)


def _read(line: bytes) -> dict[str, Any] | None:
    try:
        return read_line(line)[0]
    except ValueError:
        return None


def _harmless(text: str) -> str:
    """One line, without the keys that some services have in their URLs."""
    return one_line(_QUERY.sub(r"\1?********", text) if "://" in text else text, TEXT_CHARS_MAX)
