#!/usr/bin/env bash
# Two machines with Consul, on one: each is a network namespace with an address and a loopback of its own, joined by a
# cable. What is typed on each is what one types on real machines. Needs root, ip (iproute2), consul and mesh-agent.
#
#   sudo deploy/two-machines.sh            # starts both, calls a tool of one from the other, ends both
#   sudo deploy/two-machines.sh --stay     # the same, and both stay up until Ctrl-C
#
# CONSUL and AGENT name the programs, PYTHON one that has the example servers (agent.examples).
set -euo pipefail

CONSUL=${CONSUL:-consul}
read -r -a AGENT <<<"${AGENT:-mesh-agent}"
PYTHON=${PYTHON:-python3}
A=mesh-a-$$ B=mesh-b-$$
ADDRESS_A=10.77.0.1 ADDRESS_B=10.77.0.2
FOLDER=$(mktemp -d "${TMPDIR:-/tmp}/two-machines.XXXXXX")
STARTED=()

end() {
  status=$?
  trap - EXIT INT TERM
  if ((status)); then tail -n 20 "$FOLDER"/*.log || true; fi
  # The nodes say goodbye to their Consul, whose state goes with the folder.
  ((${#STARTED[@]} < 3)) || kill "${STARTED[@]:2}" 2>/dev/null || true
  ((${#STARTED[@]} < 3)) || wait "${STARTED[@]:2}" 2>/dev/null || true
  ((${#STARTED[@]} < 1)) || kill -KILL "${STARTED[@]:0:2}" 2>/dev/null || true
  wait 2>/dev/null || true
  ip netns del "$A" 2>/dev/null || true
  ip netns del "$B" 2>/dev/null || true
  rm -rf "$FOLDER"
  exit "$status"
}
trap end EXIT
trap 'exit 130' INT TERM

# on MACHINE COMMAND...: says it and does it there.
on() {
  local machine=$1
  shift
  echo "${machine%-*}\$ $*"
  ip netns exec "$machine" "$@"
}

# start MACHINE NAME COMMAND...: the same in the background, with its output in a file.
start() {
  local machine=$1 log=$FOLDER/$2.log
  shift 2
  echo "${machine%-*}\$ $* &"
  ip netns exec "$machine" "$@" >"$log" 2>&1 &
  STARTED+=($!)
}

# until_ok SECONDS COMMAND...: tries it until it is well.
until_ok() {
  local last=$((SECONDS + $1))
  shift
  until "$@" >"$FOLDER/last.txt" 2>&1; do
    if ((SECONDS >= last)); then
      echo "not in time: $*" >&2
      cat "$FOLDER/last.txt" >&2
      return 1
    fi
    sleep 0.5
  done
}

echo "# Two machines, $ADDRESS_A and $ADDRESS_B"
ip netns add "$A"
ip netns add "$B"
ip -n "$A" link add eth0 type veth peer name eth0 netns "$B"
for one in "$A $ADDRESS_A" "$B $ADDRESS_B"; do
  read -r machine address <<<"$one"
  ip -n "$machine" link set lo up
  ip -n "$machine" addr add "$address/24" dev eth0
  ip -n "$machine" link set eth0 up
done

echo "# A Consul server on the first, an agent on the second; real clusters have three servers (consul/server.hcl)"
start "$A" consul-a "$CONSUL" agent -server -bootstrap-expect=1 -node=machine-a -bind="$ADDRESS_A" \
  -data-dir="$FOLDER/consul-a" -hcl 'performance { raft_multiplier = 1 }' -log-level=warn
start "$B" consul-b "$CONSUL" agent -node=machine-b -bind="$ADDRESS_B" -retry-join="$ADDRESS_A" -retry-interval=1s \
  -data-dir="$FOLDER/consul-b" -log-level=warn
until_ok 30 ip netns exec "$B" "$CONSUL" catalog nodes

echo "# One secret and one token for both, in files that their owner alone can read"
umask 077
head -c 32 /dev/urandom | base64 >"$FOLDER/secret"
head -c 32 /dev/urandom | base64 >"$FOLDER/token"
cat >"$FOLDER/servers.json" <<JSON
{"mcpServers": {"dice": {"command": "$PYTHON", "args": ["-m", "agent.examples.dice"], "mesh": {"scope": "service"}}}}
JSON
settings=(HOST=0.0.0.0 CONSUL_HTTP_ADDR=http://127.0.0.1:8500
  MESH_TOKEN_FILE="$FOLDER/token" MESH_PEER_TOKEN_FILE="$FOLDER/secret")
start "$A" node-a env "${settings[@]}" MESH_NODE_NAME=machine-a MESH_STATE_DIR="$FOLDER/state-a" \
  MESH_SERVERS_FILE="$FOLDER/servers.json" "${AGENT[@]}" run
start "$B" node-b env "${settings[@]}" MESH_NODE_NAME=machine-b MESH_STATE_DIR="$FOLDER/state-b" "${AGENT[@]}" run

export MESH_TOKEN_FILE=$FOLDER/token
has_the_tool() { ip netns exec "$B" "${AGENT[@]}" tools ls --json | grep -q dice__roll; }
until_ok 60 has_the_tool

echo "# A tool of the first machine, called on the second"
on "$B" "${AGENT[@]}" tools call dice__roll --args '{"sides": 20}'
on "$B" "${AGENT[@]}" peers ls

if [[ ${1:-} == --stay ]]; then
  echo "# Both stay up until Ctrl-C. A shell on the second: ip netns exec $B bash"
  wait
fi
