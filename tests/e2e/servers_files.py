"""Servers files of nodes that tests start: entries of the example servers, and files that are replaced whole."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from tests.e2e.processes import ROOT


def example(name: str, scope: str | None = None) -> dict[str, Any]:
    """The servers-file entry of one of the example servers, over stdio."""
    entry: dict[str, Any] = {"command": sys.executable, "args": ["-m", f"agent.examples.{name}"], "cwd": str(ROOT)}
    return entry if scope is None else {**entry, "mesh": {"scope": scope}}


def write_servers(folder: Path, servers: Mapping[str, Any]) -> Path:
    """Write a servers file into `folder`, replacing the one that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    return replace_file(folder / "servers.json", orjson.dumps({"mcpServers": servers}, option=orjson.OPT_INDENT_2))


def replace_file(path: Path, content: bytes) -> Path:
    """Write a file as careful programs do: whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content)
    return partial.replace(path)
