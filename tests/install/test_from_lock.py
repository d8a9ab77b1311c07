"""The install step, `make from-lock`, in a world where a newer release of a pinned package is out already.

The world is made by the test, so it stays true next year: `needs-extra` wants `thing[more]`, the lock pins thing 1.0,
and thing 2.0 is in the folder. The one rule: each pip of pips.txt installs what the lock says, or make fails with pip's
own words.
"""

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shutil import rmtree

import pytest

from tests.install.world import PIPS, ROOT, Wheel, World, environment_with, pip_wheel

pytestmark = [pytest.mark.fetches, pytest.mark.timeout(240)]

OLDEST, *_, NEWEST = sorted(PIPS, key=lambda version: [int(part) for part in version.split(".")])
# Below 23.3 pip looks for `name[extra]` among all releases, whatever the lock pins (findings/pip_extras_and_hashes.sh).
FAULTY = [version for version in PIPS if [int(part) for part in version.split(".")] < [23, 3]]
LONG = 20  # Enough for two pips, as install/from_lock.py counts.
FOLDERS = ("agent", "bench", "discovery", "install", "tests", "docker", ".ci")

Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Stage:
    """The world, its wheels, and one environment."""

    world: World
    needs_extra: Wheel
    thing: Wheel
    lock: Path
    venv: Path

    def from_lock(self, *entries: str) -> Done:
        self.lock.write_text("".join(entries), "utf-8")
        return self.world.run(["make", "from-lock", f"LOCK={self.lock}", f"VENV={self.venv}"])

    def python(self, *arguments: str) -> Done:
        return self.world.run([self.venv / "bin" / "python", *arguments])

    def installed(self) -> set[str]:
        return {path.stem for path in self.venv.glob("lib/python*/site-packages/*.dist-info")}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """One environment for each pip, made when it is first wanted."""
    return cache(lambda pip: environment_with(pip_wheel(pip), tmp_path_factory.mktemp("venv") / pip))


@pytest.fixture
def stage(tmp_path: Path, environment: Callable[[str], Path]) -> Callable[[str], Stage]:
    def make(pip: str) -> Stage:
        venv = environment(pip)
        for left in venv.glob("lib/python*/site-packages/*"):
            if left.is_dir() and left.name.endswith(".dist-info") and not left.name.startswith("pip-"):
                rmtree(left)
        (tmp_path / "wheels").mkdir()
        world = World(tmp_path / "wheels")
        extra = ("Provides-Extra: more", 'Requires-Dist: small; extra == "more"')
        world.wheel("thing", "2.0", *extra)
        needs_extra = world.wheel("needs-extra", "1.0", "Requires-Dist: thing[more]>=1")
        thing = world.wheel("thing", "1.0", *extra)
        return Stage(world, needs_extra, thing, tmp_path / "lock.txt", venv)

    return make


@pytest.mark.parametrize("pip", PIPS)
def test_every_pip_installs_the_pinned_release_beside_a_newer_one(pip: str, stage: Callable[[str], Stage]) -> None:
    at = stage(pip)
    small = at.world.wheel("small", "1.0")
    done = at.from_lock(at.needs_extra.pin, at.thing.pin, small.pin)
    assert done.returncode == 0, done.stdout
    assert at.installed() == {"needs_extra-1.0", "thing-1.0", "small-1.0", f"pip-{pip}"}
    assert done.stdout.splitlines() == ["   installing 3", "   installed 3 packages", "No broken requirements found."]


@pytest.mark.parametrize("pip", [OLDEST, NEWEST])
def test_parts_of_a_long_lock_are_fetched_side_by_side_and_installed_as_one(
    pip: str, stage: Callable[[str], Stage]
) -> None:
    at = stage(pip)
    many = [at.world.wheel(f"number-{number}", "1.0").pin for number in range(LONG)]
    elsewhere = 'nowhere==1.0 ; sys_platform == "win32" --hash=sha256:' + "0" * 64 + "\n"
    done = at.from_lock(*many, elsewhere)
    assert done.returncode == 0, done.stdout
    assert at.installed() == {f"pip-{pip}", *(f"number_{number}-1.0" for number in range(LONG))}
    assert len([*at.venv.glob("lib/python*/site-packages/__pycache__/number_*.pyc")]) == LONG
    said = [f"   installing {LONG}", f"   installed {LONG} packages", "No broken requirements found."]
    assert done.stdout.splitlines() == said


