"""Compiles the files of tests once for all workers of a run, which otherwise each compile the same hundreds.

Rewriting the assertions of all files takes a worker as long as everything else until its first test, and workers
collect the same files at the same moment. So each begins with a share of its own and finds the others' in the cache; in
the end every worker has imported all, as collecting does. The one rule: a file that cannot be imported is left to the
collection, which says why.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path

import pytest

PATTERN = "test_*.py"


def import_from_own_share(folders: Sequence[Path], root: Path, worker: int, workers: int) -> None:
    """Import all tests below the folders, beginning with the share of this worker, going round."""
    files = sorted(file for folder in folders for file in folder.rglob(PATTERN))
    first = worker * len(files) // workers
    for file in (*files[first:], *files[:first]):
        try:
            importlib.import_module(".".join(file.relative_to(root).with_suffix("").parts))
        except (Exception, pytest.skip.Exception):  # noqa: BLE001 - see the rule
            continue
