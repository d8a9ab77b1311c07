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
    def cable(self) -> str:
        """Our end's device."""
        return f"mesh{self.number}"

    def command(self, *words: str) -> list[str]:
        """What runs these words on the other machine, as the process that is started."""
        return ["ip", "netns", "exec", self.name, *words]

    def lose_what_is_sent_there(self) -> None:
        """From now on no packet arrives there; what it sends arrives here."""
        ip("neigh", "replace", self.far, "lladdr", _NOWHERE, "dev", self.cable, "nud", "permanent")

    def lose_what_is_sent_here(self) -> None:
        """From now on no packet of its own arrives here."""
        ip("-n", self.name, "neigh", "replace", self.near, "lladdr", _NOWHERE, "dev", "eth0", "nud", "permanent")

    def lose_all(self) -> None:
        """From now on no packet arrives on either side."""
        self.lose_what_is_sent_there()
        self.lose_what_is_sent_here()

    def lose_the_way(self) -> None:
        """From now on the kernel refuses to send anything there, at once: it knows no way."""
        ip("route", "replace", "unreachable", f"{self.far}/32")

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
        ip("link", "set", self.cable, "down")

    def heal(self) -> None:
        """All as before."""
        ip("link", "set", self.cable, "up")
        ip("route", "del", "unreachable", f"{self.far}/32", may_fail=True)
        ip("neigh", "del", self.far, "dev", self.cable, may_fail=True)
        ip("-n", self.name, "neigh", "del", self.near, "dev", "eth0", may_fail=True)


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
    with network() as name:
        machine = _cabled(name)
        cable = machine.cable
        try:
            ip("addr", "add", f"{machine.near}/30", "dev", cable)
            ip("link", "set", cable, "up")
            ip("-n", name, "addr", "add", f"{machine.far}/30", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", name, "link", "set", device, "up")
            yield machine
        finally:
            # The cable goes with the network, once its last process has ended.
            ip("link", "del", cable, may_fail=True)


@contextmanager
def network() -> Iterator[str]:
    """A network of this process's own, without a cable; its name."""
    _remove_what_killed_tests_left()
    name = f"{PREFIX}{os.getpid()}"
    ip("netns", "add", name)
    try:
        yield name
    finally:
        ip("netns", "del", name, may_fail=True)


def numbers() -> Iterator[int]:
    """Of networks, in the order in which to try them; another run may take one at the same moment."""
    first = os.getpid() % NUMBERS
    return ((first + more) % NUMBERS + 1 for more in range(NUMBERS))


def _cabled(name: str) -> Machine:
    """The machine with a number that was free: the kernel says so, and keeps it from then on."""
    for machine in (Machine(name, number) for number in numbers()):
        words = ("link", "add", machine.cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        done = _done(*words)
        if done.returncode == 0:
            return machine
        assert "File exists" in done.stderr, (words, done.stderr)
    raise AssertionError("no number is free")


def _remove_what_killed_tests_left() -> None:
    for name in ip("netns", "list").split():
        process_id = name.removeprefix(PREFIX)
        if name.startswith(PREFIX) and process_id.isdigit() and not _is_in_use(int(process_id)):
            ip("netns", "del", name, may_fail=True)


def _is_in_use(process_id: int) -> bool:
    # This process has none yet: one that is called like it is of another process, which had its id before.
    return process_id != os.getpid() and Path(f"/proc/{process_id}").exists()


def ip(*words: str, may_fail: bool = False) -> str:
    """What `ip` of iproute2 says; it has to succeed, unless it may fail."""
    done = _done(*words)
    assert may_fail or done.returncode == 0, (words, done.stderr)
    return done.stdout


def _done(*words: str) -> subprocess.CompletedProcess[str]:
    # Removing a network waits for all of the kernel's readers, which takes seconds on a busy machine.
    return subprocess.run(["ip", *words], capture_output=True, text=True, timeout=30, check=False)
