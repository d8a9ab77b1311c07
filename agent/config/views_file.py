"""The views that a node's operator has named: in a file of their own (`MESH_VIEWS_FILE`), or in the servers file.

Called by the app at start and at each change of a file, and by `config check`. A view that cannot be used is left out
with its reasons, or stays as it was, and the rest is used. The one rule: nothing is left out without a word, with path,
line and field.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.config.relaxed_json import JsonPath, dotted, find_places, parse_relaxed, place_of
from agent.config.servers_file import read_text
from agent.config.view_entry import NAME, NAME_RULE, read_view
from agent.errors import ConfigRefused
from agent.model import ViewSpec

# Where the views stand in either file.
SECTION = "views"
# Each costs a client's endpoint once it is used; more than this is a mistake of a generator.
VIEWS_MAX = 256

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Views:
    """The views by name, and for each one that is left out its reasons, as sentences with path, line and field.

    `refused`: the reasons for which a whole file is not used.
    """

    views: Mapping[str, ViewSpec] = field(default_factory=dict)
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    refused: tuple[str, ...] = ()

    @property
    def faults(self) -> tuple[str, ...]:
        """All sentences."""
        return (*self.refused, *(reason for reasons in self.left_out.values() for reason in reasons))


def read_views(views_file: Path | None, servers_file: Path | None, before: Views | None = None) -> Views:
    """Read both files; a view in the views file beats one of the servers file. Never raises.

    `before`: what was read earlier. A view that cannot be used any more stays as it was, and so do all of a file that
    cannot be read.
    """
    found: dict[str, ViewSpec] = {}
    left_out: dict[str, tuple[str, ...]] = {}
    refused: list[str] = []
    is_unread = False
    # In the servers file the section may be missing, and what else is wrong there is said elsewhere.
    for path, is_servers_file in ((servers_file, True), (views_file, False)):
        if path is None:
            continue
        try:
            text = read_text(path, called="servers file" if is_servers_file else "views file")
            read = check_views(text, path, required=not is_servers_file)
        except ConfigRefused as exc:
            is_unread = True
            if not is_servers_file:
                refused.append(str(exc))
            continue
        found |= read.views
        left_out |= read.left_out
    known = {} if before is None else before.views
    kept = {name: view for name, view in known.items() if name not in found and (is_unread or name in left_out)}
    return Views({**kept, **found}, left_out, tuple(refused))


def log_faults(views: Views) -> None:
    """Say in the log what is not used, and whether it stays as it was."""
    for reason in views.refused:
        log.warning("views file refused, its views stay as they are", extra={"reason": reason})
    for name, reasons in views.left_out.items():
        extra = {"view": name, "reason": "; ".join(reasons), "stays": name in views.views}
        log.warning("views: an entry is left out", extra=extra)


def check_views(text: str, path: Path, *, required: bool) -> Views:
    """Read the views of a file's text. `required`: whether it has to have any. Raises `ConfigRefused`."""
    root, plain = parse_relaxed(text, path)
    lines, duplicates = find_places(plain)

    def sentence(at: JsonPath, fault: str) -> str:
        return f"{path}:{place_of(lines, at)}:" + (f" {dotted(at)}:" if at else "") + f" {fault}"

    section: Any = root.get(SECTION) if isinstance(root, dict) else None
    if section is None and not required:
        return Views()
    if not isinstance(section, dict):
        example = '{"views": {"team": {"servers": ["github"]}}}'
        raise ConfigRefused(sentence((), f"must be an object like {example}"))
    if len(section) > VIEWS_MAX:
        raise ConfigRefused(sentence((SECTION,), f"has {len(section)} views, at most {VIEWS_MAX} are allowed"))
    views: dict[str, ViewSpec] = {}
    left_out: dict[str, tuple[str, ...]] = {}
    for name, value in section.items():
        at = (SECTION, name)
        view, faults = read_view(value, at)
        reasons = [sentence(*fault) for fault in faults]
        if not NAME.fullmatch(name):
            reasons.append(sentence(at, NAME_RULE))
        reasons += [
            f"{path}:{twice.line}: {dotted(twice.path)}: stands here for the second time"
            for twice in duplicates
            if twice.path[:2] == at
        ]
        if reasons:
            left_out[name] = tuple(reasons)
        else:
            views[name] = view
    return Views(views, left_out)
