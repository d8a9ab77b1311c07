"""A second machine on this one: a network namespace with one cable to the rest, whose packets can be lost for good.

Unlike behind a proxy, nothing acknowledges what is lost: TCP is as it is when a switch dies. Made and removed by the
test that uses it, with `ip` of iproute2; needs root. The one rule: nothing of it stays, and names tell whose it is.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PREFIX = "mesh-test-"
# Of networks, so that several runs do not meet.
NUMBERS = 250
# A frame to this address arrives nowhere, and neither side notices.
_NOWHERE = "02:00:00:00:de:ad"


@dataclass(frozen=True)
class Machine:
    """The namespace, and both ends of its cable: `near` is ours, `far` is its own."""

    name: str
    number: int

    @property
    def near(self) -> str:
        return f"10.213.{self.number}.1"

    @property
    def far(self) -> str:
        return f"10.213.{self.number}.2"

    @property
    def _cable(self) -> str:
        return f"mesh{self.number}"

    def command(self, *words: str) -> list[str]:
        """What runs these words on the other machine, as the process that is started."""
        return ["ip", "netns", "exec", self.name, *words]

    def lose_what_is_sent_there(self) -> None:
        """From now on no packet arrives there; what it sends arrives here."""
        _ip("neigh", "replace", self.far, "lladdr", _NOWHERE, "dev", self._cable, "nud", "permanent")

    def lose_what_is_sent_here(self) -> None:
        """From now on no packet of its own arrives here."""
        _ip("-n", self.name, "neigh", "replace", self.near, "lladdr", _NOWHERE, "dev", "eth0", "nud", "permanent")

    def lose_all(self) -> None:
        """From now on no packet arrives on either side."""
        self.lose_what_is_sent_there()
        self.lose_what_is_sent_here()

    def lose_the_way(self) -> None:
        """From now on the kernel refuses to send anything there, at once: it knows no way."""
        _ip("route", "replace", "unreachable", f"{self.far}/32")

    def reset_connections(self) -> None:
        """End those of its processes, as a firewall that has forgotten them: both sides get a reset."""
        self._established("-K")
        assert not self.connections(), "a kernel without CONFIG_INET_DIAG_DESTROY"

    def connections(self) -> int:
        """How many of its processes' are open on both sides, as far as it knows."""
        return len(self._established().splitlines())

    def _established(self, *more: str) -> str:
        words = self.command("ss", "-H", "-t", *more, "state", "established")
        return subprocess.run(words, capture_output=True, text=True, timeout=10, check=True).stdout

    def pull_the_cable(self) -> None:
        """Neither side hears anything; on this side the interface says so."""
        _ip("link", "set", self._cable, "down")

    def heal(self) -> None:
        """All as before."""
        _ip("link", "set", self._cable, "up")
        _ip("route", "del", "unreachable", f"{self.far}/32", may_fail=True)
        _ip("neigh", "del", self.far, "dev", self._cable, may_fail=True)
        _ip("-n", self.name, "neigh", "del", self.near, "dev", "eth0", may_fail=True)


def why_not() -> str:
    """Why no such machine can be made here; empty where it can."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "it takes root and iproute2"
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, timeout=10, check=False).returncode != 0:
        return "this kernel or container does not let root make them"
    return ""


@contextmanager
def other_machine() -> Iterator[Machine]:
    """One more machine, with a cable to this one."""
    _remove_what_killed_tests_left()
    first = os.getpid() % NUMBERS
    numbers = ((first + more) % NUMBERS + 1 for more in range(NUMBERS))
    number = next(number for number in numbers if not Path(f"/sys/class/net/mesh{number}").exists())
    machine, cable = Machine(f"{PREFIX}{os.getpid()}", number), f"mesh{number}"
    try:
        _ip("netns", "add", machine.name)
        _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", machine.name)
        _ip("addr", "add", f"{machine.near}/30", "dev", cable)
        _ip("link", "set", cable, "up")
        _ip("-n", machine.name, "addr", "add", f"{machine.far}/30", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", machine.name, "link", "set", device, "up")
        yield machine
    finally:
        # The cable goes with it, once its last process has ended.
        _ip("link", "del", cable, may_fail=True)
        _ip("netns", "del", machine.name, may_fail=True)


def _remove_what_killed_tests_left() -> None:
    for name in _ip("netns", "list").split():
        process_id = name.removeprefix(PREFIX)
        if name.startswith(PREFIX) and process_id.isdigit() and not Path(f"/proc/{process_id}").exists():
            _ip("netns", "del", name, may_fail=True)


def _ip(*words: str, may_fail: bool = False) -> str:
    # Removing a network waits for all of the kernel's readers, which takes seconds on a busy machine.
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=30, check=False)
    assert may_fail or done.returncode == 0, (words, done.stderr)
    return done.stdout
