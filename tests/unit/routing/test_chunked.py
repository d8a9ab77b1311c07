"""Mappings in chunks are the same as dictionaries, and what does not change is not copied."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.routing.chunked import SIZES, Chunked

ROOT = Path(__file__).parents[3]
NAMES = st.integers(0, 300).map("name-{}".format)


@given(st.lists(st.dictionaries(NAMES, st.none() | st.integers(), max_size=120), max_size=12))
def test_changes_leave_what_they_leave_in_a_dictionary_and_earlier_mappings_as_they_were(changes: Any) -> None:
    made: list[tuple[Chunked[str, int], dict[str, int]]] = [(Chunked(), {})]
    for change in changes:
        before, known = made[-1]
        after = {name: value for name, value in (known | change).items() if value is not None}
        made.append((before.changed(change), after))
    for chunked, known in made:
        assert chunked == known
        assert len(chunked) == len(known)
        assert sorted(chunked) == sorted(known)
        assert sorted(chunked.values()) == sorted(known.values())
        assert sorted(chunked.items()) == sorted(known.items())
        assert all(name in chunked and chunked[name] == chunked.get(name) == value for name, value in known.items())
        assert "another" not in chunked
        assert chunked.get("another", 7) == 7


def test_only_the_chunk_of_a_changed_name_is_copied() -> None:
    before = Chunked.of({f"name-{number}": number for number in range(10_000)})
    after = before.changed({"name-17": None})
    assert sum(was is not now for was, now in zip(before.chunks, after.chunks, strict=True)) == 1
    assert after.changed({}) is after
    assert Chunked.of(after) is after
    assert len(after.chunks) == SIZES[-1][1]


def test_a_few_entries_are_one_dictionary_and_more_chunks_come_with_more_entries() -> None:
    chunked, seen = Chunked[str, int](), []
    for number in range(2000):
        chunked = chunked.changed({f"name-{number}": number})
        seen.append(len(chunked.chunks))
    assert (seen[0], seen[63], seen[64], seen[1023], seen[-1]) == (1, 1, 16, 16, 128)
    assert seen == sorted(seen)


def test_a_process_with_other_hashes_has_the_same_entries() -> None:
    code = "import pickle, sys; read = pickle.loads(sys.stdin.buffer.read()); print(sum(read[k] for k in list(read)))"
    written = pickle.dumps(Chunked.of({f"name-{number}": number for number in range(500)}))
    env = {"PYTHONHASHSEED": "7", "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", code], input=written, capture_output=True, check=True, env=env)
    assert int(ran.stdout) == sum(range(500))
