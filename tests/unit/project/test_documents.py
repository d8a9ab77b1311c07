"""What the documents say of commands, messages and settings, against the code; tests/e2e/test_documents.py runs some.

The one rule: a command or a message that a document shows is one that exists.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from agent.cli.parser import parse

ROOT = Path(__file__).parents[3]
PAGES = [*sorted(ROOT.glob("README*.md")), ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```([a-z]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELLS = {"", "bash", "sh"}
COMMAND = re.compile(r"(?:^|[\s;&|(])mesh-agent (?=[a-z-])(.*)")


def commands(page: Path) -> Iterator[str]:
    """The words behind `mesh-agent` in the blocks of a page for shells, without what stands in for a word."""
    for language, body in FENCE.findall(page.read_text()):
        if language not in SHELLS:
            continue
        for line in body.replace("\\\n", " ").splitlines():
            if (found := COMMAND.search(line.partition(" #")[0])) and not line.startswith("#"):
                yield re.split(r" &|\||;|\d?>|\)$", found[1])[0].strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_a_page_shows_is_one_of_the_command_line(page: Path) -> None:
    wrong = []
    for command in commands(page):
        try:
            parse(shlex.split(command))
        except (SystemExit, ValueError):
            wrong.append(command)
    assert not wrong


def test_commands_in_the_documents_are_found_at_all() -> None:
    assert len([command for page in PAGES for command in commands(page)]) > 30


def test_every_message_of_the_page_of_troubles_stands_in_the_code() -> None:
    page = (ROOT / "docs/guides/troubleshooting.md").read_text()
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    code = "".join(path.read_text() for room in ("agent", "discovery") for path in sorted((ROOT / room).rglob("*.py")))
    # A message may go on in the next line.
    code = re.sub(r"\"\s*\n\s*f?\"", "", code)
    assert len(messages) > 20
    assert [message for message in messages if message not in code] == []


def test_every_page_stands_in_the_navigation_of_the_site() -> None:
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    named: set[str] = set()

    def walk(entry: object) -> None:
        for part in entry if isinstance(entry, list) else entry.values() if isinstance(entry, dict) else ():
            named.add(part) if isinstance(part, str) else walk(part)

    walk(navigation)
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert named == pages


def test_the_chinese_readme_has_the_sections_and_tables_of_the_english_one() -> None:
    english, chinese = ((ROOT / name).read_text() for name in ("README.md", "README.zh-TW.md"))
    for what in (r"^##", r"^\|", r"^!\["):
        assert len(re.findall(what, english, re.MULTILINE)) == len(re.findall(what, chinese, re.MULTILINE)), what
    links = re.compile(r"\]\(((?:docs|consul|deploy|monitoring|CONTRIBUTING|CHANGELOG)[^)]*)\)")
    assert set(links.findall(chinese)) <= set(links.findall(english))
