"""Where the text of each setting comes from: flag over environment over file over default, with its origin.

Called by `agent.config.load`, and by commands that need one setting. The one rule: a value and its file twin are one
thing, so the winner hides the other in all layers below.
"""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.config.table import BY_NAME, CLIENT_VARIABLES, FILE_TWINS, SETTINGS, Setting
from agent.config.values import parse_path
from agent.errors import ConfigRefused
from discovery.ordinary_file import open_to_read

_FILE_BYTES_MAX = 256 * 1024


@dataclass(frozen=True, slots=True)
class Found:
    """The text of one setting and where it was found. `explicit` is False for a default."""

    name: str
    text: str | None
    origin: str
    explicit: bool


def find_values(flags: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, Found]:
    """Find every setting of the table. Raises `ConfigRefused` for a bad file or for a value beside its file twin."""
    layers = [
        {
            name: Found(name, text, f"flag {BY_NAME[name].flag or name}", explicit=True)
            for name, text in flags.items()
            if text.strip()
        },
        {
            setting.name: Found(setting.name, text, f"environment {setting.env}", explicit=True)
            for setting in SETTINGS
            if (text := environ.get(setting.env, "").strip())
        },
    ]
    config = next((layer["config_file"] for layer in layers if "config_file" in layer), None)
    if config is not None and config.text is not None:
        try:
            path = parse_path(config.text)
        except ValueError as exc:
            raise ConfigRefused(f"config_file ({config.origin}) is {config.text!r}: it {exc}") from None
        layers.append(_read_file(path, config.origin))
    return _merged(layers)


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Name each `MESH_…` variable that nothing reads, with the nearest one that something does."""
    known = [*CLIENT_VARIABLES, *(setting.env for setting in SETTINGS)]
    return [
        f"environment variable {name} is not known{_nearest(name, known)}"
        for name in sorted(environ)
        if name.startswith("MESH_") and environ[name] and name not in known
    ]


def _merged(layers: list[dict[str, Found]]) -> dict[str, Found]:
    """Let the first layer win; a value and its file twin are one thing, so the winner hides the other below it."""
    merged: dict[str, Found] = {}
    for layer in layers:
        taken = set(merged)
        for name, twin in FILE_TWINS.items():
            if name in layer and twin in layer:
                raise ConfigRefused(
                    f"{name} ({layer[name].origin}) and {twin} ({layer[twin].origin}) are both set; remove one of them"
                )
            if name in taken or twin in taken:
                taken |= {name, twin}
        merged |= {name: found for name, found in layer.items() if name not in taken}
    return {
        setting.name: merged.get(setting.name, Found(setting.name, setting.default, "default", explicit=False))
        for setting in SETTINGS
    }


def _read_file(path: Path, origin: str) -> dict[str, Found]:
    try:
        with open_to_read(path) as file:
            raw = file.read(_FILE_BYTES_MAX + 1)
    except OSError as exc:
        raise ConfigRefused(f"config_file ({origin}): {path} cannot be read: {exc.strerror}") from exc
    if len(raw) > _FILE_BYTES_MAX:
        raise ConfigRefused(f"config_file ({origin}): {path} is larger than {_FILE_BYTES_MAX} bytes")
    try:
        table = tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ConfigRefused(f"config_file ({origin}): {path} is not TOML: {exc}") from exc
    found = {}
    for name, value in table.items():
        setting = BY_NAME.get(name)
        if setting is None or name == "config_file":
            # Refused, unlike an unknown variable: the file is ours alone, and a misspelt `token` would open the node.
            raise ConfigRefused(f"{path}: {name} is not a setting{_nearest(name, BY_NAME)}")
        text = _as_text(setting, value, path)
        if text:
            found[name] = Found(name, text, f"file {path}", explicit=True)
    return found


def _as_text(setting: Setting, value: Any, path: Path) -> str:
    """Write a TOML value the way a variable has it, so that one parser judges both."""
    match value:
        case bool():
            return "1" if value else "0"
        case str() | int() | float():
            return str(value).strip()
        case list() if all(isinstance(part, str) for part in value):
            return ",".join(value)
        case dict() if all(isinstance(part, str) for part in value.values()):
            return ",".join(f"{key}={part}" for key, part in value.items())
        case _:
            raise ConfigRefused(f"{path}: {setting.name} must be text, a number, true or false, or a list of texts")


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""
