#!/usr/bin/env bash
# Finding: python-consul2's client for asyncio drops the client certificate and the CA file that it takes.
#
# Project:    python-consul2 0.1.5, consul.aio, with aiohttp 3.14.5 (PyPI)
# What:       an agent's HTTPS port whose certificate is of a CA of its own, as Consul makes one, and which asks for a
#             client's. consul.Consul and consul.aio.Consul with the same arguments: verify="ca.pem", and
#             cert=("client.pem", "client.key").
# Expected:   both ask it, and it sees the client's certificate.
# Seen:       consul.Consul does. consul.aio.Consul refuses the agent's certificate: of `verify` it keeps that there is
#             to be checked, and checks against the CAs of the system. With verify=False it connects, and presents no
#             certificate. It says nothing of either.
# So what:    an agent with verify_incoming cannot be used from asyncio, and one with a CA of its own without checking
#             alone; both arguments are documented for the client.
# Way around: the transport is one class with four methods: give consul.base.Consul one that has an ssl.SSLContext.
#
# Run by hand, with openssl and python3-venv: it downloads small public packages into a temporary folder. Exit status 0:
# as described above. 1: the behaviour has changed. 2: it could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check python-consul2==0.1.5 aiohttp==3.14.5 \
	|| { echo "could not be tried: no registry gave the packages"; exit 2; }

openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj "/CN=Own CA" 2>/dev/null
issue() { # name, its common name
	openssl req -newkey rsa:2048 -nodes -keyout "$1.key" -out "$1.csr" -subj "/CN=$2" 2>/dev/null
	openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -out "$1.pem" -days 2 -extfile names 2>/dev/null
}
echo "subjectAltName=DNS:localhost" >names
issue agent localhost
issue client "the client"

cat >ask.py <<'PY'
import asyncio
import http.server
import json
import ssl
import threading
import warnings

import consul
import consul.aio

warnings.simplefilter("ignore")  # The client's own, when it goes.


class Agent(http.server.BaseHTTPRequestHandler):
    """Answers each question with the name in its client's certificate."""

    def do_GET(self):
        subject = (self.connection.getpeercert() or {}).get("subject", ())
        body = json.dumps(dict(one for (one,) in subject).get("commonName", "no certificate")).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Agent)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("agent.pem", "agent.key")
context.load_verify_locations("ca.pem")
context.verify_mode = ssl.CERT_OPTIONAL
server.socket = context.wrap_socket(server.socket, server_side=True)
threading.Thread(target=server.serve_forever, daemon=True).start()

where = {"host": "localhost", "port": server.server_port, "scheme": "https", "cert": ("client.pem", "client.key")}
print("consul.Consul, CA file:", consul.Consul(verify="ca.pem", **where).status.leader())


async def asked(verify):
    try:
        return await consul.aio.Consul(verify=verify, **where).status.leader()
    except Exception as exc:
        return type(exc).__name__


print("consul.aio.Consul, CA file:", asyncio.run(asked("ca.pem")))
print("consul.aio.Consul, unchecked:", asyncio.run(asked(False)))
PY
env -u CONSUL_HTTP_ADDR -u CONSUL_HTTP_SSL -u CONSUL_HTTP_SSL_VERIFY venv/bin/python ask.py | tee seen
[ "$(cat seen)" = "consul.Consul, CA file: the client
consul.aio.Consul, CA file: ClientConnectorCertificateError
consul.aio.Consul, unchecked: no certificate" ] || { echo "The behaviour has changed."; exit 1; }
