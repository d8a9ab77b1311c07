"""This node's identity across restarts: its state folder, its key, its name and how often it has started.

Entered by the wiring before anything else touches the disk. The one rule: a state folder belongs to one process at a
time; two nodes with one `node_id` would be one node to every peer.
"""

import fcntl
import logging
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import orjson

from agent.errors import ConfigRefused
from agent.identity.node_key import NodeKey
from agent.routing.names import valid_name
from agent.state.durable_file import FILE_MODE, make_private_folder, write_durably
from agent.state.saved_shape import object_of, one_of, text, whole_number
from discovery.ordinary_file import open_saved, open_to_read, open_unlinked

log = logging.getLogger(__name__)

CLAIMS = "names"

LOCK_NAME = "lock"
_CLAIM_BYTES_MAX = 4096
_OF_PORT = "port-"
# Where an earlier build kept a node's state in a named folder that others could write to.
_WITHIN_SHARED = "node"
FILE_NAME = "node.json"
SCHEMA = 2


@dataclass(frozen=True, slots=True)
class NodeState:
    """`folder`: this node's own, mode 0700, locked. `epoch`: 1 at the first start, one more at each."""

    folder: Path
    node_id: str
    epoch: int
    key: NodeKey


_SAVED = object_of({"schema": one_of(SCHEMA), "node_id": text, "epoch": whole_number, "key": text})
# Of builds whose node IDs were random numbers. Nothing proves such an ID, so the node gets a key and the ID of that.
_SAVED_WITHOUT_KEY = object_of({"schema": one_of(1), "node_id": text, "epoch": whole_number})


@contextmanager
def open_state(folder: Path, port: int, *, is_own: bool = False) -> Iterator[NodeState]:
    """Lock the node's state folder and count this start, until the context ends.

    `is_own`: the folder is this node's alone, on whatever port, and is used as it is. Else it is the user's, and the
    port's part of it is the node's.

    Raises ConfigRefused: the folder cannot be used, another process holds it, or its contents cannot be read.
    """
    of_port = folder / f"{_OF_PORT}{port}"
    own = folder if is_own else of_port
    if own != folder or not own.exists():
        make_private_folder(own)  # One that an operator has made keeps its mode.
    remedy = "set another PORT or MESH_STATE_DIR"
    if is_own:
        had = f"set MESH_STATE_DIR to {of_port}, which this port's node had before"
        remedy = had if (of_port / FILE_NAME).exists() else "set another MESH_STATE_DIR"
    with ExitStack() as locks:
        locks.enter_context(_locked(own / LOCK_NAME, remedy))
        if is_own:
            _warn_of_others(own)
            _take_over(own, of_port, locks)
        yield _count_start(own)


def _take_over(folder: Path, of_port: Path, locks: ExitStack) -> None:
    """Move what an earlier build kept in a part of the folder into the folder itself, where that has no state yet."""
    parts = [part for part in (folder / _WITHIN_SHARED, *sorted(folder.glob(f"{_OF_PORT}*"))) if _has_state(part)]
    if _has_state(folder) or not parts:
        return
    if len(parts) > 1 and of_port not in parts:
        names = ", ".join(part.name for part in parts)
        raise ConfigRefused(
            f"{folder}: it holds the state of several nodes of before ({names}), none"
            " of them of this port; set MESH_STATE_DIR to this node's part, or to another folder to become a new node"
        )
    part = of_port if of_port in parts else parts[0]
    locks.enter_context(_locked(part / LOCK_NAME, "wait until it has ended"))
    kept = sorted(part.iterdir(), key=lambda path: path.name == FILE_NAME)  # The identity last: it ends the move.
    try:
        for path in kept:
            if path.name != LOCK_NAME:
                path.replace(folder / path.name)
    except OSError as exc:
        raise ConfigRefused(f"{part}: the node's state cannot be moved to {folder}: {exc.strerror}") from exc
    log.info("state of an earlier version moved", extra={"from": str(part), "to": str(folder)})


def _has_state(folder: Path) -> bool:
    path = folder / FILE_NAME
    return path.exists() or path.is_symlink()


