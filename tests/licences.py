"""The licences of what a node is made of, as the packages of its lock say: `python -m tests.licences` lists them.

Writes docs/licences.md, which a test holds to the lock. The one rule: a package says its licence itself; where it is
for another system than this one, its row is kept as it is.
"""

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/licences.md"
PIN = re.compile(r"^([A-Za-z0-9._-]+)==", re.MULTILINE)
ROW = re.compile(r"^\| ([a-z0-9._-]+) \| (.+) \|$", re.MULTILINE)
HEAD = """# Licences

What a node is made of, package by package of [requirements.txt](../requirements.txt), and the licence that each one
names. `make licences` writes this page, `make sbom` a bill of materials (CycloneDX, `build/sbom.cdx.json`) with
versions and hashes.
This software itself is under the [Apache License 2.0](../LICENSE).

| package | licence |
|---|---|
"""
# Words for one licence: of classifiers and of free text.
SAME = {
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
}


def pinned() -> list[str]:
    """The names of all packages of the node's lock."""
    return PIN.findall((ROOT / "requirements.txt").read_text())


def listed() -> dict[str, str]:
    """The rows of the page."""
    rows = PAGE.read_text().partition("|---|---|")[2] if PAGE.exists() else ""
    return dict(ROW.findall(rows))


def licence_of(package: str) -> str | None:
    """What an installed package says; None for one that is not installed here."""
    try:
        about = metadata(package)
    except PackageNotFoundError:
        return None
    classifiers = [
        line.rpartition(" :: ")[2] for line in about.get_all("Classifier") or () if line.startswith("License")
    ]
    said = about.get("License-Expression") or about.get("License") or " and ".join(classifiers)
    return SAME.get(said, said)


def page() -> str:
    """The page as it should be. Raises `KeyError` for a package that is neither installed nor listed."""
    before = listed()
    rows = ((package, licence_of(package) or before[package]) for package in pinned())
    return HEAD + "".join(f"| {package} | {licence} |\n" for package, licence in rows)


if __name__ == "__main__":
    PAGE.write_text(page())
