"""PURE: one view of the views file, or of the `views` section of the servers file, read into a `ViewSpec`.

Called by `agent.config.views_file`. The one rule: a view is used as a whole or not at all, and every fault of it is
collected with the path of its field.
"""

import re
from typing import Any, Final

from agent.config.relaxed_json import JsonPath
from agent.model import Json, ViewSpec

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
NAME_RULE: Final = "a name starts with a letter or digit and has at most 63 letters, digits, '.', '_' or '-'"
TAG: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
TAG_RULE: Final = "at most 64 letters, digits, '.', '_' or '-'"
TAGS_MAX: Final = 32
# A glob of names: what names have, and what globs have.
GLOB: Final = re.compile(r"[A-Za-z0-9._*?\[\]-]{1,128}")
# More are no selection any more, and each is tried on every name.
PATTERNS_MAX: Final = 500
# What clients take as the name of a tool (docs/architecture.md, "Names").
_TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
# The tools that every view has where its client asks for search mode (docs/views.md).
_TAKEN: Final = frozenset({"search_tools", "describe_tool", "call_tool"})
_TEXT_LEN_MAX: Final = 8_192
_FIELDS: Final = ("servers", "tags", "tools", "aliases", "descriptions", "title", "description")


def read_view(value: Any, at: JsonPath) -> tuple[ViewSpec, tuple[tuple[JsonPath, str], ...]]:
    """The view and its faults, as path and sentence; with faults it is not to be used. `at`: its place in the file."""
    if not isinstance(value, dict):
        return ViewSpec(), ((at, "must be an object"),)
    reader = _Reader(value, at)
    view = reader.view()
    return view, tuple(reader.faults)


class _Reader:
    def __init__(self, value: Json, at: JsonPath) -> None:
        self.at = at
        self.value = value
        self.faults: list[tuple[JsonPath, str]] = []

    def fault(self, *path: str | int, text: str) -> None:
        self.faults.append(((*self.at, *path), text))

    def view(self) -> ViewSpec:
        for name in self.value:
            if name not in _FIELDS:
                self.fault(name, text=f"is not known; a view has {', '.join(_FIELDS)}")
        if not any(self.value.get(name) for name in ("servers", "tags", "tools")):
            self.fault(text="selects nothing: it needs servers, tags or tools")
        aliases = self.texts_by_name("aliases")
        for name, alias in aliases.items():
            if not _TOOL_NAME.fullmatch(alias):
                self.fault("aliases", name, text="must have at most 64 letters, digits, '_' or '-'")
            elif alias in _TAKEN:
                self.fault("aliases", name, text=f"{alias!r} is a tool of search mode")
            elif list(aliases.values()).count(alias) > 1:
                self.fault("aliases", name, text=f"{alias!r} is the alias of another tool, too")
        return ViewSpec(
            servers=self.patterns("servers", GLOB, "a name of a server, in which * and ? may stand"),
            tags=self.patterns("tags", TAG, TAG_RULE),
            tools=self.patterns("tools", GLOB, "a name of tools, in which * and ? may stand", negated=True),
            aliases=aliases,
            descriptions=self.texts_by_name("descriptions"),
            title=self.text("title"),
            description=self.text("description"),
        )

    def patterns(self, name: str, form: re.Pattern[str], rule: str, *, negated: bool = False) -> tuple[str, ...]:
        value = self.value.get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or len(value) > PATTERNS_MAX:
            self.fault(name, text=f"must be an array of at most {PATTERNS_MAX} texts")
            return ()
        for number, text in enumerate(value):
            bare = text.removeprefix("!") if negated and isinstance(text, str) else text
            if not isinstance(bare, str) or not form.fullmatch(bare):
                self.fault(name, number, text=f"must be text, {rule}")
        return tuple(text for text in value if isinstance(text, str))

    def texts_by_name(self, name: str) -> dict[str, str]:
        value = self.value.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict) or len(value) > PATTERNS_MAX:
            self.fault(name, text=f"must be an object of at most {PATTERNS_MAX} texts, by the names of tools")
            return {}
        for key, text in value.items():
            if not isinstance(text, str) or not 0 < len(text) <= _TEXT_LEN_MAX:
                self.fault(name, key, text=f"must be text of at most {_TEXT_LEN_MAX} characters")
        return {key: text for key, text in value.items() if isinstance(text, str)}

    def text(self, name: str) -> str:
        value = self.value.get(name, "")
        if not isinstance(value, str) or len(value) > _TEXT_LEN_MAX:
            self.fault(name, text=f"must be text of at most {_TEXT_LEN_MAX} characters")
            return ""
        return value
