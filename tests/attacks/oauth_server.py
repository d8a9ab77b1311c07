"""MCP servers behind an OAuth issuer, in one process, that remember all requests and misbehave on demand.

Run with a port. `/mcp/person`, `/mcp/machine` and `/mcp/led` want tokens for themselves (RFC 8707); `/mcp/led` names an
issuer that is not the one of the others, `/mcp/lost` one at an address that is never dialled, `/mcp/papers` one that
takes a client-id metadata document. A call of `deep` wants a token with the scope `deep`. `POST /control` changes
`State`, `GET /seen` tells what came. The standard library alone. The one rule: every token and code has `MARK` in it.
"""

import base64
import hashlib
import json
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

MARK = "s1lent"
PORT = int(sys.argv[1]) if __name__ == "__main__" else 0
BASE = f"http://127.0.0.1:{PORT}"
ISSUERS = {
    "person": f"{BASE}/as",
    "machine": f"{BASE}/as",
    "batch": f"{BASE}/as",
    "led": f"{BASE}/evil",
    "lost": "http://169.254.169.254/as",
    "papers": f"{BASE}/papers",
}
MACHINE = ("node-1", f"{MARK}-secret-of-the-node")


@dataclass
class State:
    """What was given, and what goes wrong. `life_s`: of access tokens from now on."""

    life_s: float = 3600
    refuses_refresh: bool = False
    is_down: bool = False
    count: int = 0
    access: dict[str, tuple[str, float, str]] = field(default_factory=dict)
    refresh: dict[str, tuple[str, str]] = field(default_factory=dict)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    clients: dict[str, list[str]] = field(default_factory=dict)
    seen: list[dict[str, Any]] = field(default_factory=list)


STATE = State()
GIVING = threading.Lock()


def made(kind: str) -> str:
    STATE.count += 1
    return f"{MARK}-{kind}-{STATE.count:04d}-0123456789abcdef"


def tokens(resource: str, scope: str, *, refreshes: bool) -> dict[str, Any]:
    given: dict[str, Any] = {"access_token": made("access"), "token_type": "bearer", "expires_in": STATE.life_s}
    given["scope"] = scope
    STATE.access[given["access_token"]] = (resource, time.time() + STATE.life_s, scope)
    if refreshes:
        given["refresh_token"] = made("refresh")
        STATE.refresh[given["refresh_token"]] = (resource, scope)
    return given


def issuer_metadata(issuer: str) -> dict[str, Any]:
    return {
        "issuer": issuer,
        **{f"{one}_endpoint": f"{issuer}/{one}" for one in ("token", "authorization", "registration")},
        "response_types_supported": ["code"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none", "client_secret_basic"],
        "client_id_metadata_document_supported": issuer.endswith("/papers"),
    }


class Handler(BaseHTTPRequestHandler):
    """All of it."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.note()
        match parts.path:
            case "/seen":
                self.say(200, STATE.seen)
            case path if path.startswith("/.well-known/oauth-authorization-server/"):
                self.say(200, issuer_metadata(f"{BASE}/{path.rpartition('/')[2]}"))
            case "/as/authorization":
                self.authorize(query)
            case path if path.startswith("/.well-known/oauth-protected-resource/mcp/"):
                name = path.rpartition("/")[2]
                self.say(200, {"resource": f"{BASE}/mcp/{name}", "authorization_servers": [ISSUERS[name]]})
            case _:
                self.say(404, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/control":
            self.control(json.loads(body))
            return
        is_form = "form" in self.headers.get("Content-Type", "")
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()} if is_form else {}
        self.note(grant=form.get("grant_type"), scope=form.get("scope"))
        if STATE.is_down and self.path.startswith("/as/"):
            self.say(503, {})
        elif self.path == "/as/registration":
            client = made("client")
            STATE.clients[client] = json.loads(body)["redirect_uris"]
            self.say(201, {**json.loads(body), "client_id": client, "token_endpoint_auth_method": "none"})
        elif self.path in ("/as/token", "/evil/token"):
            with GIVING:
                self.give(form)
        elif self.path.startswith("/mcp/"):
            self.serve(json.loads(body))
        else:
            self.say(404, {})

    def control(self, wanted: dict[str, Any]) -> None:
        if wanted.pop("forget_access", False):
            STATE.access.clear()
        for name, value in wanted.items():
            setattr(STATE, name, value)
        self.say(200, {})

    def authorize(self, query: dict[str, str]) -> None:
        if query["redirect_uri"] not in STATE.clients.get(query["client_id"], []):
            self.say(400, {"error": "invalid_redirect_uri"})
            return
        code = made("code")
        STATE.codes[code] = query
        back = urlencode({"code": code, "state": query["state"]})
        self.send_response(302)
        self.send_header("Location", f"{query['redirect_uri']}?{back}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def give(self, form: dict[str, str]) -> None:
        """The token endpoint; a refusal repeats what was sent, as a careless one would."""
        careless = {"error": "invalid_grant", "error_description": f"no: {json.dumps(form)}"}
        match form.get("grant_type"):
            case "client_credentials":
                sent = self.headers.get("Authorization", "").removeprefix("Basic ")
                is_right = base64.b64decode(sent) == ":".join(MACHINE).encode()
                given = tokens(form["resource"], form.get("scope", ""), refreshes=False) if is_right else None
                self.say(401, careless) if given is None else self.say(200, given)
            case "authorization_code":
                asked = STATE.codes.pop(form["code"], {})
                proof = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest())
                is_right = asked.get("code_challenge") == proof.decode().rstrip("=")
                given = tokens(asked["resource"], asked.get("scope", ""), refreshes=True) if is_right else None
                self.say(400, careless) if given is None else self.say(200, given)
            case "refresh_token":
                known = None if STATE.refuses_refresh else STATE.refresh.pop(form["refresh_token"], None)
                self.say(400, careless) if known is None else self.say(200, tokens(*known, refreshes=True))
            case _:
                self.say(400, careless)

    def serve(self, message: dict[str, Any]) -> None:
        shown = self.headers.get("Authorization", "").removeprefix("Bearer ")
        resource, ends_s, scope = STATE.access.get(shown, ("", 0.0, ""))
        metadata = f"{BASE}/.well-known/oauth-protected-resource{self.path}"
        if resource == BASE + self.path and message.get("params", {}).get("name") == "deep" not in scope.split():
            more = f'Bearer error="insufficient_scope", scope="deep", resource_metadata="{metadata}"'
            self.say(403, {}, {"WWW-Authenticate": more})
            return
        if resource != BASE + self.path or time.time() > ends_s:
            self.say(401, {}, {"WWW-Authenticate": f'Bearer resource_metadata="{metadata}", scope="from-server"'})
            return
        results: dict[str, Any] = {
            "initialize": {
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "behind", "version": "1"},
            },
            "tools/list": {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in ("look", "deep")]},
            "tools/call": {"content": [{"type": "text", "text": "seen"}]},
            "ping": {},
        }
        if "id" not in message:
            self.say(202, None)
        elif message["method"] in results:
            self.say(200, {"jsonrpc": "2.0", "id": message["id"], "result": results[message["method"]]})
        else:
            error = {"code": -32601, "message": "Method not found"}
            self.say(200, {"jsonrpc": "2.0", "id": message["id"], "error": error})

    def note(self, **more: Any) -> None:
        if self.path not in ("/seen", "/control"):
            authorization = self.headers.get("Authorization", "")
            STATE.seen.append({"path": urlsplit(self.path).path, "authorization": authorization, **more})

    def say(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
