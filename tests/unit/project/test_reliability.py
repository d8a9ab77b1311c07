"""docs/reliability.md against the code: each constant that it names exists in that file with that value, and back.

Its tables of what was shown name tests that exist. The one rule: a new time-out, pause or period in the rooms below
gets a row there, with its reason.
"""

import ast
import importlib
import math
import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from agent.links.state import DIALS, NAMED_DIALS
from discovery.backoff import Backoff

ROOT = Path(__file__).parents[3]
ROW = re.compile(r"\| `(?P<name>[\w.]+)` \| (?P<value>[^|]+) \| `(?P<file>[\w/]+)\.py` \| (?P<reason>[^|]+) \|")
ROWS = [match.groupdict() for match in ROW.finditer((ROOT / "docs/reliability.md").read_text())]
UNITS = {"": 1.0, "ms": 1.0, "s": 1.0, "min": 60.0, "KiB": 1024.0, "MiB": 1024.0**2, "%": 0.01}
# Rooms whose times are all about faults.
ROOMS = ("agent/links", "agent/client", "agent/dispatch", "agent/control", "agent/server/sessions", "discovery")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['file']}:{row['name']}")
def test_constant_of_the_reliability_page_has_the_value_that_it_names(row: dict[str, str]) -> None:
    assert _values_in(row["value"]) == pytest.approx(_values_of(row["file"], row["name"])), row


def test_every_time_constant_of_the_fault_rooms_is_on_the_reliability_page() -> None:
    documented = {(row["file"], row["name"]) for row in ROWS}
    missing = [
        f"{path}.py: {name}" for path, name in _time_constants() if (path, name) not in documented and name[0] != "_"
    ]
    assert not missing, "\n".join(["", *missing])


def test_no_row_of_the_reliability_page_is_written_so_that_it_is_not_read() -> None:
    lines = [line for line in (ROOT / "docs/reliability.md").read_text().splitlines() if line.startswith("| `")]
    assert len(lines) == len(ROWS) > 100


@pytest.mark.parametrize("page", ["README.md", "README.zh-TW.md", "docs/guides/troubleshooting.md"])
def test_what_operators_read_of_reconnecting_is_what_links_do(page: str) -> None:
    text = re.sub(r"\s+", " ", (ROOT / page).read_text())
    waits = re.search(r"(?:steps up to|最多) (\d+) (?:s|秒)\W+(?:Consul 不回報的則最多 )?(\d+)", text)
    assert waits is not None, page
    assert [float(wait) for wait in waits.groups()] == [DIALS.last_s, NAMED_DIALS.last_s]


TEST = re.compile(r"^(?:async )?def (test_\w+)", re.MULTILINE)
SHOWN = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs/reliability.md").read_text().partition("## How it is shown")[2].splitlines()
    if line.startswith("| ") and not line.startswith("| fault ")
]


@pytest.mark.parametrize("row", SHOWN, ids=lambda row: row[0][:40])
def test_every_fault_has_a_figure_a_command_whose_tests_exist_and_a_date(row: list[str]) -> None:
    assert len(row) == 5, "a fault, its cost, what was seen, the command, the date"
    _, _, seen, command, date = row
    assert re.search(r"\d|\b(no|nothing|both|twice|two|broke|ended)\b", seen), "what was seen"
    assert re.fullmatch(r"2\d{3}-\d{2}-\d{2}", date)
    words = shlex.split(command.strip("`"))
    paths = [ROOT / word for word in words if word.startswith("tests/")]
    assert all(path.is_file() for path in paths), command
    if words[0] == "pytest":
        chosen = words[words.index("-k") + 1] if "-k" in words else "test_"
        names = [name for path in paths for name in TEST.findall(path.read_text())]
        assert any(chosen in name for name in names), f"{command}: no test has this word"
    else:
        assert {"make", "python"} & set(words[:2])


VERSIONS = [
    line.rstrip("| ").rpartition(" | ")[2].strip("`")
    for line in (ROOT / "docs/reliability.md").read_text().partition("Consul differs by version")[2].splitlines()
    if line.startswith("| ") and line.endswith("` |")
]


@pytest.mark.parametrize("words", VERSIONS)
def test_every_difference_between_versions_of_consul_has_its_test(words: str) -> None:
    path, _, chosen = words.partition(" -k ")
    found = TEST.findall((ROOT / path).read_text())
    assert any(chosen in name for name in found), f"{path}: no test has the word {chosen}"


def test_the_page_has_a_row_for_each_difference_that_is_known() -> None:
    assert len(VERSIONS) >= 20  # More of them would be found by running the suites on another version.


