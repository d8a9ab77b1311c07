"""One child process that speaks newline-delimited JSON: starting it, reading its output, ending it.

Used by `stdio_client` alone. Callbacks of an asyncio subprocess protocol, no tasks: a line is handed on in the same
loop turn in which it arrived. The one rule: whatever happens, also when opening is cancelled midway, neither the child
nor anything else in its process group outlives `stop`.
"""

import asyncio
import contextlib
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Final, TypeVar, cast

from agent.client.stdio import cgroup
from agent.client.stdio.account import account_of
from agent.client.stdio.environment import (
    child_environment,
    find_command,
    missing_command,
    missing_folder,
    not_executable,
)
from agent.client.stdio.guardian import guarded
from agent.client.stdio.last_words import last_words
from agent.client.stdio.lines import LINE_BYTES_MAX, LINE_BYTES_SKIPPED_MAX, LineCutter
from agent.descriptors import give_usual_limit, said_shortage
from agent.errors import MeshError, Unreachable
from agent.lossless_json.ends import Text
from agent.model import StdioTarget

if TYPE_CHECKING:
    from agent.client.stdio.cgroup import ControlGroup

_F = TypeVar("_F", bound=MeshError)

# From here on, a second write costs less than a copy of the message.
_ONE_WRITE_BYTES = 256 * 1024
# In JSON they stand between tokens alone, where a space means the same.
_AS_ONE_LINE: Final = bytes.maketrans(b"\r\n", b"  ")
_PROGRAM = "setpriv"
# SIGTERM, as in an orderly end after a closed stdin: a server may still tidy up.
_ARGUMENTS = ("--pdeathsig", "TERM", "--")
_PROBE_TIMEOUT_S = 2.0


def parent_death_signal(command: str, cwd: str | None, environment: Mapping[str, str]) -> tuple[str, ...]:
    """What to put before `command`; nothing where that is impossible, or would hide why it cannot be started."""
    return _prefix() if find_command(command, cwd, environment) is not None else ()


