"""The tables of the test bed against what others wrote, and the page made from its results."""

import re

from tests.outside import page, results
from tests.outside.installing import LOCKS
from tests.outside.rows import Client, Scenario, Server, clients, scenarios, servers

ROWS: dict[str, Server | Client | Scenario] = {**servers(), **clients(), **scenarios()}


def test_every_row_is_pinned_by_a_lock_that_names_its_version() -> None:
    for row in ROWS.values():
        name, _, version = row.package.rpartition("==")
        if row.registry == "pypi":
            assert f"\n{row.package}" in "\n" + (LOCKS / f"{row.group}.txt").read_text(), row.name
        else:
            lock = (LOCKS / row.group / "package-lock.json").read_text()
            assert re.search(rf'"node_modules/{re.escape(name)}": {{\s*"version": "{re.escape(version)}"', lock), (
                row.name
            )


def test_no_lock_names_an_address_of_a_registry() -> None:
    assert not [lock for lock in LOCKS.rglob("package-lock.json") if '"resolved"' in lock.read_text()]


def test_every_lock_is_used_by_a_row() -> None:
    groups = {path.stem for path in LOCKS.iterdir()}
    assert groups == {row.group for row in ROWS.values()}


def test_compatibility_page_is_made_from_the_results() -> None:
    assert page.PAGE.read_text() == page.render(results.load())