def _warn_of_others(folder: Path) -> None:
    try:
        mode = folder.stat().st_mode
    except OSError as exc:
        raise ConfigRefused(f"{folder}: the state folder cannot be used: {exc.strerror}") from exc
    if mode & stat.S_IWOTH:
        log.warning("every user can replace files of the state folder", extra={"folder": str(folder)})


def default_node_name(state_dir: Path, port: int, node_id: str, hostname: str | None = None) -> str:
    """Claim and return the node's name; `state_dir` is shared by the nodes of one user on this machine.

    Raises `ConfigRefused` when the folder of claims cannot be used.
    """
    host = valid_name((hostname or socket.gethostname()).split(".")[0])
    claims = state_dir / CLAIMS
    try:
        claims.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in (host, valid_name(f"{host}-{port}")):
            if _claim(claims / name, node_id):
                return name
    except OSError as exc:
        raise ConfigRefused(
            f"{claims}: a name for this node cannot be kept: {exc.strerror}; set MESH_NODE_NAME or MESH_STATE_DIR"
        ) from exc
    # Both belong to other nodes that once ran here; the node's own ID distinguishes it from every one of them.
    return valid_name(f"{host}-{node_id[:8]}")


def _claim(path: Path, node_id: str) -> bool:
    """Whether the name is ours, now or already. A claim appears whole: a crash never leaves one without its owner."""
    draft = path.with_name(f".{node_id}.tmp")
    draft.write_text(node_id, encoding="utf-8")
    try:
        os.link(draft, path)
    except FileExistsError:
        with open_to_read(path) as file:
            return file.read(_CLAIM_BYTES_MAX).decode("utf-8", "replace").strip() == node_id
    finally:
        draft.unlink()
    return True


@contextmanager
def _locked(path: Path, remedy: str) -> Iterator[None]:
    descriptor = _lock(path, remedy)
    try:
        yield
    finally:
        os.close(descriptor)  # The lock ends with it. The file stays: deleting it would let two processes in.


def _lock(path: Path, remedy: str) -> int:
    """Lock the file and return its descriptor; the holder has written its process ID there."""
    try:
        descriptor = open_unlinked(path, os.O_RDWR | os.O_CREAT, FILE_MODE)
    except OSError as exc:
        raise ConfigRefused(f"{path}: the state folder cannot be locked: {exc.strerror}") from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise ConfigRefused(
            f"{path.parent}: another node uses this state folder (process {holder}); stop it, or {remedy}"
        ) from None
    except OSError as exc:
        os.close(descriptor)
        raise ConfigRefused(f"{path}: the state folder cannot be locked: {exc.strerror}") from exc
    return descriptor


def _count_start(folder: Path) -> NodeState:
    path = folder / FILE_NAME
    try:
        node_id, epoch, key = _read(path)
        saved = {"schema": SCHEMA, "node_id": node_id, "epoch": epoch + 1, "key": key.seed.hex()}
        write_durably(path, orjson.dumps(saved, option=orjson.OPT_APPEND_NEWLINE))
    except OSError as exc:
        raise ConfigRefused(f"{path}: the node's identity cannot be kept: {exc.strerror}") from exc
    return NodeState(folder, node_id, epoch + 1, key)


def _read(path: Path) -> tuple[str, int, NodeKey]:
    try:
        with open_saved(path) as file:
            saved = orjson.loads(file.read())
        if isinstance(saved, dict) and saved.get("schema") == 1:
            _SAVED_WITHOUT_KEY(saved, "")
            key = NodeKey.new()
            node_id = key.node_id
        else:
            _SAVED(saved, "")
            # Not worked out again: that would import the cryptography at each start, which many nodes never need.
            node_id, key = str(UUID(saved["node_id"])), NodeKey(bytes.fromhex(saved["key"]))
        epoch = saved["epoch"]
        _check_epoch(epoch)
    except FileNotFoundError:
        key = NodeKey.new()
        return key.node_id, 0, key
    except ValueError:
        # A silent new identity would make a stranger of this node, with its names and its entry in the catalog.
        raise ConfigRefused(
            f"{path}: the node's identity is damaged or of a newer version; "
            "repair it, or move it away to become a new node"
        ) from None
    return node_id, epoch, key


def _check_epoch(epoch: int) -> None:
    if epoch < 0:
        raise ValueError("a number of starts is not negative")
