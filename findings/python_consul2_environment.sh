#!/usr/bin/env bash
# Finding: for python-consul2, CONSUL_HTTP_ADDR and CONSUL_HTTP_TOKEN beat the host and token that a program gives it.
#
# Project:    python-consul2 0.1.5 (PyPI)
# What:       two Consul agents; consul.Consul(host=..., port=..., token=...) names the second, while the environment has
#             the address of the first and another token, as a shell does in which an operator uses `consul`. Then the
#             same with CONSUL_HTTP_SSL=1, which `consul` takes for yes.
# Expected:   the second agent, asked with the token of the argument: Consul's own command line and its Go client let what
#             is said explicitly win. With CONSUL_HTTP_SSL=1 an error, as the agents speak no TLS.
# Seen:       the first agent is asked, with the token of the environment. CONSUL_HTTP_SSL counts where it is "true" and
#             nothing else, so that with 1 all goes on without TLS. The documentation mentions none of the variables.
# So what:    a program that is to copy from one agent to another has two clients of the same agent, and a job that is
#             started by hand registers with the operator's agent and rights. Neither is an error.
# Way around: take the variables out of the environment before the client is made.
#
# Run by hand, with python3-venv: it downloads small public packages into a temporary folder. Exit status 0: as described
# above. 1: the behaviour has changed. 2: it could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check python-consul2==0.1.5 \
	|| { echo "could not be tried: no registry gave the package"; exit 2; }

cat >ask.py <<'PY'
import http.server
import json
import os
import threading

import consul


def agent(name):
    """The port of one that answers each question with its name and the token that it was asked with."""

    class Agent(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps(f"{name} agent, {self.headers['X-Consul-Token']} token").encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Agent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def asked():
    return consul.Consul(host="127.0.0.1", port=second, token="argument's").agent.self()


first, second = agent("first"), agent("second")
print("nothing in the environment:", asked())
os.environ.update(CONSUL_HTTP_ADDR=f"127.0.0.1:{first}", CONSUL_HTTP_TOKEN="environment's")
print("with both variables:", asked())
os.environ["CONSUL_HTTP_SSL"] = "1"
print("and CONSUL_HTTP_SSL=1:", asked())
PY
env -u CONSUL_HTTP_ADDR -u CONSUL_HTTP_TOKEN -u CONSUL_HTTP_SSL venv/bin/python ask.py | tee seen
[ "$(cat seen)" = "nothing in the environment: second agent, argument's token
with both variables: first agent, environment's token
and CONSUL_HTTP_SSL=1: first agent, environment's token" ] || { echo "The behaviour has changed."; exit 1; }
