"""`mesh-agent servers login NAME` and `servers logout NAME`: a person's login at a server that wants OAuth.

Called by `agent.cli.parser`. The node talks with the issuer and keeps the tokens; this command shows the URL, and waits
for the browser on a loopback port, or for the URL that the browser shows in the end, pasted. The one rule: what comes
back goes to the node as it is, which alone judges it; a page that knows no login ends none.
"""

import select
import socket
import sys
import time
import webbrowser
from argparse import Namespace
from typing import Any, TextIO
from urllib.parse import quote, urlsplit

from agent.cli.client import Node, ask, node_of
from agent.cli.output import CliFailed, Exit, print_json, rows_in, with_nearest
from agent.cli.status import SERVERS_PATH
from agent.harmless_text import one_line

CALLBACK_PATH = "/callback"
_HEAD_BYTES_MAX = 16 * 1024
_HEAD_TIMEOUT_S = 5.0
_PAGE = (
    "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n"
    "Connection: close\r\nCache-Control: no-store\r\nReferrer-Policy: no-referrer\r\n\r\n{text}"
)


def log_in(args: Namespace) -> int:
    """Begin a login, wait for its end, and hand it in. Raises `CliFailed`."""
    node = node_of(args)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        begun, _ = _asked(node, "POST", args.name, {"redirect_uri": f"http://127.0.0.1:{port}{CALLBACK_PATH}"})
        url, used = str(begun.get("authorization_url", "")), str(begun.get("redirect_uri", ""))
        there = listening if urlsplit(used).port == port else _listening_at(used)
        say = sys.stderr if args.json else sys.stdout
        print(f"Open this URL in a browser and log in:\n\n  {one_line(url, 8000)}\n", file=say)
        if there is None or args.paste:
            print("Then paste the URL that the browser is led to, whether it shows a page or not:", file=say)
        else:
            print("Waiting for the browser; from another machine, paste the URL that it is led to:", file=say)
        say.flush()
        if args.open and url.startswith(("https://", "http://")):
            webbrowser.open(url)
        return _told(args, *_finished(node, args.name, used, None if args.paste else there))


def log_out(args: Namespace) -> int:
    """Have the node forget a login."""
    return _told(args, *_asked(node_of(args), "DELETE", args.name))


def _told(args: Namespace, data: dict[str, Any], message: str) -> int:
    if args.json:
        print_json(**data)
    else:
        print(one_line(message))
    return Exit.OK


def _asked(node: Node, method: str, name: str, body: dict[str, str] | None = None) -> tuple[Any, str]:
    """Ask about a login; a name that is none is answered with the nearest one. Raises `CliFailed`."""
    try:
        return ask(node, method, _path(name), body)
    except CliFailed as exc:
        if exc.error != "server_not_found":
            raise
        known = [row.get("name") for row in rows_in(ask(node, "GET", SERVERS_PATH)[0], "servers")]
        raise with_nearest(exc, name, known) from exc


def _path(name: str) -> str:
    return f"/api/v1/mcp/servers/{quote(name, safe='')}/login"


def _listening_at(redirect_uri: str) -> socket.socket | None:
    """A listener where the entry has the browser sent to, if that is on this machine."""
    parts = urlsplit(redirect_uri)
    if parts.scheme != "http" or parts.port is None:
        return None
    try:
        return socket.create_server(("127.0.0.1", parts.port))
    except OSError:
        return None


def _finished(node: Node, name: str, redirect_uri: str, there: socket.socket | None) -> tuple[dict[str, object], str]:
    """Wait for the browser or for a pasted line; what the node says to it. Raises `CliFailed`."""
    from agent.client.oauth.authorizer import LOGIN_TIMEOUT_S  # noqa: PLC0415 - as long as the node waits; not to start by

    due_s = time.monotonic() + LOGIN_TIMEOUT_S
    sources: list[socket.socket | TextIO] = [one for one in (there, sys.stdin) if one is not None]
    while sources:
        ready, _, _ = select.select(sources, [], [], max(0.0, due_s - time.monotonic()))
        if not ready:
            raise CliFailed(Exit.UNREACHABLE, f"no login within {LOGIN_TIMEOUT_S:g} s")
        if sys.stdin in ready:
            line = sys.stdin.readline()
            if line.strip():
                return _hand_in(node, name, line.strip())
            if not line:  # There is no one to paste anything.
                sources.remove(sys.stdin)
        if there is not None and there in ready and (done := _from_browser(node, name, redirect_uri, there)):
            return done
    raise CliFailed(Exit.USAGE, "no URL came from stdin")


def _from_browser(
    node: Node, name: str, redirect_uri: str, there: socket.socket
) -> tuple[dict[str, object], str] | None:
    """Serve one request; None where it had nothing to do with the login."""
    connection, _ = there.accept()
    with connection:
        connection.settimeout(_HEAD_TIMEOUT_S)
        target = _target(connection)
        wanted = urlsplit(redirect_uri)
        if not target.startswith(f"{wanted.path}?") or "state=" not in target:
            _answer(connection, "404 Not Found", "There is nothing here.")
            return None
        try:
            done = _hand_in(node, name, f"{wanted.scheme}://{wanted.netloc}{target}")
        except CliFailed as exc:
            _answer(connection, "400 Bad Request", f"The login failed: {exc}")
            if "login_not_begun" in str(exc):  # Any page may send a browser here.
                return None
            raise
        _answer(connection, "200 OK", "You are logged in, and can close this page.")
        return done


def _hand_in(node: Node, name: str, redirected_to: str) -> tuple[dict[str, object], str]:
    data, message = ask(node, "POST", f"{_path(name)}/finish", {"redirected_to": redirected_to})
    return (data if isinstance(data, dict) else {}), message


def _target(connection: socket.socket) -> str:
    """What a GET asks for; empty for anything else."""
    head = b""
    try:
        while b"\r\n\r\n" not in head and len(head) < _HEAD_BYTES_MAX:
            part = connection.recv(_HEAD_BYTES_MAX)
            if not part:
                break
            head += part
    except OSError:
        return ""
    method, _, rest = head.partition(b"\r\n")[0].decode("ascii", "replace").partition(" ")
    return rest.partition(" ")[0] if method == "GET" else ""


def _answer(connection: socket.socket, status: str, text: str) -> None:
    shown = one_line(text)
    page = _PAGE.format(status=status, length=len(shown.encode()), text=shown)
    try:
        connection.sendall(page.encode())
    except OSError:
        return  # The browser has gone.
