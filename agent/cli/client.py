"""The command line's way to a running node: where it is, the token, one REST request, and a stream of events.

Used by the client commands. The one rule: a token goes to the URL that the operator named and nowhere else, so
redirects and proxies of the environment are off.
"""

import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from socket import gaierror
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from agent.cli.http1 import Connection, HttpFault
from agent.cli.output import CliFailed, Exit
from agent.config.endpoint import parse_token, url_fault

if TYPE_CHECKING:
    from agent.model import TlsFiles

DEFAULT_URL = "http://127.0.0.1:8000"
# A POST of a peer waits up to 5 s for the first attempt; twice that and a little is an answer that will not come.
REQUEST_TIMEOUT_S = 15.0
# A stream shows that it lives every 15 s.
SILENCE_MAX_S = 40.0
ANSWER_BYTES_MAX = 64 * 1024 * 1024
# What a URL may hold as it is; anything else is percent-encoded, as a browser does it.
_URL_SAFE = "/%?&=:;@!$'()*+,~[]"
_HTTP_PORT, _HTTPS_PORT = 80, 443
_AUTH_STATUSES = (401, 403)
_GATEWAY_STATUSES = (502, 503, 504)


class Node:
    """A node to talk to: its base URL without `/mcp`, the token to send, and the files by which https is checked.

    No dataclass: those cost such a command more than its request.
    """

    __slots__ = ("tls", "token", "url")

    def __init__(self, url: str, token: str | None = None, tls: "TlsFiles | None" = None) -> None:
        self.url, self.token, self.tls = url, token, tls

    def __repr__(self) -> str:
        return f"<Node {self.url}>"


def node_of(args: Namespace) -> Node:
    """Work out the node from flags, then the environment, then the default. Raises `CliFailed`, `ConfigRefused`."""
    url = (args.url or os.environ.get("MESH_URL") or DEFAULT_URL).rstrip("/").removesuffix("/mcp")
    if fault := url_fault(url):
        raise CliFailed(Exit.USAGE, f"--url or MESH_URL {fault}")
    if args.token and args.token_file:
        raise CliFailed(Exit.USAGE, "--token and --token-file are both given; leave one out")
    path = args.token_file or ("" if args.token else os.environ.get("MESH_TOKEN_FILE"))
    token = _first_token(path) if path else args.token or os.environ.get("MESH_TOKEN")
    return Node(url, checked_token(token) if token else None, _tls_files(args, url))


def _tls_files(args: Namespace, url: str) -> "TlsFiles | None":
    """From flags, else the environment's, which a node reads for what it dials; None for a URL without TLS."""
    if not url.startswith("https:"):
        return None
    from agent.model import TlsFiles  # noqa: PLC0415 - most commands talk to this machine

    given = (args.cacert, args.cert, args.key)
    names = ("MESH_TLS_CA", "MESH_TLS_CERT", "MESH_TLS_KEY")
    ca, cert, key = (path or os.environ.get(name) or None for path, name in zip(given, names, strict=True))
    if args.cert and not args.key:
        key = None  # That of another certificate would not fit.
    return TlsFiles(ca, cert, key, is_checked=not args.insecure)


def checked_token(token: str) -> str:
    """Return a token that can travel in a header. Raises `CliFailed`."""
    try:
        return parse_token(token.strip())
    except ValueError as exc:
        raise CliFailed(Exit.USAGE, f"the token {exc}") from None


def token_from(source: str) -> str:
    """Read a token from a file, or from stdin when `source` is `-`. Raises `CliFailed`, `ConfigRefused`."""
    if source != "-":
        return _first_token(source)
    token = checked_token(sys.stdin.readline())
    if not token:
        raise CliFailed(Exit.USAGE, "no token came from stdin")
    return token


def _first_token(path: str) -> str:
    from pathlib import Path  # noqa: PLC0415 - most commands read none

    from agent.config.load import read_token_file  # noqa: PLC0415 - loads all that settings need, for one file

    return read_token_file(Path(path).expanduser())[0]


