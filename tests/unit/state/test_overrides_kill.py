"""Kill -9 around writes: a real process writes overrides, dies at a seeded moment, and its successor looks.

Every life goes on where the last one was cut off, in one folder. The writer says what it is about to do and what has
been acknowledged; whatever it acknowledged must be there, and beside it at most the one change that was under way.
One nursery process imports everything once and forks a writer for each life. CHAOS_SEED repeats a run's choices; whole
nodes are killed as often by `make chaos`.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.model import HttpTarget, Override, Suppression
from agent.state.overrides import OverrideStore

KILLS = 200
ACKS_MAX = 5  # A life ends at one of its first changes: each waits twice for the disk, which may be a slow one.
DELAY_MAX_S = 0.003  # A write takes about a third of it, so the blow falls into any of its steps.

NURSERY = """
import asyncio, json, os, random, sys
from pathlib import Path
from agent.model import Override, Suppression
from agent.model import HttpTarget
from agent.state.overrides import OverrideStore

def say(*words):  # In one write, whole or absent; print writes twice where output is unbuffered.
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

async def live(folder, seed):
    store, rng = OverrideStore.open(Path(folder)), random.Random(seed)
    while True:
        kind, name = rng.choice(["put", "put", "remove", "suppress"]), f"peer-{rng.randrange(6)}"
        token = rng.randbytes(rng.randrange(1, 1500)).hex()  # a line stays below PIPE_BUF, whole or absent
        say("try", json.dumps([kind, name, token]))
        match kind:
            case "put":
                await store.put(Override(name, HttpTarget("http://10.0.0.1:8000/mcp", token=token)))
            case "remove":
                await store.remove(name)
            case "suppress":
                await store.suppress(Suppression(name))
        say("ack")

for line in sys.stdin:
    if not (pid := os.fork()):
        say("pid", os.getpid())
        asyncio.run(live(*json.loads(line)))
    _, status = os.waitpid(pid, 0)
    say("end", os.waitstatus_to_exitcode(status))
"""

State = tuple[dict[str, str], tuple[str, ...]]


@pytest.mark.timeout(180)  # Two hundred processes, each with writes that wait for the disk.
def test_an_acknowledged_change_survives_every_kill(tmp_path: Path) -> None:
    seed = int(os.environ.get("CHAOS_SEED", random.randrange(2**32)))
    print(f"CHAOS_SEED={seed}")  # noqa: T201 - pytest shows it when the test fails
    rng = random.Random(seed)
    state: State = ({}, ())
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as nursery:
        for _ in range(KILLS):
            certain, under_way = life(nursery, tmp_path, rng, state)
            state = kept(tmp_path)
            assert state == certain or (under_way is not None and state == after(certain, under_way))
        nursery.kill()
    assert list(tmp_path.glob("*.json")) == [tmp_path / "overrides.json"]


def life(
    nursery: subprocess.Popen[str], folder: Path, rng: random.Random, state: State
) -> tuple[State, list[str] | None]:
    """Let a writer write, kill it, and return the acknowledged state with the change that was under way."""
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    nursery.stdin.write(json.dumps([str(folder), rng.getrandbits(32)]) + "\n")
    nursery.stdin.flush()
    acks, delay_s = rng.randrange(ACKS_MAX), rng.uniform(0, DELAY_MAX_S)
    under_way: list[str] | None = None
    pid = 0
    for line in nursery.stdout:  # goes on behind the blow: what was written before it was acknowledged
        word, _, rest = line.strip().partition(" ")
        match word:
            case "pid":
                pid = int(rest)
            case "try":
                under_way = json.loads(rest)
                if acks <= 0 and pid:
                    ends_s = time.perf_counter() + delay_s
                    while time.perf_counter() < ends_s:  # far shorter than any timer keeps
                        pass
                    os.kill(pid, signal.SIGKILL)
                    pid = 0
            case "ack":
                assert under_way is not None
                state, under_way, acks = after(state, under_way), None, acks - 1
            case _:
                assert (word, int(rest)) == ("end", -signal.SIGKILL), "the writer ended by itself"
                return state, under_way
    raise AssertionError("the nursery ended")


def after(state: State, change: list[str]) -> State:
    overrides, suppressions = state
    kind, name, token = change
    match kind:
        case "put":
            return {**overrides, name: token}, tuple(known for known in suppressions if known != name)
        case "remove":
            return {known: value for known, value in overrides.items() if known != name}, suppressions
        case _:
            return overrides, suppressions if name in suppressions else (*suppressions, name)


def kept(folder: Path) -> State:
    store = OverrideStore.open(folder)
    assert all(
        known == Override(known.name, HttpTarget("http://10.0.0.1:8000/mcp", token=known.target.token))
        for known in store.overrides
    )
    assert all(known == Suppression(known.name) for known in store.suppressions)
    return {known.name: known.target.token or "" for known in store.overrides}, tuple(
        known.name for known in store.suppressions
    )
