"""`mesh-agent audit verify` and `audit tail`: the files of a node's audit, read and never written.

Called by `agent.cli.parser`. The one rule: `verify` ends with 0 only where every line is there and as it was written.
"""

import os
import sys
from argparse import Namespace
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from agent.audit.chain import ChainBroken, Head, checked, read_line
from agent.audit.files import FILE_NAME, older_files
from agent.cli.output import CliFailed, Exit, print_json, rows_in
from agent.cli.run import flags_of
from agent.config.found import find_values
from agent.config.load import default_state_dir
from agent.harmless_text import one_line
from discovery.ordinary_file import open_to_read

_MEMBERS: Final = ("seq", "time", "act", "who")
_LINE_CHARS_MAX: Final = 500


class _NoAudit(CliFailed):
    """There is no file of one."""


def verify_audit(args: Namespace) -> int:
    """Check the chain through all files. Raises `CliFailed`."""
    path = _path(args)
    head, began, broken = Head(), 0, ""
    try:
        for record, after in _records(path):
            began, head = began or record["seq"], after
    except ChainBroken as exc:
        broken = str(exc)
    if args.json:
        print_json(ok=not broken, file=str(path), first=began, last=head.seq, head=head.hash, fault=broken or None)
    elif broken:
        print(f"BROKEN after record {head.seq}: {one_line(broken)}", file=sys.stderr)
    else:
        before = f"; those before {began} are not here" if began > 1 else ""
        print(f"records {began} to {head.seq} are whole{before}; the newest has the hash {head.hash}")
    return Exit.USAGE if broken else Exit.OK


def show_tail(args: Namespace) -> int:
    """Print the newest records, whether or not the chain is whole. Raises `CliFailed`.

    Where there is no file here, those of the node that MESH_URL names.
    """
    path, newest = _path(args), deque[bytes](maxlen=max(1, args.count))
    try:
        for _, lines in _files(path):
            newest.extend(lines)
        records = [_shown(line) for line in newest]
    except _NoAudit:
        if args.file or not os.environ.get("MESH_URL"):
            raise
        records = _of_node(args.count)
    if args.json:
        print_json(records=records)
        return Exit.OK
    for record in records:
        known = " ".join(str(record.get(name, "-")) for name in _MEMBERS)
        more = " ".join(f"{name}={value}" for name, value in record.items() if name not in (*_MEMBERS, "prev", "hash"))
        print(one_line(f"{known} {more}", _LINE_CHARS_MAX))
    return Exit.OK


def _of_node(count: int) -> list[dict[str, Any]]:
    """The newest records of a running node, by the variables of its clients."""
    from agent.authority.routes import AUDIT_PATH  # noqa: PLC0415 - most have the file
    from agent.cli.client import ask, node_of  # noqa: PLC0415 - as above

    flags = dict.fromkeys(("url", "token", "token_file", "cacert", "cert", "key"))
    data, _ = ask(node_of(Namespace(**flags, insecure=False)), "GET", f"{AUDIT_PATH}?count={max(1, count)}")
    return rows_in(data, "records")


def _shown(line: bytes) -> dict[str, Any]:
    try:
        return read_line(line)[0]
    except ValueError as exc:
        return {"seq": "?", "act": "BROKEN", "why": str(exc), "line": line.decode("utf-8", "replace")[:_LINE_CHARS_MAX]}


def _records(path: Path) -> Iterator[tuple[dict[str, Any], Head]]:
    before: Head | None = None
    for one, lines in _files(path):
        try:
            for record, head in checked(lines, before):
                yield record, head
                before = head
        except ChainBroken as exc:
            raise ChainBroken(exc.number, f"{one}: {exc}") from exc


def _files(path: Path) -> Iterator[tuple[Path, list[bytes]]]:
    """The whole lines of each file, the oldest first; a node may be writing the last one."""
    for one in (*older_files(path), path):
        try:
            with open_to_read(one) as file:
                content = file.read()
        except FileNotFoundError:
            if one == path and older_files(path):
                continue  # A node is putting it beside the others.
            fix = "name its file, the node's settings, or for `tail` the node in MESH_URL"
            raise _NoAudit(Exit.CONFIG, f"there is no audit at {path}; {fix}") from None
        except OSError as exc:
            raise CliFailed(Exit.CONFIG, f"{one}: the audit cannot be read: {exc.strerror}") from exc
        yield one, content[: content.rfind(b"\n") + 1].splitlines()


def _path(args: Namespace) -> Path:
    if args.file:
        return Path(args.file).expanduser()
    found = find_values(flags_of(args), os.environ)
    if (text := found["audit_file"].text) is not None:
        return Path(text).expanduser()
    folder = found["state_dir"].text
    state = Path(folder).expanduser() if folder else default_state_dir(os.environ)
    # A folder that an operator has named is the node's alone; its parts are of earlier builds (`agent.state.identity`).
    of_port = f"port-{found['port'].text}"
    places = [state / part / FILE_NAME for part in (("", of_port, "node") if folder else (of_port, ""))]
    return next((place for place in places if place.exists() or older_files(place)), places[0])
