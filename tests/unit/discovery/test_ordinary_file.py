"""What is no ordinary file is refused with its kind and the fix, and is neither waited for nor opened."""

import os
import socket
from pathlib import Path

import pytest

from discovery.ordinary_file import open_saved, open_to_read, open_unlinked


@pytest.mark.parametrize(
    ("kind", "called"),
    [
        ("pipe", "it is a pipe"),
        ("folder", "it is a folder"),
        ("device", "it is a device"),
        ("socket", "it is a socket"),
    ],
)
def test_what_is_no_ordinary_file_is_refused_and_not_waited_for(tmp_path: Path, kind: str, called: str) -> None:
    path = tmp_path / "node.json"
    with socket.socket(socket.AF_UNIX) as listening:
        match kind:
            case "pipe":
                os.mkfifo(path)
            case "folder":
                path.mkdir()
            case "socket":
                listening.bind(os.path.relpath(path))  # A short name; the whole one may be too long for a socket.
            case _:
                path.symlink_to("/dev/zero")
        with pytest.raises(OSError, match=called):
            open_to_read(path)


def test_a_pipe_that_is_written_to_keeps_what_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.write(descriptor, b"kept")
        with pytest.raises(OSError, match="a pipe"):
            open_to_read(path)
        assert os.read(descriptor, 10) == b"kept"
    finally:
        os.close(descriptor)


def test_a_file_of_gigabytes_is_refused_by_its_size_alone(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="it is larger than 4096 bytes"):
        open_to_read(path, 4096)


def test_a_file_is_read_through_links_and_the_null_device_is_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("x")
    (tmp_path / "current").symlink_to("token")
    with open_to_read(tmp_path / "current", 1) as file:
        assert file.read() == b"x"
    with open_to_read(os.devnull, 1) as file:
        assert file.read() == b""
    with pytest.raises(FileNotFoundError):
        open_to_read(tmp_path / "missing")


_READERS = ("agent/config", "agent/state", "discovery")


def test_no_file_that_an_operator_names_is_read_without_looking_what_it_is() -> None:
    """A pipe in the place of any would hold up the node for ever."""
    root = Path(__file__).parents[3]
    texts = {path: path.read_text("utf-8") for room in _READERS for path in (root / room).rglob("*.py")}
    bare = ('.open("rb")', ".read_bytes()", ".read_text(")
    assert [str(path) for path, text in texts.items() if any(word in text for word in bare)] == []


def test_a_link_that_leads_nowhere_is_no_missing_file_where_a_node_keeps_its_own(tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    with pytest.raises(FileNotFoundError):
        open_saved(path)
    path.symlink_to("elsewhere.json")
    with pytest.raises(OSError, match="it is a link to a file that is not there; put that file back") as refused:
        open_saved(path)
    assert not isinstance(refused.value, FileNotFoundError)
    (tmp_path / "elsewhere.json").write_text("x")
    with open_saved(path) as file:
        assert file.read() == b"x"


def test_a_link_in_the_place_of_a_file_to_write_is_named_as_one_with_the_fix(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.symlink_to("elsewhere")
    with pytest.raises(OSError, match="lock is a link, and none is followed here; put an ordinary file in its place"):
        open_unlinked(path, os.O_RDWR | os.O_CREAT, 0o600)
    assert not (tmp_path / "elsewhere").exists()
