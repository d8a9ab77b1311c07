"""The secret of a mesh that was given none: one for each user of a machine, made by the first node that starts.

Read by the wiring where neither a token nor a secret is configured, so that the nodes of one account know each other,
and those of other accounts stay strangers. The one rule: it is made once, whole, and only its owner can read it.
"""

import os
import secrets
from pathlib import Path
from typing import Final

from agent.errors import ConfigRefused
from agent.state.durable_file import FILE_MODE, make_private_folder
from discovery.ordinary_file import open_saved, open_unlinked

FILE_NAME: Final = "mesh.secret"
_BYTES: Final = 32


def own_secret(folder: Path) -> bytes:
    """The secret in `folder`, which the nodes of one user share; made when it is not there.

    Raises `ConfigRefused`: it cannot be read or made.
    """
    path = folder / FILE_NAME
    try:
        if not path.exists():
            if not folder.exists():
                make_private_folder(folder)
            _make(path)
        with open_saved(path) as file:
            secret = bytes.fromhex(file.read().decode("ascii").strip())
    except OSError as exc:
        why = exc.strerror or str(exc)
        raise ConfigRefused(
            f"{path}: the secret of this user's nodes cannot be used: {why}; set MESH_STATE_DIR"
        ) from exc
    except ValueError:
        secret = b""
    if len(secret) < _BYTES:
        raise ConfigRefused(f"{path}: the secret of this user's nodes is damaged; remove the file and restart them all")
    return secret


def _make(path: Path) -> None:
    """Nodes that start together agree: the first link wins."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = open_unlinked(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(_BYTES) + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
