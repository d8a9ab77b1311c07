"""The list of mistakes is about the code as it is, and about tests that exist; docs/reliability.md counts it."""

import re

import pytest

from tests.simulation.mistakes import MISTAKES, ROOT

PAGE = re.sub(r"\s+", " ", (ROOT / "docs/reliability.md").read_text())
HELD = {name: mistake for name, mistake in MISTAKES.items() if mistake.held_by}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_can_be_made_in_one_place_of_the_code(name: str) -> None:
    mistake = MISTAKES[name]
    compile(mistake.made(), mistake.file, "exec", dont_inherit=True)


@pytest.mark.parametrize("name", HELD)
def test_mistake_that_no_run_notices_is_held_by_a_test_that_exists(name: str) -> None:
    mistake = HELD[name]
    assert (ROOT / mistake.held_by.split(" ")[0]).is_file()
    assert mistake.why


def test_page_has_the_number_of_mistakes() -> None:
    assert f"{len(MISTAKES)} mistakes" in PAGE
    assert f"All but {len(HELD)} are noticed" in PAGE
