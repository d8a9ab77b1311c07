"""Two OAuth issuers as a resource server sees them: their metadata and keys, and how often each was asked for them.

Run with a port and a folder; `realm.json` and `other.json` there are what they publish, `opaque.json` what they know of
tokens that are no JWTs, `asked` the log of requests. It needs the standard library alone. The one rule: they sign
nothing; the tests hold their keys.
"""

import base64
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

PORT, FOLDER = int(sys.argv[1]), Path(sys.argv[2])
METADATA = "/.well-known/oauth-authorization-server/"


class Handler(BaseHTTPRequestHandler):
    """Metadata where RFC 8414 wants them for an issuer with a path."""

    def do_GET(self) -> None:
        with (FOLDER / "asked").open("a") as log:
            log.write(self.path + "\n")
        for name in ("realm", "other"):
            issuer = f"http://127.0.0.1:{PORT}/{name}"
            if self.path == METADATA + name:
                places = {"jwks_uri": f"{issuer}/keys", "introspection_endpoint": f"{issuer}/about"}
                return self.say(json.dumps({"issuer": issuer, **places}).encode())
            if self.path == f"/{name}/keys":
                return self.say((FOLDER / f"{name}.json").read_bytes())
        return self.send_error(404)

    def do_POST(self) -> None:
        body = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        with (FOLDER / "asked").open("a") as log:
            log.write(self.path + "\n")
        sent = base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic "))
        if self.path != "/realm/about" or sent != b"resource:canary-of-the-resource":
            self.send_error(401)
            return
        known = json.loads((FOLDER / "opaque.json").read_bytes())
        self.say(json.dumps(known.get(body["token"][0], {"active": False})).encode())

    def say(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
