"""The suite of MCP's own makers against the fixture directly, behind one node, and behind two.

docs/conformance.md says how to read a failure. The one rule: a failure behind a node that the direct run does not have
is a bug of ours; what is known stands in a file with its reason, and those files only get shorter.
"""

from pathlib import Path

import pytest
import yaml

from tests.conformance.runs import REVISIONS, TARGETS
from tests.conformance.verdicts import Report, failing_alone, failing_behind, no_longer_failing, unexpected

# The first test waits for everything: an installation of 240 s at most, and runs that take 20 s all together.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
LISTED = ("direct", "one", "two")
# The number of entries. A change that shortens a list lowers its number; no change raises one.
LISTED_MAX = {"direct": 2, "one": 0, "two": 0}
Reports = dict[tuple[str, str], Report]


def expected(target: str) -> dict[str, dict[str, str]]:
    """Revision -> entry -> reason; the proxy has no file because nothing may fail through it."""
    if target not in LISTED:
        return {revision: {} for revision in REVISIONS}
    loaded = yaml.safe_load((HERE / f"expected-failures-{target}.yml").read_text("utf-8"))
    return {revision: loaded.get(revision) or {} for revision in REVISIONS}


def failing(reports: Reports, target: str, revision: str) -> dict[str, str]:
    report = reports[target, revision]
    return failing_alone(report) if target == "direct" else failing_behind(reports["direct", revision], report)


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize("target", TARGETS)
def test_nothing_fails_that_is_not_listed(reports: Reports, target: str, revision: str) -> None:
    assert unexpected(failing(reports, target, revision), expected(target)[revision]) == {}


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize("target", LISTED)
def test_what_is_listed_still_fails(reports: Reports, target: str, revision: str) -> None:
    passes = no_longer_failing(failing(reports, target, revision), expected(target)[revision])
    assert passes == set(), f"take out of expected-failures-{target}.yml, and lower LISTED_MAX"


@pytest.mark.parametrize("target", LISTED)
def test_the_list_does_not_grow(target: str) -> None:
    entries = expected(target)
    assert sum(len(of_revision) for of_revision in entries.values()) == LISTED_MAX[target]
    assert all(len(reason.split()) > 5 for of_revision in entries.values() for reason in of_revision.values())


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_direct_run_has_every_scenario_of_the_requirement_set(
    reports: Reports, requirements: Path, revision: str
) -> None:
    required = yaml.safe_load((requirements / f"{revision}.yaml").read_text("utf-8"))
    wanted = set(required["server"])
    wanted |= {entry["scenario"] for entry in required["not_scored"] if entry["leg"] == "server"}
    silent = {"tasks-status-notifications"}  # It has no check of its own yet.
    found = {name.partition(":")[0] for name in reports["direct", revision].statuses}
    assert wanted - silent - found == set()
