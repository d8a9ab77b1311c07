"""docs/licences.md against the lock, and the lock against licences that this project could not be given out with."""

import re

from tests import licences


def test_page_of_licences_lists_what_the_packages_of_the_lock_say() -> None:
    assert licences.PAGE.read_text() == licences.page(), "make licences"


def test_no_package_of_a_node_wants_its_source_to_be_given_out_with_ours() -> None:
    rows = licences.listed()
    assert set(rows) == set(licences.pinned())
    assert [row for row in rows.items() if re.search(r"\bA?GPL|\bLGPL|SSPL|BUSL|Unknown|None", row[1])] == []
