"""What may follow at a Tab, without a node; and the script for bash, in a bash."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent.cli.completion import SCRIPTS, candidates
from agent.cli.parser import main

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("line", "begun", "some"),
    [
        ([], "", {"status", "peers", "run"}),
        (["peers"], "", {"ls", "list", "rm", "reset"}),
        (["peers", "ls"], "--", {"--url", "--json", "--watch"}),
        (["peers", "ls", "-o"], "", {"wide", "name", "json"}),
        (["run"], "--serv", {"--servers-file"}),
        (["connect"], "", {"claude-desktop", "codex"}),
        (["completion"], "", set(SCRIPTS)),
        (["status", "--url"], "", set()),
        (["tools", "call", "dice__roll"], "", set()),
        (["nonsense"], "", {"status"}),
    ],
)
def test_words_that_may_follow_come_from_the_parser_itself(line: list[str], begun: str, some: set[str]) -> None:
    found = set(candidates(line, begun))
    assert some <= found
    assert bool(some) == bool(found)
    assert "complete" not in found


def test_tab_for_a_name_says_nothing_when_no_node_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MESH_URL", "http://127.0.0.1:9")
    assert main(["complete", "--", "peers", "rm", ""]) == 0
    assert main(["complete", "--", "tools", "call", "--url", "ftp://x", ""]) == 0
    assert main(["complete", "--", "peers", "r"]) == 0
    assert capsys.readouterr() == ("rm\nremove\nreset\n", "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_a_command_with_the_script() -> None:
    program = f"""
        mesh-agent() {{ {sys.executable} -m agent "$@"; }}
        source <(mesh-agent completion bash)
        COMP_WORDS=(mesh-agent tools desc) COMP_CWORD=2
        _mesh_agent
        echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("describe\n", "")
