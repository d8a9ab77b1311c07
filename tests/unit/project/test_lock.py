"""The locks: complete, hashed, free of addresses, and in step with pyproject.toml.

Reads requirements.txt (the node) and requirements-dev.txt (the node and its tests), both made by `make lock`. The one
rule: what pyproject.toml allows is pinned in the lock, and the same in both.
"""

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
RUNTIME, DEV = "requirements.txt", "requirements-dev.txt"
INTERPRETERS = ("3.11", "3.12", "3.13", "3.14")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Floors below which a known hole is open (docs name the CVEs): never let a lock go under them.
FLOORS = ("aiohttp>=3.13.4", "starlette>=1.0.1", "fastmcp>=3.2.0")


@dataclass(frozen=True)
class Pin:
    """One entry of a lock."""

    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        (only,) = self.requirement.specifier
        return only.version


def read_lock(text: str) -> dict[str, Pin]:
    """Pins by canonical name. Anything that is not a pin with hashes is refused."""
    pins: dict[str, Pin] = {}
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for entry in "\n".join(lines).replace("\\\n", " ").splitlines():
        head, *hashes = re.split(r"\s+--hash=", entry.strip())
        pin = Pin(Requirement(head), tuple(hashes))
        assert [spec.operator for spec in pin.requirement.specifier] == ["=="], f"not pinned: {head}"
        assert pin.name not in pins, f"twice: {head}"
        pins[pin.name] = pin
    return pins


def linux(python: str) -> dict[str, str]:
    """The environment of markers for CPython on Linux."""
    return {
        **default_environment(),
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }


@pytest.fixture(scope="module", params=[RUNTIME, DEV])
def lock(request: pytest.FixtureRequest) -> dict[str, Pin]:
    return read_lock((ROOT / request.param).read_text())


def test_every_pin_has_sha256_hashes(lock: dict[str, Pin]) -> None:
    assert not [pin.name for pin in lock.values() if not pin.hashes]
    assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for pin in lock.values() for digest in pin.hashes)


def test_compiled_packages_carry_the_hashes_of_many_platforms(lock: dict[str, Pin]) -> None:
    """A lock made beside a folder of local wheels would know only this machine's file."""
    assert {
        name: len(lock[name].hashes) for name in ("aiohttp", "orjson", "pydantic-core") if len(lock[name].hashes) < 40
    } == {}


def test_lock_has_no_options_and_no_addresses(lock: dict[str, Pin]) -> None:
    assert lock
    for name in (RUNTIME, DEV):
        text = (ROOT / name).read_text()
        assert not [line for line in text.splitlines() if re.match(r"\s*-(?!-hash=)", line)]
        assert "://" not in text


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (RUNTIME, PROJECT["project"]["dependencies"] + PROJECT["build-system"]["requires"]),
        (DEV, PROJECT["project"]["dependencies"] + PROJECT["build-system"]["requires"]),
        (DEV, PROJECT["project"]["optional-dependencies"]["dev"]),
        (RUNTIME, list(FLOORS)),
    ],
)
def test_everything_that_pyproject_asks_for_is_pinned_within_its_range(name: str, wanted: list[str]) -> None:
    pins = read_lock((ROOT / name).read_text())
    for text in wanted:
        requirement = Requirement(text)
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin, f"{text} is not in {name}; run `make lock`"
        assert requirement.specifier.contains(pin.version), f"{text} against {pin.version} in {name}; run `make lock`"


def test_both_locks_pin_the_same_versions() -> None:
    runtime, dev = (read_lock((ROOT / name).read_text()) for name in (RUNTIME, DEV))
    assert {name: pin.version for name, pin in runtime.items()} == {
        name: pin.version for name, pin in dev.items() if name in runtime
    }


def _wanted(metadata: Iterable[str], extras: Iterable[str], environment: dict[str, str]) -> list[Requirement]:
    """What a package wants, with these extras of its own, in one environment."""
    contexts = [{**environment, "extra": extra} for extra in ("", *extras)]
    wanted = [Requirement(text) for text in metadata]
    return [one for one in wanted if not one.marker or any(one.marker.evaluate(context) for context in contexts)]


@pytest.mark.parametrize("name", [RUNTIME, DEV])
@pytest.mark.parametrize("python", INTERPRETERS)
def test_lock_holds_all_that_its_packages_want_with_their_extras(name: str, python: str) -> None:
    """`pip check` knows nothing of extras, and pip resolves nothing here; metadata of what is installed tells."""
    environment = linux(python)
    pins = read_lock((ROOT / name).read_text())
    extra_texts = PROJECT["project"]["optional-dependencies"]["dev"] if name == DEV else []
    to_read, seen = [Requirement(text) for text in PROJECT["project"]["dependencies"] + extra_texts], set()
    while to_read:
        requirement = to_read.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        pin = pins.get(key[0])
        assert pin, f"{requirement} is wanted and not in {name}; run `make lock`"
        assert requirement.specifier.contains(pin.version, prereleases=True), f"{requirement} against {pin.version}"
        assert pin.requirement.marker is None or pin.requirement.marker.evaluate(environment), f"{pin} on {python}"
        if key not in seen and (installed := _metadata(key[0])) is not None:
            to_read += _wanted(installed, requirement.extras, environment)
        seen.add(key)
    assert any(extras for _, extras in seen), "no package is wanted with an extra: the test tests nothing"


def _metadata(name: str) -> list[str] | None:
    """What an installed package wants; None for one that only another interpreter or system has."""
    try:
        return requires(name) or []
    except PackageNotFoundError:
        return None


@pytest.mark.parametrize("python", INTERPRETERS)
def test_packages_of_the_node_are_installed_on_every_interpreter(python: str) -> None:
    environment = linux(python)
    pins = read_lock((ROOT / RUNTIME).read_text())
    for text in PROJECT["project"]["dependencies"]:
        marker = pins[canonicalize_name(Requirement(text).name)].requirement.marker
        assert marker is None or marker.evaluate(environment)


@pytest.mark.parametrize("text", ["aiohttp", "aiohttp>=3", "aiohttp==1 --hash=sha256:0\naiohttp==1 --hash=sha256:0"])
def test_entry_that_is_no_single_pin_is_refused(text: str) -> None:
    with pytest.raises(AssertionError):
        read_lock(text)
