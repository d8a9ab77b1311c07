"""Finding a real program: what is read from apt's configuration, and what happens where there is none."""

import os
from pathlib import Path

import pytest

from tests.consul_binary import consul_binary
from tests.debian_binary import (
    FAKETIME,
    PROJECT,
    AptSource,
    apt_sources,
    cache_folder,
    debian_binary,
    entries_for,
    why_not,
)

SOURCES = """\
Types: deb deb-src
# a comment
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/archive.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no
"""
LIST = """\
# deb http://commented.example/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://other.example/debian bookworm main # trailing
deb-src http://source.example/debian bookworm main
deb cdrom:[Debian]/ bookworm main
"""


@pytest.fixture
def apt_folder(tmp_path: Path) -> Path:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (parts / "debian.sources").write_text(SOURCES)
    (tmp_path / "sources.list").write_text(LIST)
    return tmp_path


def test_both_formats_of_apts_configuration_are_read(apt_folder: Path) -> None:
    sources = apt_sources(apt_folder)
    assert (
        AptSource("http://other.example/debian", ("bookworm",), ("main",), ("arch=amd64", "signed-by=/k.gpg"))
        in sources
    )
    assert (
        AptSource(
            "http://mirror.example/debian",
            ("bookworm", "bookworm-updates"),
            ("main", "contrib"),
            ("signed-by=/usr/share/keyrings/archive.gpg",),
        )
        in sources
    )
    assert not [source for source in sources if "off.example" in source.uri or "commented" in source.uri]


def test_an_older_suite_is_asked_of_the_mirrors_of_this_one(apt_folder: Path) -> None:
    assert entries_for(apt_sources(apt_folder), "bookworm", "bullseye") == [
        "deb [arch=amd64 signed-by=/k.gpg] http://other.example/debian bullseye main",
        "deb [signed-by=/usr/share/keyrings/archive.gpg] http://mirror.example/debian bullseye main contrib",
    ]
    assert entries_for(apt_sources(apt_folder), "trixie", "bookworm") == []


def test_a_binary_that_is_named_and_does_not_run_is_no_binary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "consul"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("CONSUL_BIN", str(fake))
    assert consul_binary() is None
    assert "CONSUL_BIN" in why_not()


def test_a_binary_in_the_cache_is_found_without_fetching(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CONSUL_BIN", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", os.pathsep.join(part for part in ("/bin",) if not (Path(part) / "consul").exists()))
    assert consul_binary(fetch=False) is None
    assert "cache" in why_not()
    cached = tmp_path / "mcp-mesh-agent" / "consul"
    cached.parent.mkdir()
    cached.write_text("#!/bin/sh\nexit 0\n")
    cached.chmod(0o755)
    assert consul_binary(fetch=False) == cached


def test_downloads_are_kept_beside_the_code_where_the_user_can_keep_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not-yet" / "made"))
    assert cache_folder() == tmp_path / "not-yet" / "made" / PROJECT
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "below"))
    assert cache_folder() == Path(__file__).parents[3] / ".cache" / PROJECT


def test_a_library_that_cannot_be_loaded_here_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "library").write_text("no library")
    monkeypatch.setenv(FAKETIME.variable, str(tmp_path / "library"))
    assert debian_binary(FAKETIME, fetch=False) is None
    assert FAKETIME.variable in why_not()
