"""Where the scripts `mesh-agent` and `mcp-mesh-agent` begin: the command line of `agent`, if that is really ours.

`agent` and `discovery` are names that other distributions use as well, and whichever is installed or found first wins.
The one rule: another package of such a name is refused in one line that says where it lies, never with a traceback.
"""

import os
import sys
from types import ModuleType

_REFUSED = 2  # As for any configuration that cannot be used.
_OURS = ("agent", "discovery")


def main() -> int:
    """Run the command line; returns its exit code."""
    try:
        import agent
        import discovery
    except ImportError as exc:
        return _refuse(f"it is incomplete ({exc})")
    here = os.path.dirname(os.path.abspath(__file__))
    for name, module in zip(_OURS, (agent, discovery), strict=True):
        if not _is_ours(module, here):
            place = getattr(module, "__file__", None) or "a place without files"
            return _refuse(f"the package {name!r} at {place} is another one")
    if sys.argv[1:] in (["version"], ["--version"]) and _is_written(f"mesh-agent {agent.__version__}\n"):
        return 0
    try:
        from agent.early_signals import outlive_harmless_ones

        outlive_harmless_ones(sys.argv[1:])
        from agent.cli.parser import main as run
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] not in _OURS:
            raise
        return _refuse(f"it is incomplete ({exc})")
    return run()


def _is_written(line: str) -> bool:
    """Whether stdout took it: this short way is for scripts, and any failure has its words in the command line."""
    try:
        return sys.stdout.write(line) > 0 and sys.stdout.flush() is None
    except (AttributeError, OSError):  # It is closed, or full.
        return False


def _is_ours(module: ModuleType, here: str) -> bool:
    """Whether it lies beside this file, and was not written over by another distribution there."""
    path = getattr(module, "__file__", None) or ""
    return os.path.dirname(os.path.dirname(os.path.abspath(path))) == here and hasattr(module, "MESH_AGENT")


def _refuse(why: str) -> int:
    fix = "install it alone: uvx mcp-mesh-agent, pipx install mcp-mesh-agent, or a virtual environment of its own"
    sys.stderr.write(f"mesh-agent: mcp-mesh-agent cannot run as it is installed: {why}; {fix}\n")
    return _REFUSED


if __name__ == "__main__":
    sys.exit(main())
