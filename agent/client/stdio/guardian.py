"""A process of its own that ends what a node started, whatever the node died of: children, and what those started.

Armed once at the start of a node; the first child starts it. It is a shell that reads a pipe from the node, which ends
when the node does. Then what lives on is found by a mark in its environment, which processes hand down to those that
they start, also to ones in sessions of their own, as browsers are started. What a child leaves behind on purpose, with
an environment of its own or another account's rights, is not found. Linux alone; elsewhere children notice the end of
their stdin. Where children have control groups, all that is in them is ended as well, and they are removed. The one
rule: only what carries this node's random mark, or is in its groups, is ended.
"""

import logging
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import Final

from agent.client.stdio import cgroup

log = logging.getLogger(__name__)

MARK: Final = "CHILD_OF_MESH_AGENT"
# Children hear of the node's end by their stdin and by SIGTERM; so long they may tidy up.
GRACE_S: Final = 2
# `grep` ends with 2 where a process ended meanwhile, so that its list counts and not its exit code. A process that is
# just being started shows up in the next round.
_SCRIPT: Final = f"""
while read -r _; do :; done
sleep {GRACE_S}
for round in 1 2 3; do
  [ -z "$2" ] || for end in "$2"/*/cgroup.kill; do echo 1 > "$end"; done
  found=$(grep -lsF "$1" /proc/[0-9]*/environ)
  [ -n "$found" ] || break
  for place in $found; do
    pid=${{place#/proc/}}
    kill -s KILL "${{pid%/environ}}" 2>/dev/null
  done
done
for round in 1 2 3; do
  [ -d "$2" ] || exit 0
  rmdir "$2"/*/ "$2" || sleep 1
done
"""

_mark: list[str] = []
_running: list[subprocess.Popen[bytes]] = []


def arm() -> None:
    """From now on children are marked, and nothing of them outlives this process."""
    if sys.platform == "linux" and not _mark:
        _mark.append(secrets.token_hex(16))
        cgroup.arm()


def guarded(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a child, with the mark; the guardian runs when this returns."""
    if not _mark:
        return dict(environment)
    if not _running or _running[0].poll() is not None:
        _running[:] = _started(_mark[0])
    return {**environment, MARK: _mark[0]}


def _started(mark: str) -> list[subprocess.Popen[bytes]]:
    shell = shutil.which("sh")
    if shell is None:
        log.warning("children may outlive a node that is killed: there is no sh", extra={"platform": sys.platform})
        return []
    groups = cgroup.groups()
    folder = "" if groups is None or groups.folder is None else str(groups.folder)
    try:
        return [
            subprocess.Popen(  # noqa: S603 - a shell of the system, with a script of ours
                [shell, "-c", _SCRIPT, "mesh-agent-guardian", f"{MARK}={mark}", folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
                start_new_session=True,  # What ends the node's group, or its terminal, leaves it.
            )
        ]
    except OSError as exc:
        log.warning("children may outlive a node that is killed", extra={"reason": exc.strerror or str(exc)})
        return []
