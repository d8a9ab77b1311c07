"""The command line's way to a running node: where it is, the token, and one REST request.

Used by the client commands. The one rule: a token goes to the URL that the operator named and nowhere else, so
redirects and proxies of the environment are off.
"""

import json
import os
import sys
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agent.cli.output import CliFailed, Exit
from agent.config.load import read_token_file
from agent.config.values import parse_token, url_fault

DEFAULT_URL = "http://127.0.0.1:8000"
# A POST of a peer waits up to 5 s for the first attempt; twice that and a little is an answer that will not come.
REQUEST_TIMEOUT_S = 15.0
ANSWER_BYTES_MAX = 64 * 1024 * 1024
_AUTH_STATUSES = (401, 403)
_GATEWAY_STATUSES = (502, 503, 504)


@dataclass(frozen=True, slots=True)
class Node:
    """A node to talk to: its base URL without `/mcp`, and the token to send."""

    url: str
    token: str | None = field(default=None, repr=False)


def node_of(args: Namespace) -> Node:
    """Work out the node from flags, then the environment, then the default. Raises `CliFailed`, `ConfigRefused`."""
    url = (args.url or os.environ.get("MESH_URL") or DEFAULT_URL).rstrip("/").removesuffix("/mcp")
    if fault := url_fault(url):
        raise CliFailed(Exit.USAGE, f"--url or MESH_URL {fault}")
    if args.token and args.token_file:
        raise CliFailed(Exit.USAGE, "--token and --token-file are both given; leave one out")
    path = args.token_file or ("" if args.token else os.environ.get("MESH_TOKEN_FILE"))
    token = read_token_file(Path(path).expanduser())[0] if path else args.token or os.environ.get("MESH_TOKEN")
    return Node(url, checked_token(token) if token else None)


def checked_token(token: str) -> str:
    """Return a token that can travel in a header. Raises `CliFailed`."""
    try:
        return parse_token(token.strip())
    except ValueError as exc:
        raise CliFailed(Exit.USAGE, f"the token {exc}") from None


def token_from(source: str) -> str:
    """Read a token from a file, or from stdin when `source` is `-`. Raises `CliFailed`, `ConfigRefused`."""
    if source != "-":
        return read_token_file(Path(source).expanduser())[0]
    token = checked_token(sys.stdin.readline())
    if not token:
        raise CliFailed(Exit.USAGE, "no token came from stdin")
    return token


async def ask(node: Node, method: str, path: str, body: Any = None) -> tuple[Any, str]:
    """Make one REST request; return the envelope's `data` and `message`. Raises `CliFailed`."""
    import aiohttp  # noqa: PLC0415 - a fifth of a second that `version` and `--help` need not wait for

    headers = {"Authorization": f"Bearer {node.token}"} if node.token else {}
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers, trust_env=False) as session,
            session.request(method, node.url + path, json=body, allow_redirects=False) as response,
        ):
            status, raw = response.status, await response.content.read(ANSWER_BYTES_MAX)
    except (aiohttp.ClientError, OSError, TimeoutError) as exc:
        raise unreachable(node, str(exc) or "no answer in time") from exc
    return _opened(node, status, raw)


def unreachable(node: Node, reason: str) -> CliFailed:
    """Make the failure for a node that does not answer."""
    where = urlsplit(node.url).netloc
    return CliFailed(
        Exit.UNREACHABLE, f"no node answers at {where}: {reason}. Start one with `mesh-agent run`, or give its --url"
    )


def refused(node: Node, status: int) -> CliFailed:
    """Make the failure for a node that wants another token, or any."""
    if node.token is None:
        fix = "it wants a token: give --token-file or MESH_TOKEN"
    elif status == _AUTH_STATUSES[0]:
        fix = "the token is wrong"
    else:
        fix = "the token does not allow this"
    return CliFailed(Exit.AUTH, f"{node.url} answered {status}: {fix}")


def _opened(node: Node, status: int, raw: bytes) -> tuple[Any, str]:
    try:
        envelope = json.loads(raw)
    except ValueError:
        envelope = None
    if not isinstance(envelope, dict) or "success" not in envelope:
        if status in _AUTH_STATUSES:
            raise refused(node, status)
        raise CliFailed(Exit.UNREACHABLE, f"{node.url} answered {status}, but not like a mesh node; check the URL")
    message = str(envelope.get("message", ""))
    if envelope["success"] is True:
        return envelope.get("data"), message
    error = envelope.get("error")
    code = str(error.get("code", "")) if isinstance(error, dict) else ""
    # A peer's address that the dial guard forbids is a 403 too, but no question of tokens.
    if status in _AUTH_STATUSES and "dial" not in code and "address" not in code:
        raise refused(node, status)
    exit_code = Exit.UNREACHABLE if status in _GATEWAY_STATUSES else Exit.USAGE
    raise CliFailed(exit_code, f"{message or 'refused'} ({status}{f' {code}' if code else ''})")
