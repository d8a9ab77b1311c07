"""A file of ours is read whole and of the right shape, or refused without a word of what it holds."""

from pathlib import Path

import pytest

from agent.state.saved_file import Refused, Unusable, read_saved
from agent.state.saved_shape import object_of, text

SHAPE = object_of({"a": text})


def test_a_file_is_read_and_a_missing_one_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "saved.json"
    assert read_saved(path, SHAPE, 100) is None
    path.write_text('{"a": "b"}')
    assert read_saved(path, SHAPE, 100) == {"a": "b"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"a": "canary"', "damaged at line 1, column"),
        ('{"canary": 1}', "it is damaged"),
        ('{"a": "' + "canary" * 50 + '"}', "damaged at line"),
        ('{"a": "\\ud800canary"}', "damaged at line"),
        ('{"a": ' + "[" * 2_000 + "]" * 2_000 + "}", "damaged at line"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place_and_none_of_its_words(
    content: str, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "saved.json"
    path.write_text(content)
    with pytest.raises(Unusable, match=reason) as refused:
        read_saved(path, SHAPE, 250)
    assert "canary" not in str(refused.value)


def test_what_the_system_refuses_is_refused_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="it is a folder") as refused:
        read_saved(tmp_path, SHAPE, 100)
    assert isinstance(refused.value.failure, IsADirectoryError)
