"""`tests/unit` mirrors the tree, so that the tests of a module lie where its name says.

The one rule: a folder of tests is a room of `agent/` or of `discovery/`, and the name of a test file begins with
`test_` and a module of that room; only `project`, the tests of the project itself, has no room.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
UNIT = Path("tests/unit")
WITHOUT_ROOM = "project"


def misplaced(path: Path, root: Path = ROOT) -> Iterator[str]:
    """What is wrong with the place of a test file; `path` from the root."""
    folder = path.parent.relative_to(UNIT)
    if folder.parts[:1] == (WITHOUT_ROOM,):
        return
    room = folder if folder.parts[:1] == ("discovery",) else "agent" / folder
    if not (root / room).is_dir():
        yield f"{path}: there is no {room}"
        return
    subject = path.stem.removeprefix("test_")
    names = {one.stem for one in (root / room).iterdir() if one.suffix == ".py" or (one / "__init__.py").is_file()}
    if not any(subject == name or subject.startswith(f"{name}_") for name in names):
        yield f"{path}: no module of {room} begins its name"


def test_every_unit_test_lies_where_its_module_does() -> None:
    files = [path.relative_to(ROOT) for path in sorted((ROOT / UNIT).rglob("test_*.py"))]
    assert files
    complaints = [text for path in files for text in misplaced(path)]
    assert not complaints, "\n".join(["", *complaints])


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("nowhere/test_a.py", "there is no agent/nowhere"),
        ("links/test_relisting.py", "no module of agent/links begins its name"),
        ("discovery/test_watch.py", "no module of discovery begins its name"),
    ],
)
def test_a_misplaced_unit_test_is_found(path: str, complaint: str) -> None:
    assert list(misplaced(UNIT / path)) == [f"{UNIT / path}: {complaint}"]
