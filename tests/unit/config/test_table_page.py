"""docs/settings.md says of each setting what the code says; a difference shows the row to paste."""

from pathlib import Path

import pytest

from agent.config.table import SETTINGS, Setting

PAGE = Path(__file__).parents[3] / "docs/settings.md"


def row_of(setting: Setting) -> str:
    default = setting.unset_means if setting.default is None else f"`{setting.default}`" if setting.default else "none"
    flag = f"`{setting.flag}`" if setting.flag else "none, it is a secret"
    return f"| `{setting.env}` | {flag} | `{setting.name}` | {default} | {setting.about} |"


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_page_of_settings_has_the_row_of(setting: Setting) -> None:
    assert row_of(setting) in PAGE.read_text().splitlines()


def test_page_of_settings_keeps_the_order_of_the_table() -> None:
    lines = PAGE.read_text().splitlines()
    places = [lines.index(row_of(setting)) for setting in SETTINGS]
    assert places == sorted(places)


def test_no_two_settings_share_a_name_a_variable_or_a_flag() -> None:
    for names in (
        [setting.name for setting in SETTINGS],
        [setting.env for setting in SETTINGS],
        [setting.flag for setting in SETTINGS if setting.flag],
    ):
        assert len(set(names)) == len(names)
