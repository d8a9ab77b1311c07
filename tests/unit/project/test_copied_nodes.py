"""Copied processes, whose parent is a watcher: what a test may do to one before it has heard that it is gone."""

import signal
import socket
import subprocess
import sys

from tests.e2e.copied_nodes import Copy


def test_a_signal_to_a_copy_that_its_watcher_has_reaped_and_not_reported_is_no_error() -> None:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        with subprocess.Popen([sys.executable, "-c", ""]) as ended:
            its.send(str(ended.pid).encode())
            copy = Copy(ours)
        assert copy.poll() is None
        copy.send_signal(signal.SIGCONT)  # One that does nothing, should another process have the number by now.
        its.send(b"0")
        assert copy.wait(10) == 0
