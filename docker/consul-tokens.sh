#!/bin/sh
# Makes Consul know the tokens of docker-compose.token.yml, each with its policy, and again whenever it has lost them.
#   consul-tokens.sh TOKENS.ENV POLICIES [once]
set -eu
. "$1"
policies=$2
mark=${MARK:-/tmp/consul-has-the-tokens}

ensure() {
  name=$1 secret=$2 rules=$3
  CONSUL_HTTP_TOKEN=$secret consul acl token read -self >/dev/null 2>&1 && return 0
  export CONSUL_HTTP_TOKEN=$MANAGEMENT
  consul acl policy read -name "$name" >/dev/null 2>&1 ||
    consul acl policy create -name "$name" -rules "$rules" >/dev/null || return 1
  consul acl token create -secret="$secret" -description "$name" -policy-name "$name" >/dev/null || return 1
  echo "made the token of $name"
}

all() {
  ensure mesh-agents "$AGENT" 'node_prefix "" { policy = "write" } service_prefix "" { policy = "read" }' &&
    ensure mesh-node "$NODE" "@$policies/mesh-node.hcl" &&
    ensure prometheus "$PROMETHEUS" "@$policies/prometheus.hcl"
}

while true; do
  if all; then
    touch "$mark"
  elif [ "${3:-}" = once ]; then
    exit 1
  fi
  [ "${3:-}" = once ] && exit 0
  sleep 5
done
