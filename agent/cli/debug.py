"""`mesh-agent debug`: what a report of a fault needs, from a running node, in one file.

Called by `agent.cli.parser`. Every part is what the node says over REST, where secrets are masked; nothing of this
machine's environment is read. The one rule: a part that cannot be had is named in the file, and does not cost the rest.
"""

import io
import json
import os
import sys
import tarfile
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from agent import __version__
from agent.cli.client import REQUEST_TIMEOUT_S, Node, ask, exchange, follow, node_of
from agent.cli.logs import LOGS_PATH
from agent.cli.output import CliFailed, Exit, print_json

_REST: Final = "/api/v1/mcp"
_METRICS_PATH: Final = "/metrics"


def write_bundle(args: Namespace) -> int:
    """Write the file, and say what is in it. Raises `CliFailed`: there is nothing to write, or no room for it."""
    node = node_of(args)
    parts, faults = _parts(node)
    if not parts:
        raise faults[next(iter(faults))]
    about = {"command_line": __version__, "python": sys.version.split()[0], "platform": sys.platform, "url": node.url}
    missing = {name: str(fault) for name, fault in faults.items()}
    parts["about.json"] = _json({**about, "made": _moment(), "missing": missing})
    path = Path(args.file or f"mesh-agent-debug-{_moment().replace(':', '')}.tar.gz")
    try:
        _write(path, parts)
    except OSError as exc:
        raise CliFailed(Exit.USAGE, f"{path}: cannot be written: {exc.strerror}", error="output_failed") from exc
    if args.json:
        print_json(file=str(path), parts=sorted(parts), missing=missing)
        return Exit.OK
    print(f"written to {path}: {', '.join(sorted(parts))}")
    for name, why in missing.items():
        print(f"  without {name}: {why}")
    print("Secrets are masked; names, addresses and what servers said are in it. Look at it before you send it.")
    return Exit.OK


def _parts(node: Node) -> tuple[dict[str, bytes], dict[str, CliFailed]]:
    parts, faults = dict[str, bytes](), dict[str, CliFailed]()
    for name, part in _PARTS.items():
        try:
            parts[name] = part(node)
        except CliFailed as exc:
            faults[name] = exc
        except TimeoutError:
            faults[name] = CliFailed(Exit.UNREACHABLE, f"it did not answer within {REQUEST_TIMEOUT_S:g} s")
    return parts, faults


def _of_rest(path: str) -> Callable[[Node], bytes]:
    return lambda node: _json(ask(node, "GET", f"{_REST}/{path}")[0])


def _metrics(node: Node) -> bytes:
    status, body, _, _ = exchange(node, ("GET", _METRICS_PATH, None), {}, timeout_s=REQUEST_TIMEOUT_S)
    if not body or status >= 400:  # noqa: PLR2004 - HTTP's
        raise CliFailed(Exit.UNREACHABLE, f"it answered {status}")
    return body


def _log(node: Node) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in follow(node, f"{LOGS_PATH}?level=debug"))


_PARTS: Final = MappingProxyType(
    {
        "status.json": _of_rest("status"),
        "peers.json": _of_rest("peers"),
        "servers.json": _of_rest("servers"),
        "process.json": _of_rest("debug"),
        "metrics.txt": _metrics,
        "log.jsonl": _log,
    }
)


def _write(path: Path, parts: dict[str, bytes]) -> None:
    # What servers said is in it, so it is its owner's alone.
    with (
        open(path, "xb", opener=partial(os.open, mode=0o600)) as file,
        tarfile.open(fileobj=file, mode="w:gz") as bundle,
    ):
        for name, content in sorted(parts.items()):
            entry = tarfile.TarInfo(f"mesh-agent-debug/{name}")
            entry.size, entry.mtime = len(content), int(time.time())
            bundle.addfile(entry, io.BytesIO(content))


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


def _moment() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
