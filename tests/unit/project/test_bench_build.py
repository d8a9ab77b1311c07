"""What the benchmarks take for build 897e61c: a folder that is that commit, and nothing else."""

import subprocess
from pathlib import Path

import pytest

from bench import before


def git(folder: Path, *arguments: str) -> str:
    named = ("-c", "user.name=a tester", "-c", "user.email=tester@example.invalid", "-c", "commit.gpgsign=false")
    said = subprocess.run(["git", *named, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return said.stdout.strip()


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A repository with two commits, in which the benchmarks run; returns the first one, which they want."""
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "--quiet")
    (tmp_path / ".gitignore").write_text(".cache/\n")
    (tmp_path / "agent.py").write_text("slow = True\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "The build")
    first = git(tmp_path, "rev-parse", "--short=7", "HEAD")
    (tmp_path / "agent.py").write_text("slow = False\n")
    git(tmp_path, "commit", "--quiet", "--all", "--message", "Today")
    monkeypatch.setattr(before, "BUILD", first)
    return first


def test_the_build_is_checked_out_where_it_is_not_there(build: str) -> None:
    before.check_out()
    assert git(before.TREE, "rev-parse", "--short=7", "HEAD") == build
    assert (before.TREE / "agent.py").read_text() == "slow = True\n"
    before.check_out()


def test_an_empty_folder_is_not_taken_for_the_build(build: str) -> None:
    before.TREE.mkdir(parents=True)
    with pytest.raises(SystemExit, match=f"has to be build {build}, and is no working tree of git: `rm -rf"):
        before.check_out()


def test_another_commit_is_not_taken_for_the_build(build: str) -> None:
    before.check_out()
    git(before.TREE, "checkout", "--quiet", "--detach", git(Path(), "rev-parse", "HEAD"))
    with pytest.raises(SystemExit, match=f"has to be build {build}, and is at "):
        before.check_out()


def test_a_build_with_changes_is_not_taken_for_it(build: str) -> None:
    before.check_out()
    (before.TREE / "agent.py").write_text("slow = None\n")
    with pytest.raises(SystemExit, match=rf"has to be build {build}, and has changes \(M agent.py\)"):
        before.check_out()
