#!/usr/bin/env bash
# Finding: a prepared query made with python-consul2 also answers for every name that begins as its own, silently.
#
# Project:    python-consul2 0.1.5 (PyPI), query.create(), with Consul 1.8.7
# What:       query.create("web", name="web"), nothing said of a template; then the query of that name, and "webshop",
#             which there is none of, are executed. The same once more with the name's query put over HTTP. Last, a query
#             without a name, as for one that is executed by its ID, and any other word.
# Expected:   "webshop": not found. So it is for the query that went over HTTP.
# Seen:       the instances of web. The library adds a template of the type "name_prefix_match" to each query that it
#             makes, so that the name is a prefix, though its documentation has `regexp=""` for whoever wants a template.
#             The empty name is a prefix of all: that query answers for whatever there is no other query for, and Consul
#             takes one such query only, so that the second that the program makes without a name is refused.
# So what:    a mistyped name, or one whose query was deleted, is no error but leads to another service's instances,
#             by Consul's DNS (webshop.query.consul) as well.
# Way around: put the query over HTTP without "Template".
#
# Run by hand, on Debian, with curl and python3-venv: it downloads the package and Consul into a temporary folder and
# installs nothing; half a minute. Exit status 0: as described above. 1: the behaviour has changed. 2: it could not be
# tried.
set -euo pipefail
CONSUL=1.8.7+dfsg1-2+b3
folder=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || { kill "$pid"; wait "$pid" || true; } 2>/dev/null; rm -rf "$folder"' EXIT
cd "$folder"

# Of this machine's own mirror, from the older suite that had it.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -1)
mkdir -p state/lists/partial cache/archives/partial
echo "deb $mirror bullseye main" >sources
apt=(apt-get -qq -o Dir::Etc::sourcelist="$folder/sources" -o Dir::Etc::sourceparts=- -o Dir::State="$folder/state"
	-o Dir::State::status=/dev/null -o Dir::Cache="$folder/cache" -o APT::Sandbox::User=root
	-o Acquire::Check-Valid-Until=false -o Acquire::Languages=none)
"${apt[@]}" update >/dev/null 2>&1 && "${apt[@]}" download "consul=$CONSUL" >/dev/null 2>&1 \
	|| { echo "could not be tried: the mirror gave no Consul"; exit 2; }
dpkg -x consul_*.deb .
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check python-consul2==0.1.5 \
	|| { echo "could not be tried: no registry gave the package"; exit 2; }

read -r http server lan wan < <(python3 -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
print(*(one.getsockname()[1] for one in held))')
cat >consul.json <<JSON
{"bind_addr": "127.0.0.1",
 "ports": {"http": $http, "server": $server, "serf_lan": $lan, "serf_wan": $wan, "dns": -1, "grpc": -1}}
JSON
usr/bin/consul agent -dev -config-file=consul.json >consul.log 2>&1 &
pid=$!
listed=no
for _ in $(seq 100); do
	curl -s -X PUT -d '{"Name": "web", "Port": 80}' "http://127.0.0.1:$http/v1/agent/service/register" >/dev/null || true
	curl -s "http://127.0.0.1:$http/v1/catalog/services" | grep -q '"web"' && { listed=yes; break; }
	sleep 0.2
done
[ "$listed" = yes ] || { echo "could not be tried: Consul did not start"; exit 2; }

cat >ask.py <<'PY'
import json
import sys
import urllib.request

import consul

port = int(sys.argv[1])
client = consul.Consul(port=port)


def found(name):
    """The names of the services that a query leads to."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/query/{name}/execute") as answer:
            return [one["Service"]["Service"] for one in json.load(answer)["Nodes"]]
    except urllib.error.HTTPError as exc:
        return exc.read().decode()


made = client.query.create("web", name="web")["ID"]
print("made by the library: web:", found("web"), "webshop:", found("webshop"))
client.query.delete(made)

body = json.dumps({"Name": "web", "Service": {"Service": "web"}}).encode()
with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/query", body) as answer:
    made = json.load(answer)["ID"]
print("put over HTTP: web:", found("web"), "webshop:", found("webshop"))
client.query.delete(made)

client.query.create("web")
print("without a name: anything:", found("anything"))
try:
    client.query.create("web")
    print("a second one: made")
except consul.base.ConsulException as exc:
    print("a second one:", type(exc).__name__)
PY
venv/bin/python ask.py "$http" | tee seen
[ "$(cat seen)" = "made by the library: web: ['web'] webshop: ['web']
put over HTTP: web: ['web'] webshop: Query not found
without a name: anything: ['web']
a second one: ConsulException" ] || { echo "The behaviour has changed."; exit 1; }