@cache
def _prefix() -> tuple[str, ...]:
    """The program with its arguments, tried once: an older one, or busybox's, does not know them."""
    program = shutil.which(_PROGRAM) if sys.platform == "linux" else None
    if program is None:
        return ()
    prefix, environment = (program, *_ARGUMENTS), {"PATH": os.environ.get("PATH", os.defpath)}
    try:
        tried = subprocess.run(  # noqa: S603 - a program of the system, with fixed arguments
            [*prefix, "true"], capture_output=True, timeout=_PROBE_TIMEOUT_S, check=False, env=environment
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return prefix if tried.returncode == 0 else ()


log = logging.getLogger(__name__)

# A traceback with its causes, so that what stands above its frames is there too.
STDERR_LINES_KEPT: Final = 60
STDERR_LINE_CHARS_MAX: Final = 500
# Lines of stdout that are no messages.
PRINTED_LINES_KEPT: Final = 10
# Each step of ending a child: first its stdin is closed, then SIGTERM, then SIGKILL (MCP lifecycle, "Shutdown").
STOP_STEP_S: Final = 2.0
# After its exit a child's last output may still be in the pipe; a grandchild that holds the pipe open may not keep us.
LAST_OUTPUT_WAIT_S: Final = 0.25

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_CONTROL: Final = re.compile(
    r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


def _heard_already() -> None:
    """A child ends once."""


def _unread(_line: bytes) -> None:
    """What comes after its end is not read."""


class Child(asyncio.SubprocessProtocol):
    """A running child. `lines` gets its stdout, `on_end` is called once when no more can come."""

    def __init__(self, label: str, lines: LineCutter, on_end: Callable[[], None]) -> None:
        self._label = label
        self._lines = lines
        self._on_end = on_end
        self._transport: asyncio.SubprocessTransport | None = None
        self._stdin: asyncio.WriteTransport | None = None
        self._writable = asyncio.Event()
        self._exited = asyncio.Event()
        self._released = asyncio.Event()
        self._stdout_closed = False
        self._partial: list[bytes] = []  # of a line of stderr
        self._stderr_lines: deque[str] = deque(maxlen=STDERR_LINES_KEPT)
        self._printed: deque[str] = deque(maxlen=PRINTED_LINES_KEPT)
        self.ended = False
        self.broken = ""
        self.group: ControlGroup | None = None

    def __repr__(self) -> str:
        """Who it is and whether it lives."""
        return f"<Child {self._label} pid {self.pid} {'ended' if self.ended else 'running'}>"

    @property
    def pid(self) -> int | None:
        """The process ID, which is its group's too."""
        return self._transport.get_pid() if self._transport is not None else None

    def ended_as(self, kind: type[_F]) -> _F:
        """How it ended, as a failure of this kind; its last words are for operators."""
        code = self._transport.get_returncode() if self._transport is not None else None
        if self.broken:
            how = self.broken
        elif code is None:
            how = "closed its output"
        elif code < 0:
            how = f"was ended by {_signal_name(-code)}"
        else:
            how = f"exited with code {code}"
        return kind.about(self._label, how, self.last_words())

    def last_words(self) -> str:
        """What it wrote that may be the reason, to be put behind a sentence."""
        words = last_words(self._stderr_lines, self._printed)
        return f"; its last words: {words}" if words else ""

    def printed(self, line: bytes) -> None:
        """It wrote this line to stdout, which is no message."""
        if text := _text(line):
            self._printed.append(text)

    def enter(self, *, needs_group: bool) -> None:
        """Put it into a control group, and let it become its command. Raises `Unreachable` where it needs a group."""
        groups, pid = cgroup.groups(), self.pid
        assert groups is not None, "only what gets a group waits at the gate"
        self.group = groups.take(pid) if pid is not None else None
        if self.group is None and needs_group:
            raise cgroup.refused(groups.fault)
        if self._stdin is not None:
            self._stdin.write(cgroup.OPENING)

    async def wait_writable(self) -> None:
        """Wait while the child does not read what it was sent."""
        await self._writable.wait()

    @property
    def can_write(self) -> bool:
        """Whether a message can be handed over now without waiting."""
        return self._writable.is_set()

    def write(self, *line: Text) -> bool:
        """Hand a message (without its newline), in consecutive parts, to the child.

        False when its stdin is gone; nothing was written then.
        """
        if self.ended or self._stdin is None or self._stdin.is_closing():
            return False
        # What a client wrote may pass as it came, with its line breaks: the child would take each line for a message.
        for part in line:
            # What stays unread is on one line already.
            breaks = isinstance(part, bytes) and (b"\n" in part or b"\r" in part)
            one_line = bytes(part).translate(_AS_ONE_LINE) if breaks else part
            if part is line[-1] and len(part) < _ONE_WRITE_BYTES:
                self._stdin.write(bytes(one_line) + b"\n")
                return True
            self._stdin.write(one_line)
        self._stdin.write(b"\n")
        return True

    async def stop(self) -> None:
        """End it: close stdin, SIGTERM, SIGKILL, each with its time. Cancellation cuts the waiting short."""
        try:
            if self._stdin is not None:
                self._stdin.close()
            if not await _within(STOP_STEP_S, self._exited):
                self._signal(signal.SIGTERM)
                await _within(STOP_STEP_S, self._exited)
        finally:
            # Also when it exited by itself: the rest of its groups has no owner any more.
            self._signal(signal.SIGKILL)
            if self.group is not None:
                self.group.end()
            try:
                await _within(STOP_STEP_S, self._exited)
            finally:
                self._finish()
                if self._transport is not None:
                    self._transport.close()
                    await _within(LAST_OUTPUT_WAIT_S, self._released)

    # --- callbacks of asyncio ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The process runs."""
        self._transport = cast("asyncio.SubprocessTransport", transport)
        give_usual_limit(self._transport.get_pid())
        self._stdin = cast("asyncio.WriteTransport", self._transport.get_pipe_transport(_STDIN))
        self._writable.set()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Output came, cut anywhere."""
        if fd == _STDOUT:
            self._lines.feed(data)
            if self._lines.endless:
                self.broken = f"wrote a line of more than {LINE_BYTES_SKIPPED_MAX} bytes"
                self._finish()
                self._signal(signal.SIGKILL)
            return
        first, *more = data.split(b"\n")
        self._partial.append(first)
        for following in more:
            self._keep_stderr(b"".join(self._partial))
            self._partial[:] = [following]
        if sum(map(len, self._partial)) > LINE_BYTES_MAX:
            self._partial.clear()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """A pipe was closed by the child."""
        if fd == _STDIN:
            self._writable.set()  # A writer that waits learns that it cannot write any more.
        elif fd == _STDOUT:
            self._lines.feed(b"\n")  # What comes last may have no end.
            self._stdout_closed = True
            self._finish_soon()
        elif self._partial:
            self._keep_stderr(b"".join(self._partial))
            self._partial.clear()

    def process_exited(self) -> None:
        """The child is dead and reaped."""
        self._exited.set()
        self._finish_soon()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """It is dead, and every pipe is closed."""
        self._released.set()

    def pause_writing(self) -> None:
        """The child does not read; asyncio's buffer is full."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The child reads again."""
        self._writable.set()

    # --- parts ---

    def _finish_soon(self) -> None:
        if self._stdout_closed and self._exited.is_set():
            # One more turn, so that the last line of stderr can still come in.
            asyncio.get_running_loop().call_soon(self._finish)
        else:
            asyncio.get_running_loop().call_later(LAST_OUTPUT_WAIT_S, self._finish)

    def _finish(self) -> None:
        if not self.ended:
            self.ended = True
            self._writable.set()
            on_end, self._on_end = self._on_end, _heard_already
            on_end()
            # Both know of the client: a circle, for the garbage collector to find.
            self._lines = LineCutter(_unread, lambda _head, _tail: False)

    def _keep_stderr(self, line: bytes) -> None:
        if text := _text(line):
            self._stderr_lines.append(text)
            log.debug("MCP server wrote to stderr", extra={"server": self._label, "line": self._stderr_lines[-1]})

    def _signal(self, number: signal.Signals) -> None:
        pid = self.pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, number)


def _text(line: bytes) -> str:
    text = _CONTROL.sub("", line[: 4 * STDERR_LINE_CHARS_MAX].decode("utf-8", "replace")).rstrip()
    return text[:STDERR_LINE_CHARS_MAX]


async def start_child(target: StdioTarget, child: Child) -> None:
    """Start the command in a process group of its own. Raises `Unreachable` with the fix when it cannot be started."""
    account, its_own = account_of(target.user)
    environment = guarded(child_environment({**os.environ, **its_own}, target))
    gate = _gate(target, environment)
    try:
        await asyncio.get_running_loop().subprocess_exec(
            lambda: child,
            *gate,
            *parent_death_signal(target.command, target.cwd, environment),
            target.command,
            *target.args,
            cwd=target.cwd,
            env=environment,
            start_new_session=True,
            **account,
        )
    except (OSError, ValueError) as exc:
        reason, for_clients = _start_failure(target, exc)
        failure = Unreachable(reason)
        failure.what = f"cannot be started: {for_clients}"
        failure.short = failure.silent = _lack(exc) != ""
        raise failure from exc
    if gate:
        child.enter(needs_group=target.cgroup is True)


def _gate(target: StdioTarget, environment: Mapping[str, str]) -> tuple[str, ...]:
    """What has the command wait until it is in its control group; nothing where it gets none, or would hide a fault.

    Raises `Unreachable` where it has to have one.
    """
    groups, shell = cgroup.groups(), shutil.which("sh")
    if target.cgroup is False or (groups is None and target.cgroup is None):
        return ()
    if groups is None or groups.folder is None or shell is None:
        if target.cgroup is None:
            return ()
        raise cgroup.refused(groups.fault if groups is not None and groups.fault else "this system has none")
    is_there = find_command(target.command, target.cwd, environment) is not None
    return (shell, *cgroup.GATE) if is_there else ()


def _start_failure(target: StdioTarget, exc: OSError | ValueError) -> tuple[str, str]:
    """Why, for operators and for clients, who learn no path."""
    command = target.command
    if lack := _lack(exc):
        return f"the command {command} cannot be started: {lack}", lack.partition(":")[0]
    if isinstance(exc, FileNotFoundError | NotADirectoryError):
        if target.cwd is not None and not os.path.isdir(target.cwd):  # noqa: PTH112 - one look, no path arithmetic
            return missing_folder(target.cwd, command), "its working directory does not exist"
        return missing_command(command), "its command was not found"
    if isinstance(exc, PermissionError):
        return not_executable(command), "its command may not be executed"
    reason = f"the command {command} cannot be started: {getattr(exc, 'strerror', None) or exc}"
    return reason, "its command cannot be run"


def _lack(exc: OSError | ValueError) -> str:
    return said_shortage(exc, fork=True) if isinstance(exc, OSError) else ""


async def _within(seconds: float, event: asyncio.Event) -> bool:
    """Wait for `event`, but no longer; whether it came."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
