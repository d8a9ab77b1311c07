"""What is made late, once for all that wait, and what is given back to the kernel when a node is calm."""

import os
import re
import subprocess
import sys

import pytest

from agent.late import give_back_memory
from bench.processes import resident_bytes

BLOCK, BLOCKS = 60_000, 1_000
# Blocks that the interpreter asks the C library for, held by threads that are all there at once.
THREADS = """
import ctypes, threading
from agent.late import settle_memory
settle_memory()
all_there = threading.Barrier(5)
def fill():
    held = [bytes(1_000) for _ in range(1_000)]
    all_there.wait()
for _ in range(4):
    threading.Thread(target=fill).start()
all_there.wait()
ctypes.CDLL(None).malloc_stats()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what is resident")
def test_memory_between_what_is_held_goes_back_to_the_kernel() -> None:
    blocks = [bytes([1]) * BLOCK for _ in range(BLOCKS)]
    held = blocks[::100]  # Among them the last: what is below it is not given back by itself.
    held.append(blocks[-1])
    del blocks
    before = resident_bytes(os.getpid())
    give_back_memory()
    assert resident_bytes(os.getpid()) < before - BLOCK * BLOCKS / 2
    assert held


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of Linux tells its regions")
def test_threads_fill_no_memory_of_their_own_once_a_node_has_started() -> None:
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True, timeout=60)
    assert re.findall(r"^Arena (\d+):", done.stderr, re.MULTILINE) == ["0"]
