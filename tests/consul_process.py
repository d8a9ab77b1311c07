"""Runs a real Consul for a test: one server on free loopback ports, killed by its process ID at the end.

Used by the contract suite and by end-to-end tests. The one rule: a test that fails shows the tail of Consul's log.
"""

import asyncio
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
import weakref
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from discovery.consul.environment import ConsulSettings
from tests.measured import measured
from tests.ports import free_ports
from tests.socket_tables import who_has

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.05
LOG_LINES_SHOWN = 40
# What it says of a port that another program has; where no test named the port, it is started again at others.
PORT_TAKEN = "address already in use"
MOVES_MAX = 2
GRPC_TLS_SINCE = (1, 14)
# Each write of a catalog is on the disk before it is answered, and a slow disk is no part of what is tested: with 0.7 s
# for each fsync, what is promised in 2 s took 3.6. A Consul keeps less than a megabyte.
MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 1 << 30
MASTER_TOKEN = "11111111-2222-3333-4444-555555555555"  # known to this one throw-away process alone

# The least that a node needs, as in consul/policies/mesh-node.hcl.
NODE_RULES = """
service "mcp-node" { policy = "write" }
service_prefix "mcp-node" { policy = "read" }
node_prefix "" { policy = "read" }
"""


@dataclass
class RunningConsul:
    """One Consul server; stopped and started again with or without its state. One test owns it.

    `host`: the address that it listens on; `through`: a program that becomes it, such as `ip netns`. `movable`: the
    names of those ports that may be others until it serves for the first time. `state`: where its state is.
    """

    binary: Path
    folder: Path
    ports: dict[str, int]
    acl: bool = False
    extra: dict[str, Any] = field(default_factory=dict)
    host: str = "127.0.0.1"
    through: Sequence[str] = ()
    movable: Sequence[str] = ()
    moves_left: int = MOVES_MAX
    process: subprocess.Popen[bytes] | None = None
    state: Path | None = None

    @property
    def url(self) -> str:
        """The HTTP API."""
        return f"http://{self.host}:{self.ports['http']}"

    def settings(self, token: str | None = None) -> ConsulSettings:
        """Settings for our client; with ACLs the master token is used when no other is given."""
        return ConsulSettings(url=self.url, token=token or (MASTER_TOKEN if self.acl else None), explicit=True)

    def start(self) -> None:
        """Start the process; it needs a second or two until it serves."""
        config = self.folder / "consul.json"
        config.write_text(json.dumps(self._config()), "utf-8")
        environ = {name: text for name, text in os.environ.items() if not name.startswith("CONSUL_")}
        with (self.folder / "consul.log").open("ab") as log:
            command = [*self.through, str(self.binary), "agent", f"-config-file={config}"]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environ)

    async def wait_for_leader(self) -> None:
        """Wait until the server leads and answers catalog reads."""
        async with asyncio.timeout(START_TIMEOUT_S):
            while not self.serves():
                await _next_look()

    def serves(self) -> bool:
        """Whether it leads and its own service is registered."""
        if self.process is not None and self.process.poll() is not None:
            if self._has_moved():
                return False
            raise RuntimeError(f"consul ended with {self.process.returncode}\n{self.log_tail()}")
        headers = {"X-Consul-Token": MASTER_TOKEN} if self.acl else {}
        request = urllib.request.Request(f"{self.url}/v1/health/service/consul?passing&consistent", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=0.5) as answer:
                is_served = bool(json.load(answer))
        except (urllib.error.URLError, OSError):
            return False
        if is_served:
            self.moves_left = 0  # From now on others know where it is.
        return is_served

    def _has_moved(self) -> bool:
        """Whether it ended because another program had one of its ports, and starts again at others."""
        if PORT_TAKEN not in self.log_tail():
            return False
        measured(f"consul was refused a port: {'; '.join(map(who_has, self.ports.values()))}")
        if not self.movable or not self.moves_left:
            return False
        self.moves_left -= 1
        self.ports = self.ports | dict(zip(self.movable, free_ports(len(self.movable)), strict=True))
        self.kill(wipe=True)
        (self.folder / "consul.log").unlink()
        self.start()
        return True

    def kill(self, *, wipe: bool = False) -> None:
        """Kill it at once (SIGKILL); `wipe` makes it forget everything."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(STOP_TIMEOUT_S)
        self.process = None
        if wipe and self.state is not None:
            shutil.rmtree(self.state, ignore_errors=True)

    async def call(self, method: str, path: str, body: Any = None, *, token: str = MASTER_TOKEN) -> Any:
        """Make one API call as an operator, or with another token; return its JSON. Raises when it is refused."""
        headers = {"X-Consul-Token": token} if self.acl else {}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.request(method, f"{self.url}{path}", json=body) as answer,
        ):
            text = await answer.text()
            if answer.status != 200:
                raise RuntimeError(f"{method} {path}: {answer.status} {text}")
            return json.loads(text or "null")

    async def token_for(self, rules: str) -> str:
        """Make a token with these ACL rules; return its secret."""
        name = f"rules-{uuid.uuid4()}"
        await self.call("PUT", "/v1/acl/policy", {"Name": name, "Rules": rules})
        token = await self.call("PUT", "/v1/acl/token", {"Policies": [{"Name": name}]})
        return str(token["SecretID"])

    async def change_rules(self, token: str, rules: str) -> None:
        """Give a token of `token_for` other rules."""
        policy = (await self.call("GET", "/v1/acl/token/self", token=token))["Policies"][0]
        body = {"ID": policy["ID"], "Name": policy["Name"], "Rules": rules}
        await self.call("PUT", f"/v1/acl/policy/{policy['ID']}", body)

    async def snapshot(self) -> bytes:
        """All of its state."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/v1/snapshot") as answer:
            return await answer.read()

    async def restore(self, snapshot: bytes) -> None:
        """Replace all of its state."""
        async with aiohttp.ClientSession() as session, session.put(f"{self.url}/v1/snapshot", data=snapshot) as answer:
            answer.raise_for_status()

    async def revoke(self, token: str) -> None:
        """Delete a token."""
        accessor = (await self.call("GET", "/v1/acl/token/self", token=token))["AccessorID"]
        await self.call("DELETE", f"/v1/acl/token/{accessor}")

    def log_tail(self) -> str:
        """The last lines of Consul's own log."""
        path = self.folder / "consul.log"
        return "\n".join(path.read_text("utf-8", "replace").splitlines()[-LOG_LINES_SHOWN:]) if path.exists() else ""

    def state_folder(self) -> Path:
        """Where its state is from now on: in memory, for as long as this object lives, or beside its log."""
        if self.state is None:
            self.state = self.folder / "data"
            if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES_MIN:
                self.state = Path(tempfile.mkdtemp(prefix="mcp-mesh-agent-consul-", dir=MEMORY))
                gone = weakref.finalize(self, shutil.rmtree, self.state, ignore_errors=True)
                gone.atexit = False  # Which would be the exit of a copy of this process as well.
        return self.state

    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "server": True,
            "bootstrap_expect": 1,
            "node_name": "test-consul",
            "datacenter": "dc1",
            "data_dir": str(self.state_folder()),
            "bind_addr": self.host,
            "client_addr": self.host,
            "ports": {"grpc": -1, "dns": -1, "serf_wan": -1} | unwanted_ports(self.binary) | self.ports,
            "performance": {"raft_multiplier": 1},
            "disable_update_check": True,
            "leave_on_terminate": False,
            "log_level": "INFO",
        }
        if self.acl:
            config["acl"] = {"enabled": True, "default_policy": "deny", "tokens": {"master": MASTER_TOKEN}}
            config["acl"]["tokens"]["agent"] = MASTER_TOKEN
        return config | self.extra


