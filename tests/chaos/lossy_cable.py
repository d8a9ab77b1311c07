"""A second machine on this one whose packets take their time, and may be lost: two TUN devices, and a loop.

As `tests/chaos/namespace.py`, for kernels without netem; needs root. The one rule: nothing of it stays, and its name
tells whose it is.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.namespace import ip, network, numbers, why_not

DEVICE = Path("/dev/net/tun")
PACKET_BYTES = 65_536
# <linux/if_tun.h>
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000


@dataclass
class LossyCable:
    """`name`: of the namespace at the far end. `delay_s`: of each packet; `loss`: the share that is lost, each way."""

    name: str
    number: int
    delay_s: float
    loss: float = 0.0
    _rng: random.Random = field(default_factory=lambda: random.Random(7))

    @property
    def near(self) -> str:
        return f"10.214.{self.number}.1"

    @property
    def far(self) -> str:
        return f"10.214.{self.number}.2"

    @property
    def devices(self) -> tuple[str, str]:
        """Ours, and that of the far end."""
        return f"lossy{self.number}", f"lossy{self.number}f"

    def carry(self, source: int, target: int) -> None:
        """Take what has come at one end, for the other one."""
        with contextlib.suppress(BlockingIOError):
            while packet := os.read(source, PACKET_BYTES):
                if self._rng.random() >= self.loss:
                    asyncio.get_running_loop().call_later(self.delay_s, _hand_over, target, packet)


def _hand_over(target: int, packet: bytes) -> None:
    with contextlib.suppress(OSError):  # The test is over.
        os.write(target, packet)


def why_no_cable() -> str:
    """Why none can be made here; empty where it can."""
    return why_not() or ("" if DEVICE.exists() else f"there is no {DEVICE}")


@contextmanager
def lossy_cable(delay_s: float) -> Iterator[LossyCable]:
    """Make the other machine; in an event loop, which carries the packets."""
    loop, ends = asyncio.get_running_loop(), list[int]()
    with network() as name:
        try:
            cable = _cabled(name, delay_s, ends)
            near, far = cable.devices
            ip("link", "set", far, "netns", name)
            ip("addr", "add", f"{cable.near}/30", "dev", near)
            ip("link", "set", near, "up")
            ip("-n", name, "addr", "add", f"{cable.far}/30", "dev", far)
            ip("-n", name, "link", "set", far, "up")
            for source, target in (ends, reversed(ends)):
                loop.add_reader(source, cable.carry, source, target)
            yield cable
        finally:
            for end in ends:
                loop.remove_reader(end)
                os.close(end)


def _cabled(name: str, delay_s: float, ends: list[int]) -> LossyCable:
    """The machine with a number that was free; its devices' ends are added to `ends`."""
    for cable in (LossyCable(name, number, delay_s) for number in numbers()):
        near, far = cable.devices
        try:
            ends.append(_device(near))
        except OSError as exc:
            if exc.errno != errno.EBUSY:
                raise
            continue  # Another run has it, and the other one with it.
        ends.append(_device(far))
        return cable
    raise AssertionError("no number is free")


def _device(name: str) -> int:
    """One that is gone when it is closed."""
    end = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError:
        os.close(end)
        raise
    return end
