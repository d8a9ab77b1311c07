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


_PROGRAM = f'mesh-agent() {{ {sys.executable} -m agent "$@"; }}\n'
_OF_BASH = """
source <(mesh-agent completion bash)
COMP_WORDS=(mesh-agent tools desc) COMP_CWORD=2
_mesh_agent
echo "${COMPREPLY[@]}"
"""
# With what zsh's own functions do with the words in the place of them, so that zsh alone is enough.
_OF_ZSH = """
compdef() { }
compadd() { shift; print -l -- "$@" }
source <(mesh-agent completion zsh)
words=(mesh-agent tools desc) CURRENT=3
_mesh_agent
"""
_OF_FISH = """
mesh-agent completion fish | source
complete -C 'mesh-agent tools desc'
"""
_FISH_PROGRAM = f"function mesh-agent; {sys.executable} -m agent $argv; end\n"


@pytest.mark.parametrize(
    ("shell", "flag", "lines"),
    [
        ("bash", "--norc", _PROGRAM + _OF_BASH),
        ("zsh", "-f", _PROGRAM + _OF_ZSH),
        ("fish", "--no-config", _FISH_PROGRAM + _OF_FISH),
    ],
)
def test_a_shell_completes_a_command_with_its_script(shell: str, flag: str, lines: str) -> None:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"NO {shell.upper()}, its completion script was not tried: install Debian's {shell}")
    done = subprocess.run([path, flag, "-c", lines], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("describe\n", "")


def test_each_script_serves_both_names_of_the_program_and_names_files_where_there_is_nothing_else() -> None:
    files = {"bash": "complete -o default", "zsh": "_files", "fish": "__fish_complete_path"}
    assert files.keys() == SCRIPTS.keys()
    for shell, script in SCRIPTS.items():
        assert files[shell] in script
        assert {"mesh-agent", "mcp-mesh-agent"} <= set(script.split())
        assert "complete -- " in script
