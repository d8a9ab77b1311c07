"""The `mesh-agent` command: reads the command line, runs one command, and turns every failure into one line.

The entry point of the package. Which commands there are stands in `agent.cli.commands`; each is named as text and
imported when it is called, so that `version` pays for no other command. The one rule: every failure that the user can
mend is one line on stderr and an exit code of `agent.cli.output.Exit`; only a bug of ours ends in a traceback.
"""

import argparse
import errno
import importlib
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise

from agent import __version__
from agent.cli.argument_parser import UsageFailed
from agent.cli.commands import build_parser
from agent.cli.output import CliFailed, Exit, abandon_output, print_fault, print_json, tolerate_any_encoding
from agent.errors import ConfigRefused

_INTERRUPTED = 130  # What a shell reports for a program that ended by SIGINT.
# What follows -- there is another command line.
_TAKES_A_COMMAND = (["servers", "add"], ["complete"])
_OF_NO_COMMAND = frozenset({"-h", "--help", "--version"})
_JSON_WORDS = frozenset({"--json", "-ojson", "--output=json"})
_JSON_PAIRS = frozenset({("-o", "json"), ("--output", "json")})
# What a write ends with that has no room.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `--help` leaves by SystemExit."""
    tolerate_any_encoding()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            return _run(parse(words))
        finally:
            if sys.stdout is not None:  # As with `>&-`.
                sys.stdout.flush()  # Also of `--help`: what cannot be written is a failure.
    except ConfigRefused as exc:
        return _failed(CliFailed(Exit.CONFIG, str(exc)), words)
    except CliFailed as exc:
        return _failed(exc, words)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        abandon_output()  # `mesh-agent status | head`: the reader has gone.
        return Exit.OK
    except OSError as exc:
        if exc.errno not in _NO_ROOM or exc.filename is not None:
            raise
        abandon_output()
        said = f"the output cannot be written: {exc.strerror}"
        return _failed(CliFailed(Exit.USAGE, said, error="output_failed"), words)


def _failed(failed: CliFailed, words: Sequence[str]) -> int:
    if wants_json(words):
        print_fault(str(failed), failed)
    elif isinstance(failed, UsageFailed):
        print(f"{failed.usage}{failed.prog}: {failed}", file=sys.stderr)
    else:
        print_fault(str(failed))
    return failed.code


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Read a command line; a tool's arguments may also stand after flags, where argparse takes no more of them.

    Raises `UsageFailed`.
    """
    parser, words = build_parser(), list(words)
    behind_dashes: list[str] = []
    if any(words[: len(start)] == start for start in _TAKES_A_COMMAND) and "--" in words:
        words, behind_dashes = words[: words.index("--")], words[words.index("--") + 1 :]
    if words and words[0].startswith("-") and words[0] not in _OF_NO_COMMAND:
        parser.error(f"options stand after the command, as in `mesh-agent status --url URL`: {words[0]}")
    args: argparse.Namespace
    args, rest = parser.parse_known_args(words)
    args.behind_dashes = behind_dashes
    if rest and "pairs" not in args:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.pairs = [*args.pairs, *rest]
    args.output = vars(args).get("output") or "table"
    args.json = args.output == "json"
    args.watch = vars(args).get("watch")
    return args


def wants_json(words: Sequence[str]) -> bool:
    """Whether a command line asks for JSON, also one that cannot be read otherwise."""
    return any(word in _JSON_WORDS for word in words) or any(pair in _JSON_PAIRS for pair in pairwise(words))


def _run(args: argparse.Namespace) -> int:
    module, _, name = args.command.partition(":")
    command: Callable[[argparse.Namespace], int] = getattr(importlib.import_module(module), name)
    if args.watch is None:
        return int(command(args))
    from agent.cli.watch import watched  # noqa: PLC0415 - few want it

    return watched(command, args)


def show_version(args: argparse.Namespace) -> int:
    """Print the version."""
    if args.json:
        print_json(version=__version__)
    else:
        print(f"mesh-agent {__version__}")
    return Exit.OK
