"""Makes the locks of a group anew: `python -m tests.outside.locking GROUP ...`, or all of them without a name.

`locks/<group>.in` or `locks/<group>/package.json` names what is wanted, with exact versions. The one rule: a lock names
no registry.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.outside.installing import LOCKS, UV, npm, with_node


def lock_python(group: str) -> None:
    """Resolve `locks/<group>.in` for every system; exact versions without hashes, which would be 10 MB."""
    options = ("--universal", "--python-version", "3.11", "--no-header", "--no-annotate", "--no-config", "--quiet")
    wanted, lock = LOCKS / f"{group}.in", LOCKS / f"{group}.txt"
    subprocess.run([UV, "pip", "compile", wanted, *options, "--upgrade", "--output-file", lock], check=True)


def lock_node(group: str) -> None:
    """Resolve `locks/<group>/package.json`; integrity hashes, no addresses."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy2(LOCKS / group / "package.json", folder)
        options = ("--package-lock-only", "--omit-lockfile-registry-resolved", "--ignore-scripts", "--no-audit")
        subprocess.run([*npm(), "install", *options], cwd=folder, env=with_node(dict(os.environ)), check=True)
        shutil.copy2(Path(folder) / "package-lock.json", LOCKS / group / "package-lock.json")


def main(groups: list[str]) -> int:
    """Lock the groups named, or all."""
    for group in groups or sorted(path.stem for path in LOCKS.iterdir() if path.suffix in {".in", ""}):
        sys.stdout.write(f"{group}\n")
        if (LOCKS / group).is_dir():
            lock_node(group)
        else:
            lock_python(group)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
