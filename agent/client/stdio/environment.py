"""What a child process gets of the node's environment, and whether its command can be found there.

Called by `process`, which starts children, and by `config check`, which starts nothing. The one rule: what is not
listed here stays with the node, because it may be a secret of the node's own.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agent.client.stdio.account import account_fault
from agent.model import StdioTarget

# The reference client's list, plus language and temporary folder.
INHERITED: Final = frozenset({"HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER"})
# Without these, npx and uvx cannot fetch a server, and a server cannot reach its service, on a network with a proxy or
# a certificate authority of its own. Proxies are read in both cases, and curl reads `http_proxy` in lower case alone.
_NETWORK: Final = frozenset(
    {
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        *("NODE_EXTRA_CA_CERTS", "NODE_USE_SYSTEM_CA", "NODE_USE_ENV_PROXY"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
        *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    }
)
# The settings of uv, and those of npm, which reads its own in any case.
_PREFIXES: Final = ("LC_", "UV_")
_NPM_PREFIX: Final = "npm_config_"
_WITHHELD_PREFIX: Final = "UV_PUBLISH_"  # Rights to publish packages; running one needs none.


def child_environment(ours: Mapping[str, str], target: StdioTarget) -> dict[str, str]:
    """What the child may know: a few variables of ours, and what its own configuration sets."""
    return {name: value for name, value in ours.items() if is_inherited(name)} | dict(target.env)


def is_inherited(name: str) -> bool:
    """Whether a child gets this variable of ours."""
    if name in INHERITED or name in _NETWORK or name.lower().startswith(_NPM_PREFIX):
        return True
    return name.startswith(_PREFIXES) and not name.startswith(_WITHHELD_PREFIX)


def find_command(command: str, cwd: str | None, environment: Mapping[str, str]) -> str | None:
    """Where `command` is, as starting it would find it: on the child's own PATH, or from its working directory."""
    place = os.path.join(cwd or "", command) if os.sep in command else command  # noqa: PTH118 - as exec joins them
    return shutil.which(place, path=environment.get("PATH", os.defpath))


def command_fault(target: StdioTarget, ours: Mapping[str, str]) -> str:
    """Say why the child could not be started, as far as the file system tells; empty when it could."""
    command = target.command
    if target.cwd is not None and not Path(target.cwd).is_dir():
        return missing_folder(target.cwd, command)
    environment = child_environment(ours, target)
    if find_command(command, target.cwd, environment) is not None:
        return account_fault(target.user)
    if os.sep in command and Path(target.cwd or "", command).is_file():
        return not_executable(command)
    first, *rest = command.split()
    if rest and find_command(first, target.cwd, environment) is not None:
        return f"the command {first} was found, but not {command!r}: what follows it belongs into args"
    return missing_command(command)


def missing_folder(cwd: str, command: str) -> str:
    """The working directory is not there."""
    return f"the working directory {cwd} of {command} does not exist; create it or change cwd"


def missing_command(command: str) -> str:
    """The command is not there."""
    return f"the command {command} was not found; install it or give its full path in the servers file"


def not_executable(command: str) -> str:
    """The command is there and may not be run."""
    return f"the command {command} may not be executed; check its permissions (chmod +x)"