def ask(node: Node, method: str, path: str, body: Any = None, *, timeout_s: float | None = None) -> tuple[Any, str]:
    """Make one REST request; return the envelope's `data` and `message`. Raises `CliFailed`."""
    limit_s = REQUEST_TIMEOUT_S if timeout_s is None else timeout_s
    headers = {} if body is None else {"Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    try:
        status, raw, _, _ = exchange(node, (method, path, data), headers, timeout_s=limit_s)
    except TimeoutError as exc:
        raise unreachable(node, f"it did not answer within {limit_s:g} s") from exc
    return _opened(node, status, raw)


def exchange(
    node: Node, request: tuple[str, str, bytes | None], headers: Mapping[str, str], *, timeout_s: float
) -> tuple[int, bytes, str, Mapping[str, str]]:
    """One exchange over a connection of its own; returns the status, the whole body, its type and the headers.

    `request`: method, path and body. The headers that come back are by names in lower case.
    Raises `CliFailed` for a node that cannot be reached, `TimeoutError` for one that takes longer than `timeout_s`.
    """
    due_s = time.monotonic() + timeout_s
    method, path, data = request
    authorization = {"Authorization": f"Bearer {node.token}"} if node.token else {}
    try:
        connection, target = _connection(node, path)
        with connection:
            _open(node, connection, min(timeout_s, REQUEST_TIMEOUT_S))
            connection.limit(due_s=due_s)
            answer = connection.send(method, target, {**authorization, **headers}, data)
            return answer.status, answer.body(ANSWER_BYTES_MAX), answer.content_type, answer.headers
    except (OSError, HttpFault, UnicodeError) as exc:
        if isinstance(exc, TimeoutError) or time.monotonic() >= due_s:
            raise TimeoutError from exc
        raise unreachable(node, _reason(exc)) from exc


def _open(node: Node, connection: Connection, timeout_s: float) -> None:
    """Raises `CliFailed` for a host that does not even answer that, however long the request may take."""
    try:
        connection.open(timeout_s)
    except TimeoutError as exc:
        raise unreachable(node, f"it did not answer within {timeout_s:g} s") from exc


def follow(node: Node, path: str) -> Iterator[Any]:
    """Each event of a stream of JSON objects, until the node ends it. Raises `CliFailed`."""
    headers = {"Accept": "text/event-stream"} | ({"Authorization": f"Bearer {node.token}"} if node.token else {})
    connection, target = _connection(node, path)
    with connection:
        try:
            connection.open(SILENCE_MAX_S)
            connection.limit(silence_s=SILENCE_MAX_S)
            answer = connection.send("GET", target, headers, None)
            if answer.status != HTTPStatus.OK:
                _opened(node, answer.status, answer.body(ANSWER_BYTES_MAX))
                said = f"{node.url} answered {answer.status}, but not with a stream"
                raise CliFailed(Exit.UNREACHABLE, said, error="not_a_node")
            for line in answer.lines():
                if line.startswith(b"data:"):
                    yield json.loads(line[len(b"data:") :])
        except (OSError, HttpFault, UnicodeError, ValueError) as exc:
            silent = f"it was silent for {SILENCE_MAX_S:g} s"
            raise unreachable(node, silent if isinstance(exc, TimeoutError) else _words(exc)) from exc


def _words(exc: OSError | HttpFault | ValueError) -> str:
    if isinstance(exc, ValueError) and not isinstance(exc, UnicodeError | OSError):  # A refused certificate is both.
        return "it sends what is no JSON"
    return _reason(exc)


def _connection(node: Node, path: str) -> tuple[Connection, str]:
    """A connection that is not open yet, and the target to request there."""
    parts = urlsplit(node.url + path)
    assert parts.hostname is not None, "the URL was checked"
    target = quote(f"{parts.path}?{parts.query}" if parts.query else parts.path, safe=_URL_SAFE)
    if parts.scheme == "https":
        return _by_tls(node, parts.hostname, parts.port or _HTTPS_PORT), target
    return Connection(parts.hostname, parts.port or _HTTP_PORT), target


def _by_tls(node: Node, host: str, port: int) -> Connection:
    from agent.config.tls_files import TlsFault, dialling_context  # noqa: PLC0415 - most commands talk to this machine

    assert node.tls is not None, "made for https"
    try:
        context = dialling_context(node.tls)
    except TlsFault as fault:
        field = "cacert" if fault.field == "ca" else fault.field
        raise CliFailed(Exit.CONFIG, f"--{field} or MESH_TLS_{fault.field.upper()}: {fault}") from fault
    return Connection(host, port, tls=context)


def _reason(exc: OSError | HttpFault | ValueError) -> str:
    match exc:
        case gaierror() | UnicodeError():
            return "it has a host name that cannot be resolved"
        case ConnectionRefusedError():
            return "it refuses the connection"
        case OSError() if (said := getattr(exc, "verify_message", None)) is not None:  # ssl.SSLCertVerificationError
            return f"it has a TLS certificate that is refused: {said}; trust its authority with --cacert"
        case OSError():
            return f"it cannot be reached: {exc.strerror or exc}"
        case _:
            return f"it {exc}"


class NodeUnreachable(CliFailed):
    """There is no answer; `reason` says why, without the rest of the message."""

    reason = ""


def unreachable(node: Node, reason: str) -> NodeUnreachable:
    """Make the failure for a node that does not answer."""
    where = urlsplit(node.url).netloc
    fix = "Start one with `mesh-agent run`, or give its --url"
    failure = NodeUnreachable(Exit.UNREACHABLE, f"no node answers at {where}: {reason}. {fix}")
    failure.reason = reason
    return failure


def refused(node: Node, status: int, said: str = "") -> CliFailed:
    """Make the failure for a node that wants another token, or any; `said`: how it explains that, if it does."""
    if said:
        return CliFailed(Exit.AUTH, said, error="insufficient_scope")
    if node.token is None:
        fix, error = "it wants a token: give --token-file or MESH_TOKEN", "token_missing"
    elif status == _AUTH_STATUSES[0]:
        fix, error = "the token is wrong", "token_refused"
    else:
        fix, error = "the token does not allow this", "insufficient_scope"
    return CliFailed(Exit.AUTH, f"{node.url} answered {status}: {fix}", error=error)


def _opened(node: Node, status: int, raw: bytes) -> tuple[Any, str]:
    try:
        envelope = json.loads(raw)
    except (ValueError, RecursionError):
        envelope = None
    if not isinstance(envelope, dict) or "success" not in envelope:
        if status in _AUTH_STATUSES:
            raise refused(node, status)
        said = f"{node.url} answered {status}, but not like a mesh node; check the URL"
        raise CliFailed(Exit.UNREACHABLE, said, error="not_a_node")
    message = str(envelope.get("message", ""))
    if envelope["success"] is True:
        return envelope.get("data"), message
    error = envelope.get("error")
    code = str(error.get("code", "")) if isinstance(error, dict) else ""
    if code == "insufficient_scope":
        raise refused(node, status, message)
    # A peer's address that the dial guard forbids is a 403 too, but no question of tokens.
    if status in _AUTH_STATUSES and "dial" not in code and "address" not in code:
        raise refused(node, status)
    exit_code = Exit.UNREACHABLE if status in _GATEWAY_STATUSES else Exit.USAGE
    raise CliFailed(exit_code, f"{message or 'refused'} ({status}{f' {code}' if code else ''})", error=code)
