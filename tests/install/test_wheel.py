"""The wheel that pip, uv and pipx install: all packages of the tree, and an entry point that is there.

Built from a copy of what the Dockerfile copies, with the build tools of the lock, so nothing is fetched.
"""

import fnmatch
import importlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from shutil import copy2, copytree, ignore_patterns

import pytest

from tests.install.world import COMMAND_TIMEOUT_S, ROOT

PACKAGES = ("agent", "discovery")
LAUNCHER = "mcp_mesh_agent.py"
RUN = "import mcp_mesh_agent; sys.exit(mcp_mesh_agent.main())"
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


def copied_by_dockerfile() -> list[str]:
    """The sources of every COPY that takes from the tree."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    return [name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE) for name in line.split()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("out")
    for name in copied_by_dockerfile():
        if (ROOT / name).is_dir():
            copytree(ROOT / name, source / name, ignore=ignore_patterns("__pycache__"))
        else:
            copy2(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-c", BUILD, str(out)],
        cwd=source,
        check=True,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
    )
    (built,) = out.iterdir()
    return zipfile.Path(built)


def test_wheel_holds_every_file_of_both_packages_and_nothing_else(wheel: zipfile.Path) -> None:
    in_tree = {
        str(path.relative_to(ROOT))
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = wheel.root.namelist()
    assert {name for name in names if ".dist-info/" not in name and not name.endswith("/")} == in_tree | {LAUNCHER}


def test_wheel_holds_every_folder_of_modules_as_a_package() -> None:
    """A folder without `__init__.py` would be a namespace that another distribution could add to."""
    folders = {path.parent for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    assert {str(folder) for folder in folders if not (folder / "__init__.py").is_file()} == set()


def test_command_of_the_wheel_is_a_function_of_the_tree(wheel: zipfile.Path) -> None:
    (entry_points,) = (name for name in wheel.root.namelist() if name.endswith("/entry_points.txt"))
    text = wheel.root.read(entry_points).decode()
    scripts = dict(re.findall(r"^([\w-]+) = ([\w.]+:\w+)$", text, re.MULTILINE))
    assert scripts.keys() == {"mesh-agent", "mcp-mesh-agent"}, "uvx and pipx look for one named as the distribution"
    for place in scripts.values():
        module, _, function = place.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("name", PACKAGES)
def test_another_package_of_the_same_name_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {[str(tmp_path), str(ROOT)]!r}; {RUN}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"the package {name!r} at {tmp_path / name}" in done.stderr


def test_everything_that_the_image_copies_passes_the_dockerignore() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    assert sorted(copied_by_dockerfile()) == sorted(allowed)
    refused = [rule for rule in rules[1:] if not rule.startswith("!")]
    files = [path for name in PACKAGES for path in (ROOT / name).rglob("*") if "__pycache__" not in path.parts]
    assert not [path for path in files for rule in refused if fnmatch.fnmatch(path.name, rule.rpartition("/")[2])]
