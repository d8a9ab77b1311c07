"""PURE: the `${...}` of a servers file, put in or refused with the reason.

Called by `server_entry` for every text of an entry. `${NAME}`, `${NAME:-default}` and, as VS Code, Cursor and Windsurf
write it, `${env:NAME}`. Bare `$NAME` is left alone, because arguments with a dollar are more common than people who
mean a variable by it. The one rule: a form that is not known is a fault, never text that a server gets as it stands.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

# A doubled dollar keeps the braces as they are.
_FORM = re.compile(r"\$\$\{|\$\{([^}]*)\}")
_OF_ENVIRONMENT = re.compile(r"(?:env:)?([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
_SHOWN_CHARS_MAX = 40
_OF_EDITORS = (
    ("input:", "is asked for by VS Code at each start"),
    ("workspaceFolder", "is the folder that an editor has open"),
    ("file:", "is the content of a file to Windsurf"),
    ("command:", "is the outcome of a command of VS Code"),
    ("config:", "is a setting of VS Code"),
)


@dataclass(frozen=True, slots=True)
class Expanded:
    """A text with its variables put in, and what is wrong with them, each as a sentence about the field."""

    text: str
    faults: tuple[str, ...] = ()


Expand: TypeAlias = Callable[[str], Expanded]


def from_environment(environ: Mapping[str, str], home: str) -> Expand:
    """Put variables in. An empty variable counts as unset; `${userHome}` is Cursor's and VS Code's word for `home`."""

    def expand(text: str) -> Expanded:
        faults: list[str] = []

        def replaced(match: re.Match[str]) -> str:
            body = match.group(1)
            if body is None:
                return "${"
            if body in _SAME_EVERYWHERE:
                return home if body == "userHome" else "/"
            if fault := form_fault(body):
                faults.append(fault)
                return match.group()
            name, default = _name_and_default(body)
            if given := environ.get(name):
                return given
            if default is None:
                faults.append(f"the environment variable {name} is not set; set it or write ${{{name}:-default}}")
            return match.group() if default is None else default

        return Expanded(_FORM.sub(replaced, text), tuple(faults))

    return expand


def kept(text: str) -> Expanded:
    """Leave variables in, for a file that another process will read; only forms that are not known are faults."""
    bodies = [match.group(1) for match in _FORM.finditer(text)]
    known = [body for body in bodies if body is not None and body not in _SAME_EVERYWHERE]
    return Expanded(text, tuple(fault for body in known if (fault := form_fault(body))))


def untouched(text: str) -> Expanded:
    """Leave everything as it is: a server that is switched off may name what belongs to another machine."""
    return Expanded(text)


def variables_in(text: str, *, with_default: bool = False) -> tuple[str, ...]:
    """Name the environment variables that `text` cannot do without, or with those that have a default."""
    bodies = [match.group(1) for match in _FORM.finditer(text)]
    named = [_name_and_default(body) for body in bodies if body and body not in _SAME_EVERYWHERE]
    return tuple(name for name, default in named if name and (with_default or default is None))


def form_fault(body: str) -> str:
    """Say why `${body}` cannot be put in; empty when it names an environment variable."""
    if "${" in body:
        return "has a variable within a variable; only ${NAME} and ${NAME:-default} are put in"
    shown = body.partition(":-")[0][:_SHOWN_CHARS_MAX]
    for start, meaning in _OF_EDITORS:
        if body.startswith(start):
            return f"${{{shown}}} {meaning}; a node has none: write the value, or ${{NAME}} for an environment variable"
    if _OF_ENVIRONMENT.fullmatch(body):
        return ""
    return f"${{{shown}}} is not known; a node puts in ${{NAME}} and ${{env:NAME}}, and $${{...}} keeps the braces"


_SAME_EVERYWHERE = frozenset({"userHome", "pathSeparator", "/"})


def _name_and_default(body: str) -> tuple[str, str | None]:
    found = _OF_ENVIRONMENT.fullmatch(body)
    return (found.group(1), found.group(2)) if found else ("", None)
