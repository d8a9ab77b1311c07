"""The time of day of one process, which a test lets jump: libfaketime between the process and its kernel.

The process reads the offset from a file at each look at its clock. Its monotonic clock and the times of files stay
true, as where an operator or a time server sets a machine's clock. The one rule: nothing but the time of day jumps.
"""

from dataclasses import dataclass
from pathlib import Path

from tests.debian_binary import FAKETIME, debian_binary


@dataclass
class JumpingClock:
    """The clock of whatever is started with `environment`."""

    library: Path
    offset: Path

    @property
    def environment(self) -> dict[str, str]:
        """For the process; no copy of another one will do, for the library is loaded when a program starts."""
        return {
            "LD_PRELOAD": str(self.library),
            "FAKETIME_TIMESTAMP_FILE": str(self.offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def set(self, seconds: int) -> None:
        """Let it be so many seconds ahead of this machine's, or behind."""
        draft = self.offset.with_suffix(".draft")
        draft.write_text(f"{seconds:+d}\n", "utf-8")
        draft.replace(self.offset)


def jumping_clock(folder: Path) -> JumpingClock | None:
    """A clock that has not jumped yet; None where there is no libfaketime (`tests.debian_binary.why_not` says why)."""
    library = debian_binary(FAKETIME, fetch=False)
    if library is None:
        return None
    clock = JumpingClock(library, folder / "offset")
    clock.set(0)
    return clock
