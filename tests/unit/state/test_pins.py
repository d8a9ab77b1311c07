"""The file of pins: what was saved comes back, and a damaged one is never written over."""

import logging
from pathlib import Path

import pytest

from agent.errors import ConfigRefused
from agent.pins.book import Key, Pin
from agent.routing.table import RouteKind
from agent.state.pins import FILE_NAME, load_pins, save_pins
from agent.state.saved_file import Refused

PINS = {
    Key("kit", RouteKind.TOOL, "save"): Pin(
        '{"name":"save","description":"ä"}'.encode(), "2026-11-29T07:00:00Z", "ada"
    ),
    Key("kit", RouteKind.PROMPT, "save"): Pin(b'{"name":"save"}', "2026-11-29T07:00:00Z", "first sight"),
}


@pytest.mark.parametrize("strict", [True, False])
def test_what_was_saved_comes_back_and_no_file_is_no_pins(strict: bool, tmp_path: Path) -> None:
    assert load_pins(tmp_path, strict=strict) == {}
    save_pins(tmp_path, PINS)
    assert load_pins(tmp_path, strict=strict) == PINS


@pytest.mark.parametrize("strict", [True, False])
def test_a_file_that_the_system_refuses_to_read_is_not_moved_and_refuses_the_start_where_pins_block(
    strict: bool, tmp_path: Path
) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(ConfigRefused if strict else Refused, match="it is a folder"):
        load_pins(tmp_path, strict=strict)
    assert (tmp_path / FILE_NAME).is_dir()


@pytest.mark.parametrize("content", ["{", '{"schema":2,"pins":[]}', '{"schema":1,"pins":[{"source":"kit"}]}'])
def test_a_damaged_file_is_refused_where_pins_block_and_put_aside_elsewhere(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / FILE_NAME
    path.write_text(content)
    with pytest.raises(ConfigRefused, match="pinned definitions cannot be read"):
        load_pins(tmp_path, strict=True)
    assert path.read_text() == content
    with caplog.at_level(logging.WARNING):
        assert load_pins(tmp_path, strict=False) == {}
    assert "put aside" in caplog.text
    assert not path.exists()
    assert path.with_name(f"{FILE_NAME}.unreadable").read_text() == content