@pytest.mark.parametrize("pip", [NEWEST])
def test_file_that_is_not_the_locked_one_fails_a_long_lock_before_anything_is_installed(
    pip: str, stage: Callable[[str], Stage]
) -> None:
    at = stage(pip)
    many = [at.world.wheel(f"number-{number}", "1.0").pin for number in range(LONG)]
    at.world.wheel("number-7", "1.0", "Summary: another file")
    done = at.from_lock(*many)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stdout
    assert many[7].split("sha256:")[1].strip() in done.stdout
    assert at.installed() == {f"pip-{pip}"}


@pytest.mark.parametrize("pip", FAULTY)
def test_this_world_would_stop_an_older_pip_that_resolves(pip: str, stage: Callable[[str], Stage]) -> None:
    """The apparatus: without --no-deps the same lock fails, so the test above can fail."""
    at = stage(pip)
    at.lock.write_text(at.needs_extra.pin + at.thing.pin + at.world.wheel("small", "1.0").pin, "utf-8")
    done = at.python("-m", "pip", "install", "--require-hashes", "--requirement", str(at.lock))
    assert done.returncode != 0
    assert "must have their versions pinned with ==" in done.stdout
    assert "thing[more]" in done.stdout


@pytest.mark.parametrize("pip", [OLDEST, NEWEST])
def test_lock_that_misses_a_dependency_fails_with_its_name(pip: str, stage: Callable[[str], Stage]) -> None:
    at = stage(pip)
    done = at.from_lock(at.needs_extra.pin)
    assert done.returncode != 0
    assert "needs-extra 1.0 requires thing, which is not installed." in done.stdout


@pytest.mark.parametrize("pip", [OLDEST, NEWEST])
def test_file_that_is_not_the_locked_one_fails_with_both_hashes(pip: str, stage: Callable[[str], Stage]) -> None:
    at = stage(pip)
    pin = at.thing.pin
    at.world.wheel("thing", "1.0", "Summary: another file")
    done = at.from_lock(pin)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stdout
    assert pin.split("sha256:")[1].strip() in done.stdout
    assert at.thing.pin.split("sha256:")[1].strip() in done.stdout


@pytest.mark.parametrize("pip", [OLDEST, NEWEST])
def test_release_that_is_nowhere_fails_with_its_name_and_a_hint(pip: str, stage: Callable[[str], Stage]) -> None:
    at = stage(pip)
    done = at.from_lock(at.thing.pin.replace("1.0", "1.5"))
    assert done.returncode != 0
    assert "No matching distribution found for thing==1.5" in done.stdout
    assert "Another Python: make clean" in done.stdout


@pytest.mark.parametrize("name", ["Makefile", "Dockerfile"])
def test_no_step_lets_pip_resolve_anything(name: str) -> None:
    steps = re.split(r"\n|&&", (ROOT / name).read_text("utf-8").replace("\\\n", " "))
    installs = [step for step in steps if re.search(r"(pip|\(PIP\)) install\b", step) and not step.startswith("#")]
    assert installs
    assert not [step for step in installs if "--no-deps" not in step]


def test_no_other_file_installs_a_lock_by_a_rule_of_its_own() -> None:
    """Files that install from hashes, and that each of them says --no-deps; tests of the rules themselves apart."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".sh", ""}]
    texts = {path: path.read_text("utf-8") for path in files if path.is_file()}
    rules = {str(path.relative_to(ROOT)): text for path, text in texts.items() if "--require-hashes" in text}
    assert {name for name, text in rules.items() if "--no-deps" not in text} == set()
    assert rules.keys() >= {"install/from_lock.py", "tests/conformance/node_tools.py"}
