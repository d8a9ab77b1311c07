"""The account that a child runs as, where its entry names another one than the node's (`mesh.user`).

Used by `agent.client.stdio.process`, and by `config check`, which starts nothing. The one rule: a child whose account
cannot be taken is not started at all, never as the node's own.
"""

import os
from collections.abc import Mapping
from typing import Any

from agent.errors import Unreachable


def account_fault(user: str | None) -> str:
    """Why a child cannot run as this user; empty where it can."""
    try:
        account_of(user)
    except Unreachable as exc:
        return str(exc)
    return ""


def account_of(user: str | None) -> tuple[dict[str, Any], Mapping[str, str]]:
    """What starting a process takes to run as `user` (name or number), and what its environment says of that account.

    Both are empty where no user is named, or the node's own. Raises `Unreachable`.
    """
    if user is None:
        return {}, {}
    if os.name != "posix":
        raise _refused(f"cannot run as user {user!r}: this system has no such accounts")
    import pwd  # noqa: PLC0415 - not everywhere

    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        raise _refused(f"cannot run as user {user!r}: this machine has no such user") from None
    if entry.pw_uid == os.geteuid():
        return {}, {}
    if os.geteuid() != 0:
        why = "only a node that runs as root can start it as another user; leave mesh.user out, or run the node as root"
        raise _refused(f"cannot run as user {user!r}: {why}")
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    wanted = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups}
    return wanted, {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}


def _refused(reason: str) -> Unreachable:
    failure = Unreachable(reason)
    failure.what = "cannot be started: its user cannot be taken"
    return failure
