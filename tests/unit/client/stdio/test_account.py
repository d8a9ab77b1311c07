"""Children as other users: as that account where the node may do so, else not started, with the reason."""

import asyncio
import os
import pwd

import pytest

from agent.client.stdio.account import account_fault, account_of
from agent.client.stdio.environment import command_fault
from agent.client.stdio.lines import LineCutter
from agent.client.stdio.process import Child, start_child
from agent.errors import Unreachable
from agent.model import StdioTarget

OURS = pwd.getpwuid(os.geteuid()).pw_name
OTHER = next(entry.pw_name for entry in pwd.getpwall() if entry.pw_uid not in (0, os.geteuid()))
WHO = StdioTarget("/bin/sh", ("-c", "cat > /dev/null; id -u; id -G; echo $HOME $USER"), user=OTHER)


async def said_by(target: StdioTarget) -> list[str]:
    """What a child writes, once its stdin is closed."""
    lines: list[str] = []
    ended = asyncio.Event()
    cutter = LineCutter(lambda line: lines.append(line.decode()), lambda _start, _end: True)
    child = Child("who", cutter, ended.set)
    await start_child(target, child)
    await child.stop()
    assert ended.is_set()
    return lines


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT root: no child can be started as another user")
async def test_child_runs_with_the_rights_groups_and_home_of_its_user_alone() -> None:
    entry = pwd.getpwnam(OTHER)
    uid, groups, words = await said_by(WHO)
    assert int(uid) == entry.pw_uid
    assert {int(group) for group in groups.split()} == set(os.getgrouplist(OTHER, entry.pw_gid))
    assert words.split() == [entry.pw_dir, OTHER]


async def test_a_user_that_cannot_be_taken_starts_no_child_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    with pytest.raises(Unreachable, match=f"cannot run as user '{OTHER}': only a node that runs as root"):
        await said_by(WHO)
    assert "run the node as root" in command_fault(WHO, {"PATH": "/usr/bin:/bin"})


def test_an_unknown_user_is_named_as_such_by_name_and_by_number() -> None:
    for user in ("no-such-user", "4294967294", "99999999999999999999"):
        assert "this machine has no such user" in account_fault(user), user


def test_nothing_is_asked_of_the_system_for_the_nodes_own_account() -> None:
    for user in (None, OURS, str(os.geteuid())):
        assert account_of(user) == ({}, {})
        assert account_fault(user) == ""
