"""`mesh-agent token new`, `ls` and `revoke`: the tokens file, which running nodes read again by themselves.

Called by `agent.cli.parser`. Works on the file and talks to no node, so it works on the machine of any node, or before
there is one. The one rule: a token is shown once, when it is made, and never written anywhere; the file has its hash.
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from agent import clock
from agent.authority.grant import Grant
from agent.cli.output import CliFailed, Exit, did_you_mean, print_json
from agent.cli.run import flags_of
from agent.cli.table import print_list
from agent.config.found import find_values
from agent.config.tokens_file import HASHES_MAX, NAME, NAME_RULE, SECTION, check_tokens, parse_moment
from agent.errors import ConfigRefused
from agent.state.durable_file import write_durably
from discovery.ordinary_file import open_to_read

# So that tools which look for leaked secrets know one; what follows has 256 random bits.
PREFIX: Final = "mesh_"
_RANDOM_BYTES: Final = 32
_SPAN: Final = re.compile(r"(\d{1,6})([mhdw])")
_SPAN_S: Final = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def new_token(args: Namespace) -> int:
    """Add a token to the file, and print it. Raises `CliFailed`, `ConfigRefused`."""
    name, path = _checked_name(args.name), _path(args)
    token = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    digest = hashlib.sha256(token.encode()).hexdigest()
    with _locked(path):
        tokens = _read(path)
        if args.rotate:
            tokens[name] = _rotated(tokens, name, digest)
        elif name in tokens:
            raise CliFailed(Exit.USAGE, f"there is a token named {name}; revoke it, or give --rotate for a second one")
        else:
            tokens[name] = _entry(args, digest)
        _write(path, tokens)
    if args.json:
        print_json(name=name, token=token, file=str(path))
    else:
        print(token)
    return Exit.OK


def list_tokens(args: Namespace) -> int:
    """Print the names and what each allows. Raises `ConfigRefused`."""
    path = _path(args)
    grants = [one.grant for one in check_tokens(_text(path), path)] if path.exists() else []
    rows = [_row(grant) for grant in grants]
    if args.json:
        print_json(file=str(path), tokens=rows)
    else:
        heads = ["NAME", "SCOPES", "TOOLS", "READ ONLY", "EXPIRES", "CALLS/S", "AT ONCE", "CREATED"]
        fields = ["name", "scopes", "tools", "read_only", "expires", "calls_per_s", "concurrent_calls", "created"]
        cells = [[_cell(row[field]) for field in fields] for row in rows]
        print_list(args.output, heads, cells, empty=f"no named tokens in {path}")
    return Exit.OK


def revoke_token(args: Namespace) -> int:
    """Take a name out of the file. Raises `CliFailed`, `ConfigRefused`."""
    path = _path(args)
    with _locked(path):
        tokens = _read(path)
        if args.name not in tokens:
            raise CliFailed(
                Exit.USAGE, f"there is no token named {args.name} in {path}{did_you_mean(args.name, tokens)}"
            )
        del tokens[args.name]
        _write(path, tokens)
    if args.json:
        print_json(name=args.name, file=str(path))
    else:
        print(f"{args.name} is revoked; nodes that read {path} refuse it within a second")
    return Exit.OK


def _checked_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise CliFailed(Exit.USAGE, f"{name!r} cannot be the name of a token: {NAME_RULE}")
    return name


def _path(args: Namespace) -> Path:
    """The tokens file; other settings are not looked at, so that a fault of theirs keeps no token valid."""
    text = find_values(flags_of(args), os.environ)["tokens_file"].text
    if text is None:
        raise ConfigRefused("there is no tokens file: set MESH_TOKENS_FILE or give --tokens-file FILE")
    return Path(os.path.realpath(Path(text).expanduser()))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One command at a time changes the file."""
    try:
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as exc:
        raise ConfigRefused(f"{path}: the tokens file cannot be written: {exc.strerror}") from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _text(path: Path) -> str:
    try:
        with open_to_read(path) as file:
            return file.read().decode("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigRefused(f"{path}: the tokens file cannot be read: {exc}") from exc


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    text = _text(path)
    check_tokens(text, path)
    try:
        root = json.loads(text)
    except ValueError as exc:
        raise ConfigRefused(
            f"{path}: has comments or trailing commas, which would be lost if this command wrote it; take them out"
            " (entries may have a member `comment`), or change it by hand"
        ) from exc
    tokens: dict[str, Any] = root[SECTION]
    return tokens


def _write(path: Path, tokens: dict[str, Any]) -> None:
    text = json.dumps({SECTION: tokens}, indent=2, ensure_ascii=False) + "\n"
    check_tokens(text, path)  # Refuses what a node would refuse.
    try:
        write_durably(path, text.encode(), like=path.stat() if path.exists() else None)
    except OSError as exc:
        raise ConfigRefused(f"{path}: the tokens file cannot be written: {exc.strerror}") from exc


def _entry(args: Namespace, digest: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"sha256": digest, "scopes": args.scope or ["mcp"]}
    if args.tools:
        entry["tools"] = args.tools
    if args.read_only:
        entry["read_only"] = True
    if args.expires:
        entry["expires"] = _expires(args.expires)
    for field in ("calls_per_s", "concurrent_calls"):
        if (value := getattr(args, field)) is not None:
            entry[field] = value
    made = clock.utc_now()
    return {**entry, "created": made}


def _rotated(tokens: dict[str, Any], name: str, digest: str) -> dict[str, Any]:
    if name not in tokens:
        raise CliFailed(Exit.USAGE, f"there is no token named {name} to rotate")
    known = tokens[name]["sha256"]
    listed = known if isinstance(known, list) else [known]
    return {**tokens[name], "sha256": [digest, *listed][:HASHES_MAX]}


def _expires(text: str) -> str:
    if (span := _SPAN.fullmatch(text)) is not None:
        return _moment(time.time() + int(span[1]) * _SPAN_S[span[2]])
    try:
        return _moment(parse_moment(text))
    except (ValueError, OverflowError):
        raise CliFailed(Exit.USAGE, f"--expires {text!r}: 90d, 12h, 30m, 2w or 2027-01-31T00:00:00Z") from None


def _moment(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _row(grant: Grant) -> dict[str, Any]:
    return {
        "name": grant.name,
        "scopes": sorted(grant.scopes),
        "tools": list(grant.reach.tools),
        "read_only": grant.reach.read_only,
        "expires": None if grant.until_s is None else _moment(grant.until_s),
        "expired": grant.has_ended(time.time()),
        "calls_per_s": grant.calls_per_s,
        "concurrent_calls": grant.concurrent_calls,
        "created": grant.made or None,
    }


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return None if value is False else value
