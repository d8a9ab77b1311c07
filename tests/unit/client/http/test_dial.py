"""What a dial says where this machine lacks an address or a port, in a network of its own that has so few."""

import asyncio
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from agent.client.http.dial import DialFailed, Dialler
from tests.ports import free_port

SYSCTL = Path("/proc/sys/net")


def in_a_network_of_its_own(code: str) -> str:
    """What it prints, where loopback is all that there is."""
    if (unshare := shutil.which("unshare")) is None:
        pytest.skip("there is no unshare here")
    begun = f"import subprocess; subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True); {code}"
    # To be root there asks for no rights here, where the system allows it at all.
    command = [unshare, "--map-root-user", "--net", sys.executable, "-c", begun]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode and ("unshare" in done.stderr or "Read-only" in done.stderr or "'ip'" in done.stderr):
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def failure_of(host: str, port: int) -> str:
    """In so many words, whether it was silence, and a lack."""

    async def dialled() -> str:
        try:
            await Dialler(host, port, tls=False, timeout_s=5).dial(asyncio.Protocol)
        except DialFailed as exc:
            return f"{exc} {exc.silent} {exc.short}"
        return "connected"

    return asyncio.run(dialled())


def without_ipv6() -> str:
    (SYSCTL / "ipv6/conf/all/disable_ipv6").write_text("1")
    return failure_of("2001:db8::1", 1)


def without_ports() -> str:
    (SYSCTL / "ipv4/ip_local_port_range").write_text("40000 40000")
    with socket.create_server(("127.0.0.1", 30000)) as server, socket.create_connection(server.getsockname()):
        return failure_of("127.0.0.1", 30000)


def test_a_machine_without_an_address_of_that_family_is_no_lack_that_passes() -> None:
    said = in_a_network_of_its_own(f"from {__name__} import *; print(without_ipv6())")
    assert said == "cannot be reached: this machine has no address of that family True False"


def test_a_machine_without_a_free_port_is_a_lack() -> None:
    said = in_a_network_of_its_own(f"from {__name__} import *; print(without_ports())")
    assert said.startswith("cannot be reached, as this machine has no local port left")
    assert said.endswith("True True")


def test_a_node_without_descriptors_has_a_lack() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def dialled() -> DialFailed:
        dialler = Dialler("127.0.0.1", free_port(), tls=False, timeout_s=5)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        try:
            with pytest.raises(DialFailed) as failed:
                await dialler.dial(asyncio.Protocol)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        return failed.value

    assert asyncio.run(dialled()).short
