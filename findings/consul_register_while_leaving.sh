#!/usr/bin/env bash
# Finding: what is registered with a Consul agent while it leaves its cluster stays in the catalog, passing, for ever.
#
# Project:    Consul 1.8.7
# What:       PUT /v1/agent/leave at a client agent; in the seconds before its process ends, when it is no living member
#             any more, PUT /v1/agent/service/register with a TTL check.
# Expected:   a refusal, or an entry that goes with its agent.
# Seen:       200. The agent passes it on, so the catalog has a new Consul node with a passing check and no serfHealth;
#             its TTL is kept by the agent that is gone, so it never runs out, and no agent could take it back.
# So what:    an update of a registration at the wrong moment is a ghost that gets traffic until an operator finds it.
# Way around: look at /v1/agent/members before an update, and wait while the agent is leaving; a ghost goes by
#             PUT /v1/catalog/deregister of its Consul node.
#
# Run by hand, on Debian, with curl and python3: it downloads Consul into a temporary folder and installs nothing; a
# minute. Exit status 0: as described above. 1: the behaviour has changed. 2: it could not be tried.
set -euo pipefail
CONSUL=1.8.7+dfsg1-2+b3
folder=$(mktemp -d)
pids=()
trap 'for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; done; rm -rf "$folder"' EXIT
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

read -r -a ports < <(python3 -c 'import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(5)]
print(*(one.getsockname()[1] for one in held))')
server=http://127.0.0.1:${ports[0]} agent=http://127.0.0.1:${ports[3]}
start() { # name, HTTP port, LAN port, more configuration
	echo "{\"node_name\": \"$1\", \"data_dir\": \"$folder/$1\", \"bind_addr\": \"127.0.0.1\", \"ports\": {\"http\": $2,
		\"serf_lan\": $3, \"server\": ${ports[2]}, \"dns\": -1, \"grpc\": -1, \"serf_wan\": -1}, $4}" >"$1.json"
	./usr/bin/consul agent -config-file="$1.json" >"$1.log" 2>&1 &
	pids+=($!)
}
start server "${ports[0]}" "${ports[1]}" '"server": true, "bootstrap_expect": 1'
start client "${ports[3]}" "${ports[4]}" "\"retry_join\": [\"127.0.0.1:${ports[1]}\"], \"retry_interval\": \"1s\""
until_seen() { # URL, text
	for _ in $(seq 300); do
		curl -s "$1" | grep -q "$2" && return
		sleep 0.1
	done
	echo "could not be tried: $1 has no $2"
	exit 2
}
until_seen "$server/v1/health/node/client" '"Status":"passing"'

curl -s -X PUT "$agent/v1/agent/leave" >/dev/null &
pids+=($!)
alive() { curl -s "$agent/v1/agent/members" | python3 -c '
import json, sys
sys.exit(not any(one["Name"] == "client" and one["Status"] == 1 for one in json.load(sys.stdin)))'; }
while alive 2>/dev/null; do :; done
status=$(curl -s -o answer -w '%{http_code}' -X PUT "$agent/v1/agent/service/register" \
	-d '{"ID": "late", "Name": "web", "Port": 80, "Check": {"TTL": "10s", "Status": "passing"}}') || true
[ "$status" != 000 ] || { echo "could not be tried: the agent was gone already"; exit 2; }
wait "${pids[1]}" || true
sleep 20 # Twice its TTL.
listed=$(curl -s "$server/v1/health/service/web?passing" | grep -c '"ID":"late"' || true)
echo "registering while it left: $status; the agent's process is gone; passing entries: $listed"
[ "$status" = 200 ] && [ "$listed" = 1 ]
