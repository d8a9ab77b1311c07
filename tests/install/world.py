"""A world of packages that a test makes itself: tiny wheels in a folder, and environments with a given pip.

Called by test_from_lock.py. Nothing in it asks a registry but `pip_wheel`, which fetches one pinned pip and keeps it in
the project's cache folder. The one rule: pip sees this folder only, whatever the machine's pip settings say.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.debian_binary import cache_folder

ROOT = Path(__file__).parents[2]
PIPS = dict(
    line.removeprefix("pip==").split(" --hash=sha256:")
    for line in Path(__file__).with_name("pips.txt").read_text("utf-8").splitlines()
    if line.startswith("pip==")
)
COMMAND_TIMEOUT_S = 100.0
# make's own variables would hand this run's options to the make under test; pip's name the machine's registry.
FOREIGN_PREFIXES = ("PIP_", "PYTHON", "MAKE", "MFLAGS", "VIRTUAL_ENV")


@dataclass(frozen=True)
class Wheel:
    """One wheel of the folder."""

    name: str
    version: str
    path: Path

    @property
    def pin(self) -> str:
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        return f"{self.name}=={self.version} --hash=sha256:{digest}\n"


@dataclass(frozen=True)
class World:
    """A folder of wheels that pip takes for all that there is."""

    folder: Path

    def wheel(self, name: str, version: str, *metadata: str) -> Wheel:
        """Make a wheel with one module. `metadata` are further header lines, such as `Requires-Dist: other`."""
        stem = name.replace("-", "_")
        path, info = self.folder / f"{stem}-{version}-py3-none-any.whl", f"{stem}-{version}.dist-info"
        lines = ("Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *metadata, "")
        files = {
            f"{stem}.py": "",
            f"{info}/METADATA": "\n".join(lines),
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        record = "".join(f"{inside},,\n" for inside in (*files, f"{info}/RECORD"))
        with zipfile.ZipFile(path, "w") as archive:
            for inside, text in {**files, f"{info}/RECORD": record}.items():
                archive.writestr(inside, text)
        return Wheel(name, version, path)

    def run(self, command: Sequence[str | Path], **settings: str) -> subprocess.CompletedProcess[str]:
        """Run a command from the root of the tree; stdout and stderr are one, as a reader sees them."""
        environment = {name: text for name, text in os.environ.items() if not name.startswith(FOREIGN_PREFIXES)}
        environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.folder), "PIP_CONFIG_FILE": os.devnull}
        return subprocess.run(
            [str(word) for word in command],
            cwd=ROOT,
            env=environment | {"PIP_NO_CACHE_DIR": "1"} | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )


def environment_with(pip: Path, folder: Path) -> Path:
    """Make a virtual environment whose pip is that wheel; returns the folder."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=COMMAND_TIMEOUT_S)
    site_packages = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    with zipfile.ZipFile(pip) as archive:
        archive.extractall(site_packages)
    return folder


def pip_wheel(version: str) -> Path:
    """The wheel of one pip of pips.txt, from the cache or the registry; without both, the test is skipped aloud."""
    kept = cache_folder() / f"pip-{version}-py3-none-any.whl"
    if kept.is_file() and hashlib.sha256(kept.read_bytes()).hexdigest() == PIPS[version]:
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        lock = Path(folder) / "lock.txt"
        lock.write_text(f"pip=={version} --hash=sha256:{PIPS[version]}\n", "utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        command += ["--dest", folder, "--requirement", str(lock)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)
        if done.returncode != 0:
            assert "DO NOT MATCH" not in done.stderr, done.stderr
            pytest.skip(f"no registry gave pip {version}, which the test of the install step needs")
        # Atomic: another run reads a whole file or none.
        (Path(folder) / kept.name).replace(kept)
    return kept
