"""What is made late, once for all that wait, and what is given back to the kernel when a node is calm."""

import os
import sys

import pytest

from agent.late import give_back_memory
from bench.processes import resident_bytes

BLOCK, BLOCKS = 60_000, 1_000


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
