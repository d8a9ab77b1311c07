"""What the conformance suite found, and how that compares with what is expected: pure functions over small mappings.

A check is named `scenario:check` as the suite prints it; an expectation may name a whole scenario. Used by the tests.
The one rule: behind a node a check is held to what the direct run shows, so that a check which was passed there and is
failed, warned about, skipped or absent here is a failure of the hop. What only informs may be absent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Worse is larger. A check that the suite left out because its condition was not met stands between good and bad.
RANK = {"SUCCESS": 0, "INFO": 1, "SKIPPED": 1, "ABSENT": 2, "WARNING": 3, "FAILURE": 4}
BAD = RANK["WARNING"]
# Checks of a stream that a server need not open: one that answers with JSON leaves them out, and says so as INFO.
STREAMS_ALONE = frozenset({"server-sse-multiple-streams:server-sse-streams-functional"})
# Checks of what comes on a stream, which the suite opens and closes 0.5, 0.8 or 1.5 s later, whatever else the machine
# does meanwhile: in that time a request and a notice have to pass the renaming proxy and all nodes.
BY_THE_CLOCK = frozenset(
    f"server-stateless:sep-2575-{check}"
    for check in (
        "http-server-no-independent-requests-on-stream",
        "server-no-log-without-loglevel",
        "server-sends-subscription-ack",
        "server-tags-subscription-id",
        "server-honors-notification-filter",
        "server-sends-prompts-list-changed-on-subscription",
        "server-sends-tools-list-changed-on-subscription",
    )
)


@dataclass(frozen=True)
class Report:
    """One run of one requirement set: the worst status of each check, and the messages about it."""

    statuses: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Report {len(self.statuses)} checks>"


def report_of(scenarios: Mapping[str, Sequence[Mapping[str, Any]]]) -> Report:
    """Fold the suite's own records, by scenario. A check that occurs more than once counts as its worst occurrence."""
    statuses: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for scenario, checks in scenarios.items():
        for check in checks:
            name, status = f"{scenario}:{check['id']}", check["status"]
            if RANK[status] >= RANK[statuses.get(name, "SUCCESS")]:
                statuses[name] = status
                reasons[name] = check.get("errorMessage") or ""
    return Report(statuses, reasons)


def failing_alone(report: Report) -> dict[str, str]:
    """What is failed or warned about, with the reason; nothing to compare with."""
    return {name: report.reasons[name] for name, status in report.statuses.items() if RANK[status] >= BAD}


def failing_behind(direct: Report, behind: Report) -> dict[str, str]:
    """What is worse than in the direct run, with the reason."""
    worse = {}
    for name, status in direct.statuses.items():
        found = behind.statuses.get(name, "ABSENT")
        if (status == "INFO" and found == "ABSENT") or (found == "INFO" and name in STREAMS_ALONE):
            continue
        if RANK[found] > max(RANK[status], RANK["INFO"]) or (status == "SUCCESS" and found != "SUCCESS"):
            worse[name] = f"{found} {behind.reasons.get(name, '')}".strip()
    for name, status in behind.statuses.items():
        if name not in direct.statuses and RANK[status] >= BAD:
            worse[name] = f"{status} {behind.reasons[name]}".strip()
    return worse


def may_be_late(report: Report) -> set[str]:
    """The scenarios that are worth another run: what is bad in them is judged by the suite's clock."""
    return {name.partition(":")[0] for name in failing_alone(report).keys() & BY_THE_CLOCK}


def with_another_run(report: Report, later: Report) -> Report:
    """The report, with what another run found of those checks alone."""
    taken = BY_THE_CLOCK & report.statuses.keys() & later.statuses.keys()
    return Report(
        {**report.statuses, **{name: later.statuses[name] for name in taken}},
        {**report.reasons, **{name: later.reasons[name] for name in taken}},
    )


def unexpected(failing: Mapping[str, str], expected: Mapping[str, str]) -> dict[str, str]:
    """Failures that are in no list."""
    return {name: why for name, why in failing.items() if not ({name, name.partition(":")[0]} & expected.keys())}


def no_longer_failing(failing: Mapping[str, str], expected: Mapping[str, str]) -> set[str]:
    """Entries that nothing fails any more."""
    found = failing.keys() | {name.partition(":")[0] for name in failing}
    return set(expected) - found
