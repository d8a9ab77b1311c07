#!/usr/bin/env bash
# Finding: a Consul agent takes a deregistration with a valid token, says 200, and leaves the entry passing for ever.
#
# Project:    Consul 1.8.7
# What:       three instances, each with a TTL check, of one agent with ACLs. `old` and `renewed` are registered with a
#             token that is then deleted, as when tokens are rotated; `new`, and `renewed` once more, with its
#             successor, which has the same rights. All three are deregistered with the successor.
# Expected:   none of them in the catalog, or a refusal.
# Seen:       200 three times, and the agent lists none of them any more; but `old` stays in the catalog, passing.
#             Towards the catalog the agent uses the token of the registration, not the request's, nor its own (here
#             its agent and its default token may do everything): "Service deregistration blocked by ACLs" in its log
#             is the only sign. Nobody keeps its TTL any more. After 160 s and the agent's own repair it was still
#             there.
# So what:    a service that stops cleanly after its token was rotated gets traffic until an operator finds it.
# Way around: register again with the new token before the old one is deleted. Afterwards the same helps: register it
#             once more, and deregister it.
#
# Run by hand, on Debian, with curl and python3: it downloads Consul into a temporary folder and installs nothing; a
# minute. Exit status 0: as described above. 1: the behaviour has changed. 2: it could not be tried.
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

read -r http server lan wan all < <(python3 -c '
import socket, uuid
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
print(*(one.getsockname()[1] for one in held), uuid.uuid4())')
cat >consul.json <<JSON
{"acl": {"enabled": true, "default_policy": "deny", "tokens": {"master": "$all", "agent": "$all", "default": "$all"}},
 "bind_addr": "127.0.0.1",
 "ports": {"http": $http, "server": $server, "serf_lan": $lan, "serf_wan": $wan, "dns": -1, "grpc": -1}}
JSON
usr/bin/consul agent -dev -config-file=consul.json >consul.log 2>&1 &
pid=$!

ask() { curl -s -H "X-Consul-Token: $1" "http://127.0.0.1:$http/v1/$2" "${@:3}"; } # token, path, more of curl's
put() { ask "$1" "$2" -X PUT -o answer -w '%{http_code}' -d "${3:-}"; }
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }
policy='{"Name": "web", "Rules": "service \"web\" { policy = \"write\" }"}'
for _ in $(seq 100); do
	[ "$(put "$all" acl/policy "$policy")" = 200 ] && break
	sleep 0.2
done
put "$all" acl/token '{"Policies": [{"Name": "web"}]}' >/dev/null
first=$(field SecretID <answer) first_id=$(field AccessorID <answer)
put "$all" acl/token '{"Policies": [{"Name": "web"}]}' >/dev/null
second=$(field SecretID <answer)

register() { # token, name
	put "$1" agent/service/register \
		"{\"ID\": \"$2\", \"Name\": \"web\", \"Port\": 80, \"Check\": {\"TTL\": \"10s\", \"Status\": \"passing\"}}" >/dev/null
}
passing() {
	ask "$all" "health/service/web?passing" | python3 -c '
import json, sys
print(" ".join(sorted(one["Service"]["ID"] for one in json.load(sys.stdin))) or "none")'
}
until_passing() { # names: what the catalog shall have within ten seconds
	for _ in $(seq 100); do
		[ "$(passing)" = "$1" ] && return
		sleep 0.1
	done
	echo "the catalog has $(passing), not $1"
	exit 1
}
register "$first" old
register "$first" renewed
register "$second" new
until_passing "new old renewed"
ask "$all" "acl/token/$first_id" -X DELETE >/dev/null
register "$second" renewed
sleep 1 # The agent passes it on.
for name in old renewed new; do
	echo "deregistering $name: $(put "$second" "agent/service/deregister/$name")"
done | tee seen
sleep 20 # Twice their TTL.
{
	echo "in the agent's list: $(ask "$all" agent/services)"
	echo "passing in the catalog: $(passing)"
	grep -qF 'Service deregistration blocked by ACLs: service=old' consul.log && echo "logged: blocked by ACLs"
	register "$second" old
	sleep 1
	echo "registered and deregistered again: $(put "$second" agent/service/deregister/old)"
	sleep 1
	echo "passing in the catalog: $(passing)"
} | tee -a seen
[ "$(cat seen)" = "deregistering old: 200
deregistering renewed: 200
deregistering new: 200
in the agent's list: {}
passing in the catalog: old
logged: blocked by ACLs
registered and deregistered again: 200
passing in the catalog: none" ] || { echo "The behaviour has changed."; exit 1; }