# Every fault that a mesh of ours has to bear, and words of the row that shows it.
FAULTS = {
    "a replica crashes": "a replica is killed",
    "a peer hangs, under load": "a replica hangs (SIGSTOP) under load",
    "a peer hangs, idle": "a node hangs that is not called",
    "a slow peer": "a replica is 40 times slower",
    "half-open connections, a partition one way and both ways": "in both (half-open connections)",
    "a long partition": "a longer partition in one direction",
    "a reset in the middle of a response": "resets connections in the middle of answers",
    "a restarted upstream": "a server with sessions restarts",
    "a server that was away": "a server that was away",
    "a restarted Consul agent": "Consul restarts with its state wiped",
    "no leader, flapping health": "no leader; health that flaps",
    "ten minutes without Consul": "Consul is gone for ten minutes",
    "empty answers, an index reset": "an empty answer, an index of 0",
    "flapping peers": "a peer flaps",
    "two nodes of one name": "two nodes have one name",
    "a wall clock that jumps": "the time of day jumps",
    "a peer with other tools, at another address": "returns at another address with other tools",
    "a rotated token of the mesh": "the token of the mesh is rotated",
    "a thousand joins": "1,000 peers join at once",
    "churn": "2,000 joins and leaves",
    "a soak": "the same on real processes",
    "a slow reader of a stream": "a reader of a stream falls behind",
    "oversized and deep bodies": "a body without an end",
    "a legal body": "a legal body of 4 MB",
    "poisonous schemas": "a tool with a schema that is too deep",
    "a crash loop": "a child in a crash loop",
    "a kill around an operator's word": "a kill around an operator's word",
    "SIGTERM under load": "SIGTERM under load",
    "a catalog that forgets": "a clean-up script deregisters nodes",
    "a restored snapshot": "a snapshot is restored",
    "a server of Consul that is behind": "is behind after a restore",
    "a rotated ACL token": "an ACL token is rotated",
    "missing rights": "missing rights",
    "maintenance": "an operator sets maintenance",
    "a check that had run out": "whose check had run out",
    "a slow agent": "the agent answers a registration, a heartbeat or a deregistration too late",
    "our own entry twice, a copied state folder": "our own entry is there twice",
    "Consul's own proxies, several ports": "rows of Consul's own proxies",
    "Consul's limit of connections": "takes no more connections of ours",
    "a token file that is not there yet": "a token file that is not there yet",
    "5,000 instances": "one of 5,000 instances changes",
    "another datacentre": "the other datacentre is cut off",
    "other versions of Consul": "another version of Consul",
    "name servers": "a name server is away, answers",
    "files of peers": "a file of peers is half-written",
    "an operator's word": "an operator removes, adds",
    "dead nodes in status": "peers leave or fail",
    "a reload by signal": "SIGHUP with good and with broken files",
    "SIGTERM while starting": "SIGTERM at any moment of the start",
    "most links silent": "most links are silent at once",
    "many deaths": "300 of 600 peers die at once",
    "a thousand dead": "a thousand listed peers stay dead",
    "a full disk, a read-only one": "the disk of the state is full, then read-only",
    "damaged files": "files of the state are damaged",
    "no descriptors": "no descriptors are left",
    "clients that vanish": "a client vanishes without a word",
    "too many tools": "a server with more than 10,000 tools",
    "all of it in any order": "any of the faults below in any order",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_that_a_mesh_has_to_bear_has_a_row(fault: str) -> None:
    assert any(FAULTS[fault] in row[0] for row in SHOWN), FAULTS[fault]


def _values_in(text: str) -> list[float]:
    """The numbers of a cell like `0, 0.5, 2 s`, in seconds, bytes or parts of one."""
    cell = re.fullmatch(r"([\d., ]*\d) ?([A-Za-z%]*)", text.strip())
    assert cell is not None, text
    numbers, unit = cell.groups()
    return [float(number) * UNITS[unit] for number in numbers.split(", ")]


def _values_of(path: str, name: str) -> list[float]:
    """A module's constant, or the default of a dataclass' field."""
    module = importlib.import_module(path.replace("/", "."))
    owner, _, field = name.partition(".")
    value: Any = getattr(module, owner)
    if field:
        value = next(one.default for one in fields(value) if one.name == field)
    if isinstance(value, Backoff):
        value = (value.first_s, value.last_s)
    values = list(value) if isinstance(value, tuple) else [value]
    assert all(isinstance(one, int | float) and math.isfinite(one) for one in values), name
    return values


def _time_constants() -> list[tuple[str, str]]:
    found = []
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            for node in ast.parse(file.read_text()).body:
                targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
                names = [target.id for target in targets if isinstance(target, ast.Name)]
                path = str(file.relative_to(ROOT).with_suffix(""))
                found += [(path, name) for name in names if name.isupper() and name.endswith("_S")]
    return found