@functools.cache
def version_of(binary: Path) -> tuple[int, int]:
    """Major and minor version; tests that differ by it say so."""
    text = subprocess.run([str(binary), "version"], check=True, capture_output=True, text=True, timeout=20).stdout
    found = re.search(r"v(\d+)\.(\d+)", text)
    assert found is not None, text
    return int(found[1]), int(found[2])


def unwanted_ports(binary: Path) -> dict[str, int]:
    """What newer servers listen on by default, one server a machine; 1.8 refuses the word."""
    return {"grpc_tls": -1} if version_of(binary) >= GRPC_TLS_SINCE else {}


@asynccontextmanager
async def running_consul(
    binary: Path,
    folder: Path,
    *,
    acl: bool = False,
    https: bool = False,
    extra: Mapping[str, Any] | None = None,
    ports: Mapping[str, int] | None = None,
    place: tuple[str, Sequence[str]] = ("127.0.0.1", ()),
) -> AsyncGenerator[RunningConsul, None]:
    """Start one Consul server and stop it at the end.

    State lives in `folder`; `acl` denies by default; `https` opens a port for it; `extra` joins the configuration,
    `ports` those that are opened; `place`: its address, and what leads to another machine.
    """
    stopped = _stopped_at_the_end(binary, folder, acl=acl, https=https, extra=extra, more_ports=ports, place=place)
    with stopped as consul:
        await consul.wait_for_leader()
        yield consul


@contextmanager
def shared_consul(
    binary: Path, folder: Path, *, acl: bool = False, extra: Mapping[str, Any] | None = None
) -> Generator[RunningConsul, None, None]:
    """Do the same outside of any event loop, for a fixture that many tests share."""
    with _stopped_at_the_end(binary, folder, acl=acl, extra=extra) as consul:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        pause = threading.Event()
        while not consul.serves():
            if time.monotonic() > deadline_s:
                raise TimeoutError("consul did not start in time")
            pause.wait(POLL_S)
        yield consul


@contextmanager
def _stopped_at_the_end(
    binary: Path,
    folder: Path,
    *,
    acl: bool,
    https: bool = False,
    extra: Mapping[str, Any] | None = None,
    more_ports: Mapping[str, int] | None = None,
    place: tuple[str, Sequence[str]] = ("127.0.0.1", ()),
) -> Generator[RunningConsul, None, None]:
    names = ("http", "server", "serf_lan", *(["https"] if https else []))
    ports = dict(zip(names, free_ports(len(names)), strict=True)) | dict(more_ports or {})
    consul = RunningConsul(binary, folder, ports, acl=acl, extra=dict(extra or {}), host=place[0], through=place[1])
    consul.movable = [name for name in names if name not in (more_ports or {})]
    try:
        consul.start()
        yield consul
    except BaseException:
        sys.stderr.write(f"--- consul's log ---\n{consul.log_tail()}\n--- end ---\n")
        raise
    finally:
        consul.kill(wipe=True)


async def _next_look() -> None:
    """The process does not announce that it is ready; look again after a moment."""
    moment = asyncio.Event()
    asyncio.get_running_loop().call_later(POLL_S, moment.set)
    await moment.wait()
