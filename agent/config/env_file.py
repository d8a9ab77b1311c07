"""PURE: the `envFile` of VS Code and Cursor: `NAME=value` lines, as shells and Docker read them.

Called by `server_entry`. The one rule: a line that is no assignment is a fault with its number, and no value is
repeated.
"""

import re

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_.-]*)\s*=\s*(.*)")
_QUOTED = re.compile(r"""(?:'([^']*)'|"((?:[^"\\]|\\.)*)")\s*(?:#.*)?""")
_COMMENT = re.compile(r"(?:^|\s)#.*")
_ESCAPES = {r"\n": "\n", r"\r": "\r", r"\t": "\t", r"\"": '"', r"\\": "\\"}
_ESCAPE = re.compile(r'\\[nrt"\\]')


def parse_env_file(text: str) -> tuple[dict[str, str], tuple[int, ...]]:
    """Return the variables, the last one of a name counts, and the numbers (from 1) of lines that cannot be used."""
    values: dict[str, str] = {}
    bad: list[int] = []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        bare = line.strip()
        if not bare or bare.startswith("#"):
            continue
        found = _LINE.fullmatch(bare)
        if found is None or "\0" in bare:
            bad.append(number)
            continue
        values[found.group(1)] = _value(found.group(2))
    return values, tuple(bad)


def _value(text: str) -> str:
    quoted = _QUOTED.fullmatch(text)
    if quoted is None:
        return _COMMENT.sub("", text).strip()
    literal, escaped = quoted.groups()
    return literal if escaped is None else _ESCAPE.sub(lambda match: _ESCAPES[match.group()], escaped)
