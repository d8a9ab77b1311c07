"""The time-out of a server's start, where its entry in the servers file does not say.

Called where entries are read and written. The one rule: a command that may download the server first gets the time for
that on a slow line, everything else gets `agent.model.START_TIMEOUT_S`.
"""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Final

from agent.model import START_TIMEOUT_S, HttpTarget, StdioTarget

# A cold npx takes over a minute on a slow line, and uvx may fetch a Python first.
DOWNLOAD_TIMEOUT_S: Final = 300.0
# More is likely milliseconds in place of seconds. A reload waits that long.
START_TIMEOUT_MAX_S: Final = 600.0

# Programs that always download what they run, and those that do so with these first words after options.
_DOWNLOADERS: Final = frozenset({"npx", "uvx", "bunx", "pnpx"})
_DOWNLOADING_WORDS: Final = {
    "npm": (("exec",), ("x",)),
    "pnpm": (("dlx",),),
    "yarn": (("dlx",),),
    "bun": (("x",),),
    "uv": (("tool", "run"), ("x",)),
    "pipx": (("run",),),
}
_EXTENSIONS: Final = (".exe", ".cmd", ".bat", ".ps1")


def default_start_timeout_s(target: StdioTarget | HttpTarget) -> float:
    """Return the limit in seconds for a server at `target`."""
    return DOWNLOAD_TIMEOUT_S if isinstance(target, StdioTarget) and _downloads(target) else START_TIMEOUT_S


def _downloads(target: StdioTarget) -> bool:
    words = [target.command, *target.args]
    if _program(words[0]) == "env":  # `env NAME=value npx ...`, the usual way to give one command a variable.
        words = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
    return bool(words) and _fetches(_program(words[0]), words[1:])


def _fetches(program: str, args: Sequence[str]) -> bool:
    if program in _DOWNLOADERS:
        return True
    words = tuple(arg for arg in args if not arg.startswith("-"))
    return any(words[: len(verb)] == verb for verb in _DOWNLOADING_WORDS.get(program, ()))


def _program(command: str) -> str:
    """The name of a program without its folder, in either system's spelling, and without its extension."""
    name = PurePath(command.replace("\\", "/")).name.lower()
    return next((name.removesuffix(extension) for extension in _EXTENSIONS if name.endswith(extension)), name)
