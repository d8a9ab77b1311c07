"""argparse as this command line wants it: arguments made when they are read, nearest names, failures as exceptions.

Used by `agent.cli.commands`. The one rule: it prints nothing but help; a usage error is raised for `main` to say.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, TypeAlias

from agent.cli.output import CliFailed, Exit, columns, did_you_mean

# Of the group of arguments that are settings of a node.
SETTINGS_TITLE: Final = "settings"
_NO_COMMAND = "required: COMMAND"  # argparse's own words


class UsageFailed(CliFailed):
    """The command line cannot be read. `usage`: what to show a person before the message; `prog`: whose usage."""

    def __init__(self, message: str, usage: str, prog: str) -> None:
        super().__init__(Exit.USAGE, message)
        self.usage = usage
        self.prog = prog


class _Help(argparse.HelpFormatter):
    """argparse makes one for each argument; without a width it imports compressors to find that out."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=columns() - 2)

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any = None) -> None:
        """As argparse's, with one word in the place of fifty settings, which the help lists below."""
        told = [one for one in actions if getattr(getattr(one, "container", None), "title", "") != SETTINGS_TITLE]
        if len(told) < len(actions):
            told.append(argparse.Action(["--SETTING"], "setting", metavar="VALUE"))
        super().add_usage(usage, told, groups, prefix)


class Parser(argparse.ArgumentParser):
    """See the module. `arguments`: each adds some of a command's arguments, once that command is the one to read."""

    def __init__(self, prog: str | None = None, *, arguments: Sequence["Arguments"] = (), **options: Any) -> None:
        super().__init__(prog, allow_abbrev=False, formatter_class=_Help, **options)
        self._put_off = arguments

    def complete(self) -> None:
        """Add the arguments that were put off."""
        put_off, self._put_off = self._put_off, ()
        for add in put_off:
            add(self)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, which calls it for a subcommand too; its own command refuses a flag that is none."""
        self.complete()
        parsed, rest = super().parse_known_args(args, namespace)
        if flags := [word for word in rest if word.startswith("-")]:
            near = did_you_mean(flags[0].partition("=")[0], self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(rest)}{near}")
        return parsed, rest

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse's, with the nearest command in the place of a list of all."""
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:  # noqa: SLF001 - its type
            raise argparse.ArgumentError(None, f"unknown command {value!r}{did_you_mean(str(value), action.choices)}")
        super()._check_value(action, value)

    def _print_message(self, message: str, file: Any = None) -> None:
        """As argparse's, which is silent about a full disk."""
        (file or sys.stderr).write(message)

    def error(self, message: str) -> NoReturn:
        """Raises `UsageFailed`."""
        # Without a command, the user wants to see which there are.
        usage = self.format_help() if message.endswith(_NO_COMMAND) else self.format_usage()
        raise UsageFailed(message, usage, self.prog)


Arguments: TypeAlias = Callable[[Parser], None]
